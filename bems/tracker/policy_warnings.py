"""What a policy may say, and hardly means."""

from decimal import Decimal

from bems.tracker.contract import STAGES
from bems.tracker.policy import Policy, Rule, StageRules, When

_NO_AMOUNT = Decimal("Infinity")


def find_warnings(policy: Policy) -> list[str]:
    """One sentence for each thing, by stage."""
    return [f"{stage}{text}" for stage in STAGES for text in _find_stage_warnings(policy.stages[stage])]


def _find_stage_warnings(rules: StageRules) -> list[str]:
    found = [f": {_raises_no_alert(rules.rule)}"] if _raises_no_alert(rules.rule) else []
    for number, (when, rule) in enumerate(rules.overrides, 1):
        # What an override does not name is as its stage says, which has been told of.
        is_own = (rule.critical_at, rule.give_up_at) != (rules.rule.critical_at, rules.rule.give_up_at)
        if is_own and _raises_no_alert(rule):
            found.append(f", override {number}: {_raises_no_alert(rule)}")
        wider = next((n for n, (other, _) in enumerate(rules.overrides[: number - 1], 1) if _covers(other, when)), None)
        if wider is not None:
            found.append(
                f", override {number}: override {wider} matches all its invoices first: move it before that one, or "
                "leave it out"
            )
    return found


def _raises_no_alert(rule: Rule) -> str | None:
    if rule.give_up_at >= rule.critical_at:
        return None
    return (
        f"give_up_at {rule.give_up_at} is below critical_at {rule.critical_at}: an invoice is parked before any alert "
        "of it is critical"
    )


def _covers(wide: When, narrow: When) -> bool:
    """Whether every invoice that the second matches is one that the first matches."""
    equal = all(getattr(wide, name) in (None, getattr(narrow, name)) for name in ("vendor_tier", "vendor", "currency"))
    from_days = wide.terms_days_from is None or (
        narrow.terms_days_from is not None and narrow.terms_days_from >= wide.terms_days_from
    )
    lowest, highest = _bounds(wide)
    narrow_lowest, narrow_highest = _bounds(narrow)
    return equal and from_days and lowest <= narrow_lowest and narrow_highest <= highest


def _bounds(when: When) -> tuple[Decimal, Decimal]:
    return (
        -_NO_AMOUNT if when.amount_from is None else when.amount_from,
        _NO_AMOUNT if when.amount_to is None else when.amount_to,
    )

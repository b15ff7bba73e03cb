"""Warnings about rules of a policy that are valid but probably not intended."""

from decimal import Decimal

from bems.tracker.contract import STAGES
from bems.tracker.policy import Policy, Rule, StageRules, When

_INFINITY = Decimal("Infinity")


def find_warnings(policy: Policy) -> list[str]:
    """Return one sentence per warning, in the order of the stages."""
    return [f"{stage}{text}" for stage in STAGES for text in _find_stage_warnings(policy.stages[stage])]


def _find_stage_warnings(rules: StageRules) -> list[str]:
    problem = _find_missing_critical_alert(rules.rule)
    found = [f": {problem}"] if problem else []
    for number, (when, rule) in enumerate(rules.overrides, 1):
        # An override that inherits these numbers from its stage is covered by the stage's warning.
        is_own = (rule.critical_at, rule.give_up_at) != (rules.rule.critical_at, rules.rule.give_up_at)
        if is_own and _find_missing_critical_alert(rule):
            found.append(f", override {number}: {_find_missing_critical_alert(rule)}")
        wider = next((n for n, (other, _) in enumerate(rules.overrides[: number - 1], 1) if _covers(other, when)), None)
        if wider is not None:
            found.append(
                f", override {number}: override {wider} matches all its invoices first: move it before that one, or "
                "leave it out"
            )
    return found


def _find_missing_critical_alert(rule: Rule) -> str | None:
    if rule.give_up_at >= rule.critical_at:
        return None
    return (
        f"give_up_at {rule.give_up_at} is below critical_at {rule.critical_at}: an invoice is parked before any alert "
        "of it is critical"
    )


def _covers(wide: When, narrow: When) -> bool:
    """Return whether `wide` matches every invoice that `narrow` matches."""
    equal = all(
        getattr(wide, name) in (None, getattr(narrow, name))
        for name in ("vendor_tier", "vendor", "currency", "buyer", "has_purchase_order")
    )
    terms_covered = wide.terms_days_from is None or (
        narrow.terms_days_from is not None and narrow.terms_days_from >= wide.terms_days_from
    )
    lowest, highest = _bounds(wide)
    narrow_lowest, narrow_highest = _bounds(narrow)
    return equal and terms_covered and lowest <= narrow_lowest and narrow_highest <= highest


def _bounds(when: When) -> tuple[Decimal, Decimal]:
    return (
        -_INFINITY if when.amount_from is None else when.amount_from,
        _INFINITY if when.amount_to is None else when.amount_to,
    )

"""API views of policies, with all defaults and all dates filled in."""

from datetime import date, datetime
from typing import Any

import msgspec
from msgspec import Struct, structs

from bems.embedded.storage.policy_history import StoredPolicy
from bems.tracker.contract import STAGES, Stage
from bems.tracker.instants import Instant, to_datetime
from bems.tracker.policy import (
    WEEKDAYS,
    ActsSpec,
    EscalationSpec,
    MatchExemption,
    OverrideSpec,
    StageSpec,
    WaitsFrom,
    Weekday,
    WhenSpec,
    describe_acts,
    describe_stages,
)
from bems.tracker.policy import Policy as TrackerPolicy


class PolicyRule(Struct, frozen=True):
    """When alerts are due.

    `escalate_every` is the time from the first alert to the second, and each further interval is `growth` times as long
    as the one before. `critical_at` is the number of the first critical alert of a wait, `give_up_at` that of the last
    one, which parks the invoice.
    """

    deadline: str
    escalate_every: str
    growth: int | float
    critical_at: int
    give_up_at: int


class PolicyOverride(PolicyRule, frozen=True):
    """The rule of invoices that meet every condition of `when`."""

    when: WhenSpec


class PolicyStage(PolicyRule, frozen=True, omit_defaults=True):
    """The rule of a stage. The first override that matches an invoice replaces it.

    `not_required` are the invoices that need no reconciliation; only that stage has it.
    """

    overrides: list[PolicyOverride]
    not_required: tuple[MatchExemption, ...] = ()


class PolicyCalendar(Struct, frozen=True):
    """The calendar in which business days are counted.

    `days_off` and `days_on` are the dates in the policy file. `all_days_off` and `all_days_on` are all dates that
    differ from the weekend rule, including the country's holidays. `country` is null if a program created the policy.
    """

    country: str | None
    subdivision: str | None
    timezone: str
    weekend: list[Weekday]
    days_off: list[date]
    days_on: list[date]
    all_days_off: list[date]
    all_days_on: list[date]


class PolicySummary(Struct, frozen=True):
    """A policy's identity and the period in which it is in force.

    `source` is `default` or the location of the policy file, `digest` a hash of all rules that affect decisions.
    """

    digest: str
    source: str
    in_force_from: datetime | None
    in_force_until: datetime | None


class Policy(PolicySummary, frozen=True):
    """A policy with all defaults filled in.

    `critical_amount_from` has the amounts by currency below which no alert is critical, and `acts` the commands that
    need a second person.
    """

    calendar: PolicyCalendar
    stages: dict[Stage, PolicyStage]
    waits_from: WaitsFrom
    identity: bool
    critical_amount_from: dict[str, str]
    acts: ActsSpec


def view_policy(
    policy: TrackerPolicy, source: str, since: Instant | None = None, until: Instant | None = None
) -> Policy:
    """Return the view of a policy in force from `since` to `until`, or of one not in force."""
    spec, calendar = policy.calendar_spec, policy.calendar
    stages = describe_stages(policy.stages, policy.match_exemptions)
    return Policy(
        policy.digest,
        source,
        None if since is None else to_datetime(since),
        None if until is None else to_datetime(until),
        PolicyCalendar(
            spec.country if spec else None,
            spec.subdivision if spec else None,
            calendar.timezone,
            [WEEKDAYS[weekday] for weekday in sorted(calendar.weekend)],
            sorted(spec.days_off) if spec else [],
            sorted(spec.days_on) if spec else [],
            sorted(day for day in calendar.days_off if day.weekday() not in calendar.weekend),
            sorted(day for day in calendar.days_on if day.weekday() in calendar.weekend),
        ),
        {stage: _view_stage(getattr(stages, stage)) for stage in STAGES},
        policy.waits_from,
        policy.identity,
        {currency: format(amount, "f") for currency, amount in sorted(policy.critical_amounts.items())},
        describe_acts(policy.acts),
    )


def _view_stage(spec: StageSpec) -> PolicyStage:
    overrides = [{**_rule(override), "when": override.when} for override in spec.overrides or ()]
    exemptions = getattr(spec, "not_required", ())
    return msgspec.convert({**_rule(spec), "overrides": overrides, "not_required": exemptions}, PolicyStage)


def _rule(spec: StageSpec | OverrideSpec) -> dict[str, Any]:
    escalation = spec.escalate or EscalationSpec(spec.escalate_every or "")
    return {
        "deadline": spec.deadline,
        "escalate_every": escalation.every,
        "growth": escalation.growth,
        "critical_at": spec.critical_at,
        "give_up_at": spec.give_up_at,
    }


def view_stored_policy(kept: StoredPolicy) -> Policy:
    """Return the view of a stored policy. Raise StoreUnusable if this version cannot read it."""
    return structs.replace(view_policy(kept.load(), kept.source, kept.since, kept.until), digest=kept.digest)


def summarize_policy(kept: StoredPolicy) -> PolicySummary:
    """Return the summary of a stored policy."""
    until = None if kept.until is None else to_datetime(kept.until)
    return PolicySummary(kept.digest, kept.source, to_datetime(kept.since), until)

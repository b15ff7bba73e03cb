"""API views of policies, with all defaults and all dates filled in."""

from datetime import date, datetime

import msgspec
from msgspec import Struct, structs

from bems.embedded.storage.policy_history import StoredPolicy
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant, to_datetime
from bems.tracker.policy import WEEKDAYS, StageSpec, WaitsFrom, Weekday, WhenSpec, describe_stages
from bems.tracker.policy import Policy as TrackerPolicy


class PolicyRule(Struct, frozen=True):
    """When alerts are due.

    `critical_at` is the number of the first critical alert of a wait, `give_up_at` that of the last one, which parks
    the invoice.
    """

    deadline: str
    escalate_every: str
    critical_at: int
    give_up_at: int


class PolicyOverride(PolicyRule, frozen=True):
    """The rule of invoices that meet every condition of `when`."""

    when: WhenSpec


class PolicyStage(PolicyRule, frozen=True):
    """The rule of a stage. The first override that matches an invoice replaces it."""

    overrides: list[PolicyOverride]


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
    """A policy with all defaults filled in."""

    calendar: PolicyCalendar
    stages: dict[Stage, PolicyStage]
    waits_from: WaitsFrom
    identity: bool


def view_policy(
    policy: TrackerPolicy, source: str, since: Instant | None = None, until: Instant | None = None
) -> Policy:
    """Return the view of a policy in force from `since` to `until`, or of one not in force."""
    spec, calendar = policy.calendar_spec, policy.calendar
    stages: dict[Stage, StageSpec] = structs.asdict(describe_stages(policy.stages))  # type: ignore[assignment]
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
        {stage: msgspec.convert(msgspec.to_builtins(spec), PolicyStage) for stage, spec in stages.items()},
        policy.waits_from,
        policy.identity,
    )


def view_stored_policy(kept: StoredPolicy) -> Policy:
    """Return the view of a stored policy. Raise StoreUnusable if this version cannot read it."""
    return structs.replace(view_policy(kept.load(), kept.source, kept.since, kept.until), digest=kept.digest)


def summarize_policy(kept: StoredPolicy) -> PolicySummary:
    """Return the summary of a stored policy."""
    until = None if kept.until is None else to_datetime(kept.until)
    return PolicySummary(kept.digest, kept.source, to_datetime(kept.since), until)

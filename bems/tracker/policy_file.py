"""The policy file: a policy with its dates, as JSON, so that reading it needs neither PyYAML nor holidays."""

from dataclasses import replace
from datetime import date
from typing import Literal

import msgspec
from msgspec import Struct

from bems.tracker.policy import (
    WEEKDAYS,
    CalendarSpec,
    Policy,
    StagesSpec,
    WaitsFrom,
    Weekday,
    assemble_policy,
    describe_stages,
)


class ExpandedPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON document. `days_off` and `days_on` are all the dates, the country's too; `calendar` is what the policy
    says of it, which has been heeded already."""

    version: Literal[1]
    timezone: str
    weekend: tuple[Weekday, ...]
    days_off: tuple[date, ...]
    stages: StagesSpec
    days_on: tuple[date, ...] = ()
    calendar: CalendarSpec | None = None
    waits_from: WaitsFrom = "decision"
    identity: bool = True


def dump_policy(policy: Policy) -> bytes:
    """A policy as JSON, the same bytes for equal policies that were made from the same calendar."""
    calendar = policy.calendar
    expanded = ExpandedPolicy(
        1,
        calendar.timezone,
        tuple(WEEKDAYS[weekday] for weekday in sorted(calendar.weekend)),
        tuple(sorted(calendar.days_off)),
        describe_stages(policy.stages),
        tuple(sorted(calendar.days_on)),
        policy.calendar_spec,
        policy.waits_from,
        policy.identity,
    )
    return msgspec.json.encode(expanded)


def load_policy(document: bytes) -> Policy:
    """The policy that `dump_policy` wrote; ValueError for anything else."""
    try:
        expanded = msgspec.json.decode(document, type=ExpandedPolicy)
    except msgspec.DecodeError as fault:
        raise ValueError(f"not an expanded policy: {fault}") from None
    policy = assemble_policy(
        expanded.timezone,
        frozenset(expanded.days_off),
        expanded.weekend,
        expanded.stages,
        frozenset(expanded.days_on),
        expanded.calendar,
    )
    return replace(policy, waits_from=expanded.waits_from, identity=expanded.identity)

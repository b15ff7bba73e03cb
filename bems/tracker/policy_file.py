"""Policy file: an expanded policy as JSON, which a function reads without PyYAML and the holidays library."""

from dataclasses import replace
from datetime import date
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bems.tracker.contract import Amount
from bems.tracker.policy import (
    WEEKDAYS,
    ActsSpec,
    CalendarSpec,
    Policy,
    StagesSpec,
    WaitsFrom,
    Weekday,
    assemble_policy,
    describe_acts,
    describe_stages,
    read_acts,
    read_critical_amounts,
)


class ExpandedPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """JSON document of an expanded policy.

    `days_off` and `days_on` hold all dates, the country's included. `calendar` is the spec from which they were built.
    """

    version: Literal[1]
    timezone: str
    weekend: tuple[Weekday, ...]
    days_off: tuple[date, ...]
    stages: StagesSpec
    days_on: tuple[date, ...] = ()
    calendar: CalendarSpec | None = None
    waits_from: WaitsFrom = "decision"
    identity: bool = True
    # Without these, the document must stay that of versions before they existed.
    critical_amount_from: dict[str, Amount] | UnsetType = UNSET
    acts: ActsSpec | UnsetType = UNSET


def policy_to_json(policy: Policy) -> bytes:
    """Encode a policy as JSON. Equal policies with the same calendar spec give the same bytes."""
    calendar = policy.calendar
    expanded = ExpandedPolicy(
        1,
        calendar.timezone,
        tuple(WEEKDAYS[weekday] for weekday in sorted(calendar.weekend)),
        tuple(sorted(calendar.days_off)),
        describe_stages(policy.stages, policy.match_exemptions),
        tuple(sorted(calendar.days_on)),
        policy.calendar_spec,
        policy.waits_from,
        policy.identity,
        {currency: format(amount, "f") for currency, amount in sorted(policy.critical_amounts.items())} or UNSET,
        describe_acts(policy.acts) if policy.acts else UNSET,
    )
    return msgspec.json.encode(expanded)


def policy_from_json(document: bytes) -> Policy:
    """Decode a policy that `policy_to_json` encoded. Raise ValueError for any other document."""
    try:
        expanded = msgspec.json.decode(document, type=ExpandedPolicy)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an expanded policy: {error}") from None
    policy = assemble_policy(
        expanded.timezone,
        frozenset(expanded.days_off),
        expanded.weekend,
        expanded.stages,
        frozenset(expanded.days_on),
        expanded.calendar,
    )
    return replace(
        policy,
        waits_from=expanded.waits_from,
        identity=expanded.identity,
        critical_amounts=read_critical_amounts(expanded.critical_amount_from or {}),
        acts=read_acts(expanded.acts or ActsSpec()),
    )

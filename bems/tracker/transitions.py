"""Transitions: rows of the time series, one per new event, alert, park, revive, dormant and command.

The rows of an invoice form a chain: each row's `from_` values are the `to_` values of the row before, and only rows of
kind `event` and `command` change them. Therefore the counts and amounts of a status and currency in the series (the sum
of the `to_` values minus the sum of the `from_` values) equal those of the records.

A superseded event also has a row, because the series is the audit trail. The recorder adds the cell's name.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct

from bems.tracker.actions import Severity
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant
from bems.tracker.status import Status

TransitionKind = Literal["event", "alert", "park", "revive", "dormant", "command"]


class Transition(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Row of the time series.

    `recorded_at` is unique within an invoice and never goes backwards, even if the writers' clocks do. `decided_at` is
    the clock's time at the decision, and `policy_digest` identifies the policy that was applied.

    `transition_id` identifies what happened, so readers can deduplicate rows that are written twice. `lag_ms` is
    `recorded_at` minus `received_at` in milliseconds, for events and commands. `amount` and `currency` are those that
    the event states, or else the invoice's; the `from_` and `to_` values are the invoice's before and after. `source`
    (the system), `attributes`, `reason` (its code), `paid_on`, `paid_amount` and
    `discount_taken` are those of the event. `actor` is who caused the
    event or command. `number`, `issue_date` and `buyer` (its id) are the invoice's.

    `first_deadline` is set if the row ends a stay: the stage that `from_status` waits for is in time if this row
    completes it by then. `next_first_deadline` is set if the row begins a stay.
    """

    transition_id: str
    invoice_id: str
    kind: TransitionKind
    stage: Stage
    recorded_at: Instant
    from_status: Status | None
    to_status: Status
    amount: Decimal
    currency: str
    vendor_id: str
    vendor_tier: str | None = None
    terms_days: int | None = None
    due_date: date | None = None
    outcome: str | None = None
    event_id: str | None = None
    superseded: bool = False
    occurred_at: Instant | None = None
    received_at: Instant | None = None
    lag_ms: int | None = None
    step: int | None = None
    severity: Severity | None = None
    decided_at: Instant | None = None
    policy_digest: str | None = None
    from_amount: Decimal | None = None
    from_currency: str | None = None
    to_amount: Decimal | None = None
    to_currency: str | None = None
    source: str | None = None
    attributes: dict[str, str] = {}
    number: str | None = None
    issue_date: date | None = None
    buyer: str | None = None
    actor: str | None = None
    actor_kind: Literal["person", "system"] | None = None
    reason: str | None = None
    paid_on: date | None = None
    paid_amount: Decimal | None = None
    discount_taken: Decimal | None = None
    first_deadline: Instant | None = None
    next_first_deadline: Instant | None = None

"""Transitions: the time series, one multi-measure record per new event, alert, park, revive and command.

The rows of an invoice are a chain: each row's `from_` values are the `to_` values of the row before, and only rows of
kind `event` and `command` change them. So the counts and amounts that the series gives for a status and currency, the
sum of what came in less the sum of what went out, are those of the records.

A superseded event has its row too: the series is the audit trail. Which cell recorded it is the recorder's to add.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct

from bems.tracker.actions import Severity
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant
from bems.tracker.status import Status

TransitionKind = Literal["event", "alert", "park", "revive", "command"]


class Transition(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One row. `recorded_at` is unique within an invoice and never goes back, whatever the clocks of its writers do;
    `decided_at` is the clock of the decision, `policy_digest` the policy that it was decided by.

    `transition_id` says what happened, so a row that is written twice is known to be one. `lag_ms` is recorded minus
    received, for events and commands. `amount` and `currency` are what the event stated, or else the invoice's;
    `from_amount` and its like are the invoice's before and after. `source` (the system) and `attributes` are those of
    the event.
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

"""Transitions: rows of the time series, one per new event, alert, park, revive and command.

The rows of an invoice form a chain: each row's `from_` values are the `to_` values of the row before, and only rows of
kind `event` and `command` change them. Therefore the counts and amounts of a status and currency in the series (the sum
of the `to_` values minus the sum of the `from_` values) equal those of the records.

A superseded event also has a row, because the series is the audit trail. The recorder adds the cell's name.
"""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Struct

from bems.tracker.actions import Severity
from bems.tracker.columns import AMOUNT, BOOLEAN, DATE, INT, LONG, OBJECT, STRING, TIMESTAMP, Column
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant
from bems.tracker.status import Status

TransitionKind = Literal["event", "alert", "park", "revive", "command"]


class Transition(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Row of the time series. Each field is annotated with its column."""

    transition_id: Annotated[str, Column(5, STRING, "its id; a row that is written twice has the same id")]
    invoice_id: Annotated[str, Column(2, STRING, "the invoice", "dimension")]
    kind: Annotated[TransitionKind, Column(6, STRING, "`event`, `alert`, `park`, `revive` or `command`")]
    stage: Annotated[
        Stage,
        Column(3, STRING, "of the event or command; otherwise the stage that the invoice waits for", "measure name"),
    ]
    recorded_at: Annotated[
        Instant, Column(4, TIMESTAMP, "unique within an invoice and always increasing, even if clocks go back", "time")
    ]
    from_status: Annotated[Status | None, Column(7, STRING, "the invoice's status before; its first row has none")]
    to_status: Annotated[Status, Column(8, STRING, "the invoice's status after")]
    amount: Annotated[Decimal, Column(12, AMOUNT, "as stated by the event, otherwise the invoice's")]
    currency: Annotated[str, Column(13, STRING, "likewise")]
    vendor_id: Annotated[str, Column(14, STRING, "likewise")]
    vendor_tier: Annotated[str | None, Column(15, STRING, "likewise")] = None
    terms_days: Annotated[int | None, Column(16, INT, "likewise")] = None
    due_date: Annotated[date | None, Column(17, DATE, "likewise")] = None
    outcome: Annotated[str | None, Column(9, STRING, "status of an event, kind of an alert, verb of a command")] = None
    event_id: Annotated[
        str | None, Column(10, STRING, "the event; for an alert, its cause; for a command, `command ` and its id")
    ] = None
    superseded: Annotated[bool, Column(11, BOOLEAN, "whether a later outcome of its stage was already known")] = False
    occurred_at: Annotated[Instant | None, Column(18, TIMESTAMP, "of events and commands")] = None
    received_at: Annotated[Instant | None, Column(19, TIMESTAMP, "of events and commands")] = None
    lag_ms: Annotated[
        int | None, Column(20, LONG, "recorded minus received, in milliseconds; of events and commands")
    ] = None
    step: Annotated[
        int | None, Column(21, INT, "number of an alert within its wait; for a command, of the wait's alerts so far")
    ] = None
    severity: Annotated[Severity | None, Column(22, STRING, "of an alert")] = None
    decided_at: Annotated[Instant | None, Column(23, TIMESTAMP, "the clock at the time of the decision")] = None
    policy_digest: Annotated[str | None, Column(24, STRING, "the applied policy; see `bems policy history`")] = None
    from_amount: Annotated[Decimal | None, Column(25, AMOUNT, "the invoice's amount before")] = None
    from_currency: Annotated[str | None, Column(26, STRING, "the invoice's currency before")] = None
    to_amount: Annotated[Decimal | None, Column(27, AMOUNT, "the invoice's amount after")] = None
    to_currency: Annotated[str | None, Column(28, STRING, "the invoice's currency after")] = None
    source: Annotated[str | None, Column(29, STRING, "the system that sent the event")] = None
    attributes: Annotated[dict[str, str], Column(30, OBJECT, "of the event, as a JSON object")] = {}

"""The record of an invoice: the truth. An execution is a timer with a picture, and can be started again at any time."""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct

from bems.tracker.actions import Action
from bems.tracker.contract import Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.status import Outcome
from bems.tracker.transitions import Transition

MAX_REMEMBERED_EVENTS = 32
"""How many of the newest event ids a record remembers. An older repeat changes nothing either: its register stands."""

Stamp = tuple[Instant, int]
"""When a state was entered and how often it was retried (`$$.State.EnteredTime`, `$$.State.RetryCount`)."""


Mark = Literal["parked", "dormant"]
"""Parked: given up after its last alert. Dormant: waited for without an execution, until its next event or alert."""


class Run(Struct, frozen=True, omit_defaults=True):
    """The newest execution of the invoice's state machine, and what it registered last.

    `closing`: it has been given, or owes itself, its end. `number` 0: there has been none. `silent_since`: when the
    sweep raised an alert that the execution should have asked for; 0 since it was last heard of.
    """

    number: int = 0
    state: Literal["none", "open", "closing"] = "none"
    started_at: Instant = 0
    token: str | None = None
    stage: Stage | None = None
    stamp: Stamp = (0, 0)
    silent_since: Instant = 0


class Wait(Struct, frozen=True, omit_defaults=True):
    """What the invoice waits for. `step` alerts have been raised, the next is due at `due`; `acknowledged` of them an
    operator has seen; `ended_runs` executions ended by themselves meanwhile.

    `due` is kept and not asked of the policy each time, so a new policy holds from the next alert on, and business days
    are counted once an alert. `base` is the step at which an operator last extended the wait: alerts up to it no longer
    count. `counted_from` is what the deadline counts from, where that is not `since`."""

    stage: Stage
    since: Instant
    deadline: Instant
    due: Instant
    step: int = 0
    acknowledged: int = 0
    ended_runs: int = 0
    base: int = 0
    extensions: int = 0
    extended_by: str | None = None
    counted_from: Instant | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether an alert is out that no extension has answered."""
        return self.step > self.base


class Parked(Struct, frozen=True, omit_defaults=True):
    """A wait that was given up: by an operator, or by its last alert (`by` None)."""

    at: Instant
    stage: Stage
    since: Instant
    step: int
    by: str | None = None


class Received(Struct, frozen=True, omit_defaults=True, array_like=True):
    """What a `received` event says an invoice is, to tell it from another one under the same id.

    Every record has one or two, so it is written without the names of its fields."""

    occurred_at: Instant
    event_id: str
    amount: Decimal
    currency: str
    vendor_id: str
    due_date: date | None = None

    def differs_from(self, other: "Received") -> bool:
        """Whether they describe two invoices; a due date that only one of them states is no difference."""
        due_dates = {self.due_date, other.due_date} - {None}
        return (self.amount, self.currency, self.vendor_id) != (other.amount, other.currency, other.vendor_id) or len(
            due_dates
        ) > 1


IdentityAlert = Literal["vendor", "reused"]
"""Two vendors use one invoice id; or an id is used again, for another invoice, after the first one was closed."""


_STORED_NAMES = {
    "facts_version": "facts_of",
    "terms_version": "terms_of",
    "tier_version": "tier_of",
    "recent_event_ids": "seen",
    "reported_disputes": "reported",
}
"""Fields that are stored under an earlier name: records of before stay readable."""


class InvoiceRecord(Struct, frozen=True, omit_defaults=True, rename=_STORED_NAMES):
    """Everything that is known of an invoice. `version` counts its writes; a write is conditional on the one before.

    `facts` are those of the newest event (`facts_version`: its occurred_at and event_id). Payment terms and the
    vendor's tier stay those of the newest event that stated any (`terms_version`; `tier_version` adds the vendor's id
    and tier): a system that does not know them must not erase them.

    `parked` says what the mark `parked` gave up. What identity alerts are raised from: the first four vendors' ids,
    the earliest and the newest `received` (None: the earliest is the newest too), and the earliest occurrence of
    `posted` or `cancelled`, whether superseded or not.
    """

    invoice_id: str
    facts: Facts
    facts_version: tuple[Instant, str]
    terms_version: tuple[Instant, str] | None = None
    tier_version: tuple[Instant, str, str, str] | None = None
    version: int = 0
    outcomes: dict[Stage, Outcome] = {}
    recent_event_ids: tuple[tuple[str, str], ...] = ()
    run: Run = Run()
    wait: Wait | None = None
    mark: Mark | None = None
    parked: Parked | None = None
    reported_disputes: dict[Stage, str] = {}
    vendor_ids: tuple[str, ...] = ()
    first_received: Received | None = None
    last_received: Received | None = None
    closed_at: Instant | None = None
    identity_alerts: tuple[IdentityAlert, ...] = ()
    pending: tuple[Action, ...] = ()
    check_at: Instant | None = None
    changes: tuple[Transition, ...] = ()
    recorded_at: Instant = 0

    @property
    def stuck_since(self) -> Instant | None:
        """Since when it is waited for, if it is stuck: an alert is out in its present wait, or it is parked."""
        if self.mark == "parked":
            return self.parked.since if self.parked else self.recorded_at
        return self.wait.since if self.wait is not None and self.wait.is_stuck else None

    @property
    def is_stuck(self) -> bool:
        """Whether an alert of its present wait is out, or it is parked."""
        return self.stuck_since is not None

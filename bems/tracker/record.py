"""Record of an invoice: the single source of truth.

An execution is only a timer with a diagram: it holds no state of its own, and can be restarted at any time.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct

from bems.tracker.actions import Action, Severity
from bems.tracker.contract import Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.status import Outcome, Status, status_of
from bems.tracker.transitions import Transition

MAX_REMEMBERED_EVENTS = 32
"""Number of newest event ids that a record keeps. A repeat of an older event does not change its outcome either."""

MAX_POSTINGS = 16
"""Number of newest `posted` events whose instants a record keeps."""

MAX_REMEMBERED_COMMANDS = 32
"""Number of newest command ids that a record keeps."""

OPTIONAL_FACTS = ("number", "issue_date", "buyer", "purchase_orders")
"""Facts of an invoice that an event may leave out, besides the payment terms."""

Stamp = tuple[Instant, int]
"""When a state was entered, and how often it was retried (`$$.State.EnteredTime`, `$$.State.RetryCount`)."""


Mark = Literal["parked", "dormant"]
"""`parked`: given up, by an operator or after the last alert. `dormant`: waits without an execution, because its
executions keep failing, until its next event or alert."""


class Run(Struct, frozen=True, omit_defaults=True):
    """Newest execution of the invoice's state machine, and its last registration.

    `number` is 0 if there has been none. In the state `closing` the execution has ended or is about to end.
    `silent_since` is when the sweep raised an alert that the execution should have asked for; 0 if the execution has
    called since.
    """

    number: int = 0
    state: Literal["none", "open", "closing"] = "none"
    started_at: Instant = 0
    token: str | None = None
    stage: Stage | None = None
    stamp: Stamp = (0, 0)
    silent_since: Instant = 0


class Wait(Struct, frozen=True, omit_defaults=True):
    """Current wait of an invoice for a stage's event.

    `step` alerts have been raised, of which an operator has acknowledged the first `acknowledged`; the next is due at
    `due`. During the wait, `ended_runs` executions failed, timed out or were aborted.

    `due` is stored, not computed from the policy on each use: a new policy takes effect with the next alert, and
    business days are counted once per alert. `base` is the step at which an operator last extended the wait; alerts up
    to it no longer count. `counted_from` is the start of the deadline, if that is not `since`.

    `alerted` are the severities of the alerts since the wait began or was last extended; their receivers are told when
    the wait ends. Until `snoozed_until`, no alert is raised.
    """

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
    alerted: tuple[Severity, ...] = ()
    snoozed_until: Instant | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether an alert has been raised since the wait began or was last extended."""
        return self.step > self.base


class Parked(Struct, frozen=True, omit_defaults=True):
    """Wait that was given up by the operator `by`, or by its last alert (`by` is None)."""

    at: Instant
    stage: Stage
    since: Instant
    step: int
    by: str | None = None


class Stay(Struct, frozen=True, omit_defaults=True, array_like=True):
    """Time that an invoice spends waiting for one stage, over all its waits for it.

    The stage is in time if it is completed by `first_deadline`, the deadline of the first wait: extensions, snoozes and
    restarted waits do not move it.
    """

    stage: Stage
    since: Instant
    first_deadline: Instant


class ManualOutcome(Struct, frozen=True, omit_defaults=True):
    """Outcome that an operator recorded by hand."""

    status: str
    operator: str
    at: Instant
    confirmed_by: str | None = None


class Note(Struct, frozen=True, omit_defaults=True):
    """Newest note of an operator."""

    text: str
    operator: str
    at: Instant


class Received(Struct, frozen=True, omit_defaults=True, array_like=True):
    """Identity of an invoice as a `received` event states it, to detect another invoice under the same id.

    Every record stores one or two, so it is encoded as an array, without field names.
    """

    occurred_at: Instant
    event_id: str
    amount: Decimal
    currency: str
    vendor_id: str
    due_date: date | None = None

    def differs_from(self, other: "Received") -> bool:
        """Return whether they describe two invoices. A due date that only one of them states is no difference."""
        due_dates = {self.due_date, other.due_date} - {None}
        return (self.amount, self.currency, self.vendor_id) != (other.amount, other.currency, other.vendor_id) or len(
            due_dates
        ) > 1


IdentityAlert = Literal["vendor", "reused"]
"""`vendor`: two vendors use one invoice id. `reused`: the id is used for another invoice after the first was closed."""


_STORED_NAMES = {
    "facts_version": "facts_of",
    "terms_version": "terms_of",
    "tier_version": "tier_of",
    "recent_event_ids": "seen",
    "reported_disputes": "reported",
}
"""Stored names of fields that were renamed, so that stored records stay readable."""


class InvoiceRecord(Struct, frozen=True, omit_defaults=True, rename=_STORED_NAMES):
    """State of an invoice. `version` counts its writes; each write is conditional on the previous version.

    `facts` are those of the newest event (`facts_version`: its occurred_at and event_id). Payment terms and the
    vendor's tier are those of the newest event that states any (`terms_version`; `tier_version` adds the vendor's id
    and tier), so a source system that does not know them does not erase them.

    `outcomes` holds the newest outcome of each stage, its register. `recent_event_ids` pairs the newest event ids with
    their digests. `parked` is the wait that was given up when `mark` became `parked`. `reported_disputes` holds the
    event id of the last reported dispute by stage.

    Identity alerts are raised from `vendor_ids` (the first four), `first_received` and `last_received` (None if the
    first is also the last), and `closed_at`, the earliest occurrence of `posted` or `cancelled`, superseded or not.

    `stated_versions` are the versions of the facts that an event may leave out (`OPTIONAL_FACTS`), by name: each keeps
    the newest value that any event stated. Without `match_required`, the invoice needs no reconciliation.
    `manual_outcomes` are the newest outcomes that operators recorded, by stage. `unalerted_disputes` are those of
    `reported_disputes` that were imported, for which no alert was raised. `postings` are the newest instants at which
    `posted` events occurred, if there is more than one, and `failed_at` when the newest `failed` one occurred.

    `pending` are the actions to carry out, `check_at` is when the sweep must look at the record, `changes` are the
    transitions of the last write, and `recorded_at` is the instant of the last transition.
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
    stated_versions: dict[str, tuple[Instant, str]] = {}
    match_required: bool = True
    stay: Stay | None = None
    manual_outcomes: dict[Stage, ManualOutcome] = {}
    unalerted_disputes: dict[Stage, str] = {}
    postings: tuple[Instant, ...] = ()
    failed_at: Instant | None = None
    assignee: str | None = None
    note: Note | None = None
    recent_command_ids: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        return status_of(self.outcomes, self.match_required)

    @property
    def posted_on(self) -> Instant | None:
        """When the invoice was posted: the earliest `posted` since the newest `failed`; None if it is not posted."""
        posting = self.outcomes.get("posting")
        if posting is None or posting.status != "posted":
            return None
        since_failure = (at for at in self.postings if self.failed_at is None or at > self.failed_at)
        return min(since_failure, default=posting.occurred_at)

    @property
    def stuck_since(self) -> Instant | None:
        """Start of the wait of a stuck invoice (see `is_stuck`); None if it is not stuck."""
        if self.mark == "parked":
            return self.parked.since if self.parked else self.recorded_at
        return self.wait.since if self.wait is not None and self.wait.is_stuck else None

    @property
    def is_stuck(self) -> bool:
        """Whether an alert of the current wait has been raised and not extended, or the invoice is parked."""
        return self.stuck_since is not None

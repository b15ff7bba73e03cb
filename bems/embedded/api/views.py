"""Response types of the API, and functions that build them. Times are RFC 3339 in UTC, amounts decimal strings."""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct, structs

from bems.embedded.api.pages import write_cursor
from bems.embedded.auth.keys import Key as StoredKey
from bems.embedded.execution_histories import ExecutionHistories
from bems.embedded.storage.reader import Reader
from bems.embedded.storage.reader import Total as StoredTotal
from bems.embedded.storage.store import AuditEntry
from bems.embedded.storage.store import DeadLetter as StoredDeadLetter
from bems.tracker.actions import Alert as StoredAlert
from bems.tracker.actions import AlertKind, Severity, execution_name
from bems.tracker.contract import Actor, Buyer, PaymentBody, PaymentTerms, Reason, Source, Stage, Vendor
from bems.tracker.currencies import render_amount
from bems.tracker.instants import Instant, to_datetime
from bems.tracker.record import InvoiceRecord, Mark, Wait
from bems.tracker.record import Note as StoredNote
from bems.tracker.record import Parked as StoredParked
from bems.tracker.requests import Role
from bems.tracker.status import WAITS_FOR, Status
from bems.tracker.status import Outcome as StoredOutcome
from bems.tracker.transitions import Transition as StoredTransition
from bems.tracker.transitions import TransitionKind

MAX_TIMELINE_ROWS = 1_000
"""Maximum number of an invoice's time-series rows that one request reads."""

MAX_EXECUTIONS = 10
"""Maximum number of an invoice's executions in its details; the newest are returned."""


MAX_HISTORY_EVENTS = 100
"""Maximum number of history events of each execution in an invoice's details; the first are returned, and
`/executions/{name}/history` lists the others."""


class CurrentWait(Struct, frozen=True, omit_defaults=True):
    """An invoice's current wait for the next stage.

    `step` is the number of alerts raised in this wait, and `severity` that of the newest one. `acknowledged` is the
    number of alerts that an operator has acknowledged. `extensions` is the number of times that the deadline was moved,
    and `extended_by` the operator of the last time; the invoice is not stuck until the next alert. `counted_from` is
    the time from which the deadline is counted, if it differs from `since`, as it does for imported events.
    `snoozed_until` is the time until which no alert is raised.
    """

    stage: Stage
    since: datetime
    deadline: datetime
    next_alert_at: datetime
    step: int
    acknowledged: int
    severity: Severity | None = None
    extensions: int = 0
    extended_by: str | None = None
    counted_from: datetime | None = None
    snoozed_until: datetime | None = None


class Note(Struct, frozen=True):
    """The newest note of an operator."""

    text: str
    operator: str
    at: datetime


class Parked(Struct, frozen=True, omit_defaults=True):
    """A wait that was parked at `at`, by the operator `by`, or by its last alert if there is no `by`."""

    at: datetime
    stage: Stage
    since: datetime
    step: int
    by: str | None = None


class Invoice(Struct, frozen=True, omit_defaults=True):
    """An invoice in a list.

    `stage` is the stage whose event is missing; a parked invoice has it too, but no `waiting`. `stuck` is true if the
    current wait has raised an alert, or the invoice is parked. `number` is the supplier's invoice number.
    """

    invoice_id: str
    status: Status
    stage: Stage | None
    stuck: bool
    amount: str
    currency: str
    vendor: Vendor
    recorded_at: datetime
    waiting: CurrentWait | None = None
    mark: Mark | None = None
    parked: Parked | None = None
    number: str | None = None
    issue_date: date | None = None
    buyer: Buyer | None = None
    assignee: str | None = None
    note: Note | None = None


class Outcome(Struct, frozen=True, omit_defaults=True):
    """The latest outcome of a stage.

    It has the source and attributes of its event, or the operator and note of the command that recorded it by hand.
    `actor` is who decided, and `reason` why. `payment` is the payment of a posted invoice.
    """

    status: str
    event_id: str
    occurred_at: datetime
    received_at: datetime
    source: Source | None = None
    attributes: dict[str, str] = {}
    operator: str | None = None
    note: str = ""
    actor: Actor | None = None
    reason: Reason | None = None
    payment: PaymentBody | None = None


class ManualOutcome(Struct, frozen=True, omit_defaults=True):
    """The latest outcome of a stage that an operator recorded by hand, even if an event has a newer outcome."""

    status: str
    operator: str
    at: datetime
    confirmed_by: str | None = None


class Transition(Struct, frozen=True, omit_defaults=True):
    """A row of the time series.

    `actor` is who caused the event or command, and `reason` the code of its reason. `first_deadline` is the deadline of
    the stage that the invoice has left with this row, and `next_first_deadline` that of the stage that it has reached:
    of the first wait, whatever was extended.
    """

    transition_id: str
    kind: TransitionKind
    stage: Stage
    recorded_at: datetime
    from_status: Status | None
    to_status: Status
    amount: str
    currency: str
    outcome: str | None = None
    event_id: str | None = None
    superseded: bool = False
    occurred_at: datetime | None = None
    received_at: datetime | None = None
    lag_ms: int | None = None
    step: int | None = None
    severity: Severity | None = None
    terms_days: int | None = None
    due_date: date | None = None
    source: str | None = None
    attributes: dict[str, str] = {}
    policy_digest: str | None = None
    number: str | None = None
    issue_date: date | None = None
    buyer: str | None = None
    actor: str | None = None
    actor_kind: Literal["person", "system"] | None = None
    reason: str | None = None
    paid_on: date | None = None
    paid_amount: str | None = None
    discount_taken: str | None = None
    first_deadline: datetime | None = None
    next_first_deadline: datetime | None = None


class Alert(Struct, frozen=True, omit_defaults=True):
    """An alert, or the message that a wait with alerts was resolved.

    `step` is the alert's number in a wait, from 1; it is 0 for kinds other than `stuck` and `resolved`. All alerts of a
    wait have the same `incident`. `open_stages` are the stages without a positive outcome, and `negative_outcomes` the
    negative ones by stage.
    """

    id: str
    invoice_id: str
    kind: AlertKind
    stage: Stage
    severity: Severity
    step: int
    waiting_since: datetime
    due_at: datetime
    raised_at: datetime
    amount: str
    currency: str
    vendor: Vendor
    event_id: str | None = None
    last: bool = False
    detail: str | None = None
    incident: str = ""
    open_stages: tuple[Stage, ...] = ()
    negative_outcomes: dict[Stage, str] = {}


class Event(Struct, frozen=True):
    """An accepted event of an invoice.

    `event` is the event as it was sent, with times in UTC. `applied` is false for a dead letter, whose processing
    failed. `superseded` is true if a later outcome of its stage was already known.
    """

    stage: Stage
    event: dict[str, Any]
    received_at: datetime
    applied: bool
    superseded: bool


class Total(Struct, frozen=True):
    """The number and amount of the invoices of a status and currency.

    `stuck` is the number of stuck invoices, and `parked` the number of parked ones among them.
    """

    status: Status
    currency: str
    invoices: int
    amount: str
    stuck: int
    stuck_amount: str
    parked: int


class Execution(Struct, frozen=True):
    """An execution of the state machine.

    `history` is the start of its history in the format of Step Functions' GetExecutionHistory. `next_cursor` is the
    cursor of `/executions/{name}/history` for the rest, or null if the history is complete.
    """

    name: str
    run: int
    status: str
    history: list[dict[str, Any]]
    next_cursor: str | None = None


class Command(Struct, frozen=True, omit_defaults=True):
    """An operator's command and its result.

    With the result `requested`, another operator must confirm it by `confirm_by`. `confirmed_by` is who confirmed it.
    """

    command_id: str
    invoice_id: str
    operator: str
    verb: str
    accepted_at: datetime
    result: str
    reason: str = ""
    note: str = ""
    stage: Stage | None = None
    until: datetime | None = None
    assignee: str | None = None
    confirmed_by: str | None = None
    confirm_by: datetime | None = None


class InvoiceDetails(Invoice, frozen=True, omit_defaults=True):
    """All stored data of an invoice. Transitions, alerts and commands are newest first, at most 1,000 of each.

    `posted_on` is when the invoice was posted: the earliest posting since the newest failure. Without `match_required`,
    the policy requires no reconciliation.
    """

    payment_terms: PaymentTerms | None = None
    source: Source | None = None
    attributes: dict[str, str] | None = None
    purchase_orders: tuple[str, ...] = ()
    posted_on: datetime | None = None
    match_required: bool = True
    outcomes: dict[Stage, Outcome] = {}
    recorded_by_hand: dict[Stage, ManualOutcome] = {}
    transitions: list[Transition] = []
    alerts: list[Alert] = []
    commands: list[Command] = []
    executions: list[Execution] = []


class DeadLetter(Struct, frozen=True):
    """An accepted event whose processing failed. If `retry_at` is null, an operator must redrive it."""

    event_id: str
    invoice_id: str
    attempts: int
    failed_at: datetime
    retry_at: datetime | None
    error: str


class Key(Struct, frozen=True):
    """A key without its text."""

    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    revoked_by: str | None


class Health(Struct, frozen=True):
    """Health of the cell. `store`, `analytics` and `deliveries` are `ok` or `failing`, or the reason of the failure if
    the request has the key of a viewer. The response is 503 if the store fails."""

    status: Literal["ok", "failing"]
    cell: str
    now: str
    store: str
    analytics: str
    deliveries: str


def view_invoice(record: InvoiceRecord, reader: Reader) -> Invoice:
    """Return the view of an invoice in a list."""
    status, facts, wait = record.status, record.facts, record.wait
    return Invoice(
        record.invoice_id,
        status,
        WAITS_FOR[status],
        record.is_stuck,
        _format_amount(facts.amount),
        facts.currency,
        facts.vendor,
        to_datetime(record.recorded_at),
        _view_wait(record.invoice_id, wait, reader) if wait else None,
        record.mark,
        _view_parked(record.parked) if record.parked else None,
        facts.number,
        facts.issue_date,
        facts.buyer,
        record.assignee,
        _view_note(record.note) if record.note else None,
    )


def _view_note(note: StoredNote) -> Note:
    return Note(note.text, note.operator, to_datetime(note.at))


def _view_parked(parked: StoredParked) -> Parked:
    return Parked(to_datetime(parked.at), parked.stage, to_datetime(parked.since), parked.step, parked.by)


def _view_wait(invoice_id: str, wait: Wait, reader: Reader) -> CurrentWait:
    severity = None
    if wait.step:
        alerts = reader.newest_alerts(invoice_id=invoice_id, stage=wait.stage, limit=10)
        severity = next(
            (alert.severity for _, alert in alerts if alert.kind == "stuck" and alert.step == wait.step), None
        )
    since, deadline, due = to_datetime(wait.since), to_datetime(wait.deadline), to_datetime(wait.due)
    return CurrentWait(
        wait.stage,
        since,
        deadline,
        due,
        wait.step,
        wait.acknowledged,
        severity,
        wait.extensions,
        wait.extended_by,
        _to_optional_datetime(wait.counted_from),
        _to_optional_datetime(wait.snoozed_until),
    )


def view_details(record: InvoiceRecord, reader: Reader, histories: ExecutionHistories) -> InvoiceDetails:
    """Return the view of an invoice with all its data."""
    facts, id = record.facts, record.invoice_id
    return InvoiceDetails(
        **structs.asdict(view_invoice(record, reader)),
        payment_terms=facts.payment_terms,
        source=facts.source,
        attributes=facts.attributes,
        purchase_orders=facts.purchase_orders,
        posted_on=_to_optional_datetime(record.posted_on),
        match_required=record.match_required,
        recorded_by_hand={
            stage: ManualOutcome(manual.status, manual.operator, to_datetime(manual.at), manual.confirmed_by)
            for stage, manual in record.manual_outcomes.items()
        },
        outcomes={stage: _view_outcome(outcome, reader) for stage, outcome in record.outcomes.items()},
        transitions=[view_transition(row) for row in reader.timeline(id)],
        alerts=[view_alert(alert) for _, alert in reader.newest_alerts(invoice_id=id, limit=1_000)],
        commands=[view_command(entry) for _, entry in reader.commands(invoice_id=id, limit=1_000)],
        executions=list(_view_executions(record, reader, histories)),
    )


def _view_outcome(outcome: StoredOutcome, reader: Reader) -> Outcome:
    shown = Outcome(
        outcome.status, outcome.event_id, to_datetime(outcome.occurred_at), to_datetime(outcome.received_at)
    )
    event = reader.event(outcome.event_id)
    if event is not None:
        return structs.replace(
            shown,
            source=event.facts.source,
            attributes=event.facts.attributes,
            actor=event.actor,
            reason=event.reason,
            payment=event.to_body().get("payment"),
        )
    entry = reader.command_of(outcome.event_id)
    return structs.replace(shown, operator=entry.command.operator, note=entry.command.note) if entry else shown


def view_events(
    invoice_id: str, reader: Reader, after: tuple[str, int], limit: int
) -> tuple[list[Event], tuple[str, int] | None]:
    """Return a page of an invoice's events, and the `after` of the next page; None if there is none.

    Dead letters come first, in the order of their event ids, then applied events, newest first. `after` contains the
    event id of the last dead letter on the previous pages, and the number of time-series rows read for them.
    """
    last_letter, rows_before = after
    letters = reader.dead_letters(invoice_id=invoice_id, after=last_letter, limit=limit + 1)
    shown = [one for letter in letters[:limit] if (one := _view_event(letter.event_id, reader, applied=False))]
    if len(letters) > limit:
        return shown, (letters[limit - 1].event_id, rows_before)
    last_letter = letters[-1].event_id if letters else last_letter
    rows = reader.timeline(invoice_id, limit=MAX_TIMELINE_ROWS, offset=rows_before)
    taken = 0
    for row in rows:
        if len(shown) >= limit:
            break
        taken += 1
        if row.kind == "event" and row.event_id is not None:
            one = _view_event(row.event_id, reader, applied=True, superseded=row.superseded)
            shown += [one] if one else []
    more = taken < len(rows) or len(rows) == MAX_TIMELINE_ROWS
    return shown, (last_letter, rows_before + taken) if more else None


def _view_event(event_id: str, reader: Reader, *, applied: bool, superseded: bool = False) -> Event | None:
    event = reader.event(event_id)
    if event is None:
        return None
    return Event(event.stage, event.to_body(), to_datetime(event.received_at), applied, superseded)


def view_total(total: StoredTotal) -> Total:
    """Return the view of a total. Amounts have as many decimals as their currency."""
    values = total._asdict()
    for name in ("amount", "stuck_amount"):
        values[name] = render_amount(values[name], total.currency)
    return Total(**values)


def _view_executions(record: InvoiceRecord, reader: Reader, histories: ExecutionHistories) -> Iterable[Execution]:
    for run in range(record.run.number, max(0, record.run.number - MAX_EXECUTIONS), -1):
        name = execution_name(record.invoice_id, run)
        execution = reader.execution(name)
        if execution is not None:
            events, following = view_history(name, histories, 0, MAX_HISTORY_EVENTS)
            cursor = write_cursor(history_cursor_name(name), *following) if following else None
            yield Execution(name, run, execution.status, events, cursor)


def history_cursor_name(name: str) -> str:
    """Return the list name in the cursors of an execution's history."""
    return f"history of {name}"


def view_history(
    name: str, histories: ExecutionHistories, after: int, limit: int
) -> tuple[list[dict[str, Any]], tuple[int] | None]:
    """Return the page of an execution's history after its first `after` events, and the position of the next page."""
    events = histories.history_of(name, after, limit + 1)
    more = len(events) > limit
    return events[:limit], (after + limit,) if more else None


def view_transition(row: StoredTransition) -> Transition:
    """Return the view of a time-series row. It omits the vendor, which is part of the invoice."""
    return Transition(
        row.transition_id,
        row.kind,
        row.stage,
        to_datetime(row.recorded_at),
        row.from_status,
        row.to_status,
        _format_amount(row.amount),
        row.currency,
        row.outcome,
        row.event_id,
        row.superseded,
        _to_optional_datetime(row.occurred_at),
        _to_optional_datetime(row.received_at),
        row.lag_ms,
        row.step,
        row.severity,
        row.terms_days,
        row.due_date,
        row.source,
        row.attributes,
        row.policy_digest,
        row.number,
        row.issue_date,
        row.buyer,
        row.actor,
        row.actor_kind,
        row.reason,
        row.paid_on,
        None if row.paid_amount is None else _format_amount(row.paid_amount),
        None if row.discount_taken is None else _format_amount(row.discount_taken),
        _to_optional_datetime(row.first_deadline),
        _to_optional_datetime(row.next_first_deadline),
    )


def view_alert(alert: StoredAlert) -> Alert:
    """Return the view of an alert, with facts of its invoice."""
    facts = alert.facts
    return Alert(
        alert.id,
        alert.invoice_id,
        alert.kind,
        alert.stage,
        alert.severity,
        alert.step,
        to_datetime(alert.waiting_since),
        to_datetime(alert.due_at),
        to_datetime(alert.raised_at),
        _format_amount(facts.amount),
        facts.currency,
        facts.vendor,
        alert.event_id,
        alert.last,
        alert.detail,
        alert.incident,
        alert.open_stages,
        alert.negative_outcomes,
    )


def view_command(entry: AuditEntry) -> Command:
    """Return the view of a command, with its result."""
    command, receipt = entry.command, entry.receipt
    until = getattr(command.verb, "until", None)
    return Command(
        command.id,
        command.invoice_id,
        command.operator,
        command.name,
        to_datetime(command.accepted_at),
        receipt.result,
        receipt.reason,
        command.note,
        getattr(command.verb, "stage", None),
        _to_optional_datetime(until),
        getattr(command.verb, "assignee", None),
        command.confirmed_by,
        _to_optional_datetime(receipt.confirm_by),
    )


def view_dead_letter(letter: StoredDeadLetter) -> DeadLetter:
    """Return the view of a dead letter."""
    failed_at, retry_at = to_datetime(letter.failed_at), _to_optional_datetime(letter.retry_at)
    return DeadLetter(letter.event_id, letter.invoice_id, letter.attempts, failed_at, retry_at, letter.error)


def view_key(key: StoredKey) -> Key:
    """Return the view of a key, without its hash."""
    values = structs.asdict(key)
    return Key(
        **{**values, "created_at": to_datetime(key.created_at), "revoked_at": _to_optional_datetime(key.revoked_at)}
    )


def _to_optional_datetime(instant: Instant | None) -> datetime | None:
    return None if instant is None else to_datetime(instant)


def _format_amount(amount: Decimal) -> str:
    return format(amount, "f")

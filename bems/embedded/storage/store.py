"""The store: what the cell keeps. It has one writer, whose writes of one turn become durable together or not at all."""

from collections.abc import Iterable
from heapq import heappop, heappush, heapreplace
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert
from bems.tracker.commands import Command
from bems.tracker.contract import Event
from bems.tracker.decisions import Receipt
from bems.tracker.instants import LATEST, Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition


class DueItem(NamedTuple):
    """Something that wants to be looked at: an execution's timer by its id, or a record's check_at by its invoice."""

    at: Instant
    kind: Literal["timer", "check"]
    key: str


class AuditEntry(Struct, frozen=True):
    """An operator's command, with what became of it."""

    command: Command
    receipt: Receipt


class DeadLetter(Struct, frozen=True):
    """An accepted event whose handling raised `error`, for the nth time.

    `retry_at`: when it is tried again; None: it is set aside, a dead letter, until somebody has it redriven.
    """

    event_id: str
    invoice_id: str
    attempts: int
    failed_at: Instant
    retry_at: Instant | None
    error: str


class Store(Protocol):
    """A store has one writer. Its reads see what the writer wrote in the same turn."""

    def record(self, invoice_id: str) -> InvoiceRecord | None: ...

    def put_record(self, record: InvoiceRecord) -> None: ...

    def records(self) -> Iterable[InvoiceRecord]: ...

    def execution(self, id: str) -> Execution | None: ...

    def add_execution(self, execution: Execution, definition: str) -> None:
        """A new one. `definition` is the digest of the machine that it is started with. It keeps it."""
        ...

    def append_stimulus(self, execution: Execution, stimulus: Stimulus, at: Instant) -> None:
        """The execution as one more stimulus left it, which is kept too."""
        ...

    def definition_of(self, execution_id: str) -> str | None:
        """The digest of the machine that the execution was started with; None for the only one there is."""
        ...

    def definition(self, digest: str) -> str:
        """The text of a machine's definition. KeyError for one that was never kept."""
        ...

    def next_due(self) -> DueItem | None:
        """What is due first. It stays until its record or execution is put anew."""
        ...

    def digest(self, event_id: str) -> str | None:
        """The digest of the accepted event of that id."""
        ...

    def add_event(self, event: Event) -> None: ...

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]: ...

    def add_transitions(self, transitions: tuple[Transition, ...]) -> None: ...

    def add_alert(self, alert: Alert) -> None:
        """A decision repeats no alert; one that comes twice all the same is known by its id."""
        ...

    def command(self, id: str) -> AuditEntry | None:
        """What the audit log says of the command of that id."""
        ...

    def add_command(self, entry: AuditEntry) -> None: ...


class MemoryStore:
    """A store without a disk, for replay and tests.

    Transitions are handed on in the order in which they come, so that they need not be kept; an execution that is over
    is forgotten, unless `keep_history` is asked for. There is one definition, that of the cell.
    """

    def __init__(self, *, keep_history: bool = False) -> None:
        self._transitions: list[Transition] = []
        self.alerts: list[Alert] = []
        self._records: dict[str, InvoiceRecord] = {}
        self._executions: dict[str, Execution] = {}
        self._digests: dict[str, str] = {}
        self._commands: dict[str, AuditEntry] = {}
        self._due: list[DueItem] = []
        self._queued: dict[str, dict[str, Instant]] = {"timer": {}, "check": {}}
        self._keep_history = keep_history
        self._stimuli: dict[str, list[tuple[Stimulus, Instant]]] = {}

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        return self._records.get(invoice_id)

    def put_record(self, record: InvoiceRecord) -> None:
        self._records[record.invoice_id] = record
        if record.check_at is not None:
            self._queue(record.check_at, "check", record.invoice_id)

    def records(self) -> Iterable[InvoiceRecord]:
        return self._records.values()

    def execution(self, id: str) -> Execution | None:
        return self._executions.get(id)

    def add_execution(self, execution: Execution, definition: str) -> None:  # noqa: ARG002
        self._put_execution(execution)

    def append_stimulus(self, execution: Execution, stimulus: Stimulus, at: Instant) -> None:
        self._put_execution(execution)
        if self._keep_history:
            self._stimuli.setdefault(execution.id, []).append((stimulus, at))

    def _put_execution(self, execution: Execution) -> None:
        if execution.is_finished and not self._keep_history:
            self._executions.pop(execution.id, None)
            return
        self._executions[execution.id] = execution
        due = execution.due
        if due is not None:
            self._queue(due, "timer", execution.id)

    def definition_of(self, execution_id: str) -> str | None:  # noqa: ARG002
        return None

    def definition(self, digest: str) -> str:
        raise KeyError(digest)

    def _queue(self, at: Instant, kind: Literal["timer", "check"], key: str) -> None:
        """Queue what is due earlier than its entry says; what is due later moves on when the entry comes up."""
        queued = self._queued[kind]
        if at < queued.get(key, LATEST):
            queued[key] = at
            heappush(self._due, DueItem(at, kind, key))

    def next_due(self) -> DueItem | None:
        while self._due:
            entry = self._due[0]
            at, kind, key = entry
            queued = self._queued[kind]
            if kind == "check":
                actual = self._records[key].check_at
            else:
                execution = self._executions.get(key)
                actual = execution.due if execution else None
            if actual == at:
                return entry
            if actual is None or queued[key] != at:
                heappop(self._due)
                if queued.get(key) == at:
                    del queued[key]
            else:
                queued[key] = actual
                heapreplace(self._due, DueItem(actual, kind, key))
        return None

    def digest(self, event_id: str) -> str | None:
        return self._digests.get(event_id)

    def add_event(self, event: Event) -> None:
        self._digests[event.event_id] = event.digest

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]:
        return self._stimuli.get(execution_id, [])

    def add_transitions(self, transitions: tuple[Transition, ...]) -> None:
        self._transitions.extend(transitions)

    def drain_transitions(self) -> list[Transition]:
        """Those that came since the last time."""
        taken, self._transitions = self._transitions, []
        return taken

    def add_alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def command(self, id: str) -> AuditEntry | None:
        return self._commands.get(id)

    def add_command(self, entry: AuditEntry) -> None:
        self._commands[entry.command.id] = entry

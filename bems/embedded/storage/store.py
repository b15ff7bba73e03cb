"""Store of a cell. It has one writer, whose changes of one group become durable together or not at all."""

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
    """Due timer of an execution, with the execution's id as `key`, or due check of a record, with its invoice id."""

    at: Instant
    kind: Literal["timer", "check"]
    key: str


class AuditEntry(Struct, frozen=True):
    """An operator's command with its receipt."""

    command: Command
    receipt: Receipt


class DeadLetter(Struct, frozen=True):
    """Accepted event whose handling has raised `attempts` times, the last time `error`.

    `retry_at` is the instant of the next retry. None: the event is set aside until an operator redrives it.
    """

    event_id: str
    invoice_id: str
    attempts: int
    failed_at: Instant
    retry_at: Instant | None
    error: str


class Store(Protocol):
    """Store with one writer. Reads see what the writer wrote in the same group."""

    def record(self, invoice_id: str) -> InvoiceRecord | None: ...

    def put_record(self, record: InvoiceRecord) -> None: ...

    def records(self) -> Iterable[InvoiceRecord]: ...

    def execution(self, id: str) -> Execution | None: ...

    def add_execution(self, execution: Execution, definition: str) -> None:
        """Add a new execution. `definition` is the digest of its machine, which never changes."""
        ...

    def append_stimulus(self, execution: Execution, stimulus: Stimulus, at: Instant) -> None:
        """Store the execution's new state together with the stimulus that caused it."""
        ...

    def definition_of(self, execution_id: str) -> str | None:
        """Return the digest of the execution's machine; None if the store has only one machine."""
        ...

    def definition(self, digest: str) -> str:
        """Return the text of a machine's definition. Raises KeyError for an unknown digest."""
        ...

    def next_due(self) -> DueItem | None:
        """Return the item that is due first. It stays due until its record or execution is stored again."""
        ...

    def digest(self, event_id: str) -> str | None:
        """Return the digest of the accepted event with this id."""
        ...

    def add_event(self, event: Event) -> None: ...

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]: ...

    def add_transitions(self, transitions: tuple[Transition, ...]) -> None: ...

    def add_alert(self, alert: Alert) -> None:
        """Add an alert. Decisions raise each alert once; a repeat would have the same id."""
        ...

    def command(self, id: str) -> AuditEntry | None:
        """Return the audit log's entry of the command with this id."""
        ...

    def add_command(self, entry: AuditEntry) -> None: ...


class MemoryStore:
    """Store in memory, for replay and tests.

    The caller drains transitions with `drain_transitions`, so that they do not accumulate. Finished executions and all
    stimuli are discarded unless `keep_history` is set. There is one definition, that of the cell.
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
        """Queue an item that is due earlier than its entry. One that is due later is moved when its entry comes up."""
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
        """Return the transitions added since the last call."""
        taken, self._transitions = self._transitions, []
        return taken

    def add_alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def command(self, id: str) -> AuditEntry | None:
        return self._commands.get(id)

    def add_command(self, entry: AuditEntry) -> None:
        self._commands[entry.command.id] = entry

"""The store: what the cell keeps. It has one writer, whose writes of one turn become durable together or not at all."""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Literal, NamedTuple, Protocol

from bems.engine import Execution, Stimulus
from bems.tracker.actions import Alert
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition


class Due(NamedTuple):
    """Something that wants to be looked at: an execution's timer by its id, or a record's check_at by its invoice."""

    at: Instant
    kind: Literal["timer", "check"]
    key: str


class Store(Protocol):
    """A store has one writer. Its reads see what the writer wrote in the same turn."""

    def record(self, invoice_id: str) -> InvoiceRecord | None: ...

    def put_record(self, record: InvoiceRecord) -> None: ...

    def records(self) -> Iterable[InvoiceRecord]: ...

    def execution(self, id: str) -> Execution | None: ...

    def put_execution(self, execution: Execution) -> None: ...

    def next_due(self) -> Due | None:
        """What is due first, if it still is; one look per entry, so `put` it again to see it again."""
        ...

    def digest(self, event_id: str) -> str | None:
        """The digest of the accepted event of that id."""
        ...

    def add_event(self, event: Event) -> None: ...

    def add_stimulus(self, execution_id: str, stimulus: Stimulus, at: Instant) -> None: ...

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]: ...

    def add_transitions(self, transitions: tuple[Transition, ...]) -> None: ...

    def add_alert(self, alert: Alert) -> None: ...


class MemoryStore:
    """A store without a disk, for replay and tests.

    Transitions are handed on in the order in which they come, so that they need not be kept; an execution that is over
    is forgotten, unless `keep_history` is asked for.
    """

    def __init__(self, *, keep_history: bool = False) -> None:
        self._transitions: list[Transition] = []
        self.alerts: list[Alert] = []
        self._records: dict[str, InvoiceRecord] = {}
        self._executions: dict[str, Execution] = {}
        self._digests: dict[str, str] = {}
        self._due: list[Due] = []
        self._keep_history = keep_history
        self._stimuli: dict[str, list[tuple[Stimulus, Instant]]] = {}

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        return self._records.get(invoice_id)

    def put_record(self, record: InvoiceRecord) -> None:
        before = self._records.get(record.invoice_id)
        self._records[record.invoice_id] = record
        if record.check_at is not None and (before is None or before.check_at != record.check_at):
            heappush(self._due, Due(record.check_at, "check", record.invoice_id))

    def records(self) -> Iterable[InvoiceRecord]:
        return self._records.values()

    def execution(self, id: str) -> Execution | None:
        return self._executions.get(id)

    def put_execution(self, execution: Execution) -> None:
        if execution.finished and not self._keep_history:
            self._executions.pop(execution.id, None)
            return
        before = self._executions.get(execution.id)
        self._executions[execution.id] = execution
        due = execution.due
        if due is not None and (before is None or before.due != due):
            heappush(self._due, Due(due, "timer", execution.id))

    def next_due(self) -> Due | None:
        while self._due:
            due = self._due[0]
            if due.kind == "timer":
                execution = self._executions.get(due.key)
                stands = execution is not None and execution.due == due.at
            else:
                stands = self._records[due.key].check_at == due.at
            if stands:
                return due
            heappop(self._due)
        return None

    def digest(self, event_id: str) -> str | None:
        return self._digests.get(event_id)

    def add_event(self, event: Event) -> None:
        self._digests[event.event_id] = event.digest

    def add_stimulus(self, execution_id: str, stimulus: Stimulus, at: Instant) -> None:
        if self._keep_history:
            self._stimuli.setdefault(execution_id, []).append((stimulus, at))

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]:
        return self._stimuli.get(execution_id, [])

    def add_transitions(self, transitions: tuple[Transition, ...]) -> None:
        self._transitions.extend(transitions)

    def take_transitions(self) -> list[Transition]:
        """Those that came since the last time."""
        taken, self._transitions = self._transitions, []
        return taken

    def add_alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

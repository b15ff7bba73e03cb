"""Reference model: the expected content of the store, computed by the pure core with a store in memory.

A journal records each item of a group and its result. Once the group is committed, the model applies the journal. A
group whose commit failed is uncertain until the next recovery: the store has all of it or nothing.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from bems.embedded.cell import Cell
from bems.embedded.storage.reader import Reader
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import AuditEntry, DeadLetter, DueItem, MemoryStore
from bems.engine import Execution, Machine, Stimulus
from bems.tracker.actions import Alert, execution_name
from bems.tracker.commands import Command
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

ALL = 1_000_000


class Entry(NamedTuple):
    """An item of a journal.

    `kind` is the method that the cell ran, or the reaction to its failure: `letter` for a dead letter, `postpone` for a
    due item that was postponed.
    """

    kind: Literal["event", "redrive", "command", "fire", "letter", "postpone"]
    what: Any
    now: Instant


Journal = list[Entry]


class State(NamedTuple):
    """Complete content of a store in a canonical order."""

    events: list[Event]
    dead_letters: list[str]
    transitions: list[Transition]
    alerts: list[Alert]
    commands: list[AuditEntry]
    records: dict[str, InvoiceRecord]
    executions: dict[str, Execution]
    stimuli: dict[str, list[tuple[Stimulus, Instant]]]


class ReferenceModel:
    """Computes the expected state of the store."""

    def __init__(self, policy: Policy, machine: Machine) -> None:
        self._policy, self._machine = policy, machine
        self._groups: list[Journal] = []
        self.uncertain: list[Journal] = []
        self._begin()

    def _begin(self) -> None:
        self._store = MemoryStore(keep_history=True)
        self._cell = Cell(self._policy, self._machine, self._store)
        self._events: dict[str, Event] = {}
        self._letters: set[str] = set()
        self._transitions: list[Transition] = []
        self._commands: list[AuditEntry] = []
        self.postponed: set[DueItem] = set()

    def commit(self, journal: Journal) -> None:
        """Apply the journal of a committed group."""
        if journal:
            self.uncertain.clear()
            self._groups.append(journal)
            self._apply(journal)

    def mark_uncertain(self, journal: Journal) -> None:
        """Keep the journal of a group that may or may not be in the store."""
        if journal:
            self.uncertain.append(journal)

    def reconcile(self, found: State) -> bool:
        """Return whether the state found after a recovery is expected, with or without one of the uncertain groups."""
        doubts, self.uncertain = self.uncertain, []
        if found == self.state():
            # A group that only postponed items changed nothing else, so it may or may not be stored.
            self.postponed |= {what for journal in doubts for kind, what, _ in journal if kind == "postpone"}
            return True
        for journal in doubts:
            self._apply(journal)
            if found == self.state():
                self._groups.append(journal)
                return True
            self._begin()
            for group in self._groups:
                self._apply(group)
        return False

    def _apply(self, journal: Journal) -> None:
        cell = self._cell
        for kind, what, now in journal:
            match kind:
                case "event":
                    if what.event_id not in self._events:
                        self._events[what.event_id] = what
                    cell.handle_event(what, now)
                case "letter":
                    if what.event_id not in self._events:
                        self._events[what.event_id] = what
                        self._store.add_event(what)
                    self._letters.add(what.event_id)
                case "redrive":
                    cell.redrive(what, now)
                    self._letters.discard(what.event_id)
                case "command":
                    known = self._store.command(what.id)
                    cell.handle_command(what, now)
                    entry = self._store.command(what.id)
                    if known is None and entry is not None:
                        self._commands.append(entry)
                case "fire":
                    cell.fire_due(what, now)
                    self.postponed.discard(what)
                case "postpone":
                    self.postponed.add(what)
            self._transitions += self._store.drain_transitions()

    # -- expected state

    def state(self) -> State:
        records = {record.invoice_id: record for record in self._store.records()}
        names = [name for record in records.values() for name in execution_names(record)]
        executions = {name: execution for name in names if (execution := self._store.execution(name))}
        return State(
            list(self._events.values()),
            sorted(self._letters),
            list(self._transitions),
            list(self._store.alerts),
            list(self._commands),
            records,
            executions,
            {name: self._store.stimuli(name) for name in executions},
        )

    def event(self, event_id: str) -> Event | None:
        return self._events.get(event_id)

    def command(self, id: str) -> AuditEntry | None:
        return self._store.command(id)

    def due(self) -> list[DueItem]:
        """Return the due items, not counting postponements."""
        state = self.state()
        due = [DueItem(at, "check", id) for id, record in state.records.items() if (at := record.check_at) is not None]
        due += [
            DueItem(at, "timer", id) for id, execution in state.executions.items() if (at := execution.due) is not None
        ]
        return sorted(due)

    @property
    def dead_letters(self) -> list[str]:
        return sorted(self._letters)

    @property
    def alerts(self) -> list[Alert]:
        return self._store.alerts


def execution_names(record: InvoiceRecord) -> list[str]:
    """Return the names of all executions of an invoice."""
    return [execution_name(record.invoice_id, number) for number in range(1, record.run.number + 1)]


def read_state(reader: Reader) -> State:
    """Read the complete content of a store."""
    records = {record.invoice_id: record for record in reader.invoices(limit=ALL)}
    names = [name for record in records.values() for name in execution_names(record)]
    executions = {name: execution for name in names if (execution := reader.execution(name))}
    return State(
        [event for _, event in reader.events(limit=ALL)],
        [letter.event_id for letter in reader.dead_letters(limit=ALL)],
        [row for _, row in reader.transitions(limit=ALL)],
        [alert for _, alert in reader.alerts(limit=ALL)],
        [entry for _, entry in reversed(reader.commands(limit=ALL))],
        records,
        executions,
        {name: reader.stimuli(name) for name in executions},
    )


class JournalRecorder:
    """Wraps methods of a cell and its store to record a journal, and injects failures with `maybe_raise`."""

    def __init__(self, cell: Cell, store: SqliteStore, maybe_raise: Callable[[str, str], None]) -> None:
        self.journal: Journal = []
        self._maybe_raise = maybe_raise
        self._is_nested = False
        cell.handle_event = self._recording("event", cell.handle_event)  # type: ignore[method-assign]
        cell.redrive = self._recording("redrive", cell.redrive)  # type: ignore[method-assign]
        cell.handle_command = self._recording("command", cell.handle_command)  # type: ignore[method-assign]
        cell.fire_due = self._recording("fire", cell.fire_due)  # type: ignore[method-assign]
        self._put_dead_letter, self._postpone = store.put_dead_letter, store.postpone
        self._read_event = store.event
        store.put_dead_letter = self.put_dead_letter  # type: ignore[method-assign]
        store.postpone = self.postpone  # type: ignore[method-assign]

    def _recording(self, kind: Any, method: Callable[[Any, Instant], Any]) -> Any:
        def noting(what: Event | Command | DueItem, now: Instant) -> Any:
            # `handle_event` calls `redrive`: record only the outer call.
            outermost, self._is_nested = not self._is_nested, True
            try:
                result = method(what, now)
                if kind != "event":
                    self._maybe_raise(kind, what.key if isinstance(what, DueItem) else what.invoice_id)
            finally:
                self._is_nested = self._is_nested and not outermost
            if outermost:
                self.journal.append(Entry(kind, what, now))
            return result

        return noting

    def put_dead_letter(self, dead_letter: DeadLetter) -> None:
        event = self._read_event(dead_letter.event_id)
        self._put_dead_letter(dead_letter)
        self.journal.append(Entry("letter", event, dead_letter.failed_at))

    def postpone(self, due: DueItem, until: Instant) -> None:
        self._postpone(due, until)
        self.journal.append(Entry("postpone", due, until))

    def take(self) -> Journal:
        """Return and clear the journal."""
        taken, self.journal = self.journal, []
        return taken

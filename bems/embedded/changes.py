"""Changes: what has been written and is not yet in the database, of an item or of a turn."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from bems.embedded.packing import pack_event, pack_execution, pack_record, pack_transition
from bems.embedded.store import AuditEntry, Due, Letter
from bems.engine import Execution
from bems.tracker.actions import Alert
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Course(NamedTuple):
    """An execution as it is stored: with its definition's number, and with its past, which is so many stimuli."""

    execution: Execution
    definition: int | None
    stimuli: int = 0
    past: bytes = b""


class Changes:
    """Newer versions of what the database holds, by key, and what is to be added to it, in order.

    `bodies` are the packed forms, not compressed yet: of records, courses and events by their keys, of transitions in
    their order.
    """

    __slots__ = (
        "alerts", "bodies_of_courses", "bodies_of_events", "bodies_of_records", "bodies_of_transitions", "commands",
        "courses", "events", "letters", "postponed", "records", "transitions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bodies_of_records: dict[str, bytes] = {}
        self.bodies_of_courses: dict[str, bytes] = {}
        self.bodies_of_events: dict[str, bytes] = {}
        self.bodies_of_transitions: list[bytes] = []
        self.records: dict[str, InvoiceRecord] = {}
        self.courses: dict[str, Course] = {}
        self.events: dict[str, Event] = {}
        self.transitions: list[Transition] = []
        self.alerts: list[Alert] = []
        self.commands: dict[str, AuditEntry] = {}
        self.letters: dict[str, Letter | None] = {}
        self.postponed: dict[Due, Instant] = {}

    def __bool__(self) -> bool:
        some = self.records or self.courses or self.events or self.transitions or self.alerts or self.commands
        return bool(some or self.letters or self.postponed)

    def pack(self) -> None:
        """Make the bodies: what cannot be packed raises here, and not in the middle of a transaction."""
        self.bodies_of_records = {id: pack_record(one) for id, one in self.records.items()}
        self.bodies_of_courses = {id: pack_execution(one.execution, one.past) for id, one in self.courses.items()}
        self.bodies_of_events = {id: pack_event(one) for id, one in self.events.items()}
        self.bodies_of_transitions = list(map(pack_transition, self.transitions))

    def absorb(self, other: "Changes") -> None:
        """Add what came after these, and is packed."""
        self.records.update(other.records)
        self.bodies_of_records.update(other.bodies_of_records)
        self.courses.update(other.courses)
        self.bodies_of_courses.update(other.bodies_of_courses)
        self.events.update(other.events)
        self.bodies_of_events.update(other.bodies_of_events)
        self.transitions += other.transitions
        self.bodies_of_transitions += other.bodies_of_transitions
        if other.alerts:
            self.alerts += other.alerts
        if other.commands:
            self.commands.update(other.commands)
        if other.letters:
            self.letters.update(other.letters)
        if other.postponed:
            self.postponed.update(other.postponed)


class Cache(Generic[K, V]):
    """The `size` values that were used last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def update(self, values: dict[K, V]) -> None:
        own = self._values
        own.update(values)
        for key in values:
            own.move_to_end(key)
        while len(own) > self._size:
            own.popitem(last=False)

    def clear(self) -> None:
        self._values.clear()

"""Changes: what has been written and is not yet in the database, of an item or of a turn."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from bems.embedded.storage.codec import encode_event, encode_execution, encode_record, encode_transition
from bems.embedded.storage.store import AuditEntry, DeadLetter, DueItem
from bems.engine import Execution
from bems.tracker.actions import Alert
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class StoredExecution(NamedTuple):
    """An execution as it is stored: with its definition's number, and with its past, which is so many stimuli."""

    execution: Execution
    definition: int | None
    stimuli_count: int = 0
    stimuli_blob: bytes = b""


class WriteSet:
    """Newer versions of what the database holds, by key, and what is to be added to it, in order.

    `bodies` are the packed forms, not compressed yet: of records, courses and events by their keys, of transitions in
    their order.
    """

    __slots__ = (
        "alerts", "commands", "dead_letters", "encoded_events", "encoded_executions", "encoded_records",
        "encoded_transitions", "events", "executions", "postponed", "records", "transitions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.encoded_records: dict[str, bytes] = {}
        self.encoded_executions: dict[str, bytes] = {}
        self.encoded_events: dict[str, bytes] = {}
        self.encoded_transitions: list[bytes] = []
        self.records: dict[str, InvoiceRecord] = {}
        self.executions: dict[str, StoredExecution] = {}
        self.events: dict[str, Event] = {}
        self.transitions: list[Transition] = []
        self.alerts: list[Alert] = []
        self.commands: dict[str, AuditEntry] = {}
        self.dead_letters: dict[str, DeadLetter | None] = {}
        self.postponed: dict[DueItem, Instant] = {}

    def __bool__(self) -> bool:
        some = self.records or self.executions or self.events or self.transitions or self.alerts or self.commands
        return bool(some or self.dead_letters or self.postponed)

    def encode(self) -> None:
        """Make the bodies: what cannot be packed raises here, and not in the middle of a transaction."""
        self.encoded_records = {id: encode_record(one) for id, one in self.records.items()}
        self.encoded_executions = {
            id: encode_execution(one.execution, one.stimuli_blob) for id, one in self.executions.items()
        }
        self.encoded_events = {id: encode_event(one) for id, one in self.events.items()}
        self.encoded_transitions = list(map(encode_transition, self.transitions))

    def merge(self, other: "WriteSet") -> None:
        """Add what came after these, and is packed."""
        self.records.update(other.records)
        self.encoded_records.update(other.encoded_records)
        self.executions.update(other.executions)
        self.encoded_executions.update(other.encoded_executions)
        self.events.update(other.events)
        self.encoded_events.update(other.encoded_events)
        self.transitions += other.transitions
        self.encoded_transitions += other.encoded_transitions
        if other.alerts:
            self.alerts += other.alerts
        if other.commands:
            self.commands.update(other.commands)
        if other.dead_letters:
            self.dead_letters.update(other.dead_letters)
        if other.postponed:
            self.postponed.update(other.postponed)


class LruCache(Generic[K, V]):
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

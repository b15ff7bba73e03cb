"""Unit of work: changes of an item or a group that are not in the database yet, and a cache of committed values."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from bems.embedded.storage.codec import encode_event, encode_execution, encode_record, encode_transition
from bems.embedded.storage.store import AuditEntry, DeadLetter, DueItem
from bems.engine import Execution
from bems.tracker.contract import Event
from bems.tracker.control_totals import AlertMessage, ControlTotalState
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class StoredExecution(NamedTuple):
    """Execution as it is stored, with its definition's number and its concatenated encoded stimuli."""

    execution: Execution
    definition: int | None
    stimuli_count: int = 0
    stimuli_blob: bytes = b""


class WriteSet:
    """Changes to write: new versions of stored values, by key, and values to append, in order.

    The `encoded_` attributes hold the encoded, uncompressed values after `encode`: records, executions and events by
    key, transitions in order.
    """

    __slots__ = (
        "alerts", "commands", "control_totals", "dead_letters", "encoded_events", "encoded_executions",
        "encoded_records", "encoded_transitions", "events", "executions", "postponed", "records", "transitions",
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
        self.alerts: list[AlertMessage] = []
        self.commands: dict[str, AuditEntry] = {}
        self.dead_letters: dict[str, DeadLetter | None] = {}
        self.postponed: dict[DueItem, Instant] = {}
        self.control_totals: dict[str, ControlTotalState] = {}

    def __bool__(self) -> bool:
        changes = self.records or self.executions or self.events or self.transitions or self.alerts or self.commands
        return bool(changes or self.dead_letters or self.postponed or self.control_totals)

    def encode(self) -> None:
        """Encode the values. A value that cannot be encoded raises here, and not in the middle of a transaction."""
        self.encoded_records = {id: encode_record(one) for id, one in self.records.items()}
        self.encoded_executions = {
            id: encode_execution(one.execution, one.stimuli_blob) for id, one in self.executions.items()
        }
        self.encoded_events = {id: encode_event(one) for id, one in self.events.items()}
        self.encoded_transitions = list(map(encode_transition, self.transitions))

    def merge(self, other: "WriteSet") -> None:
        """Add later changes, which are encoded already."""
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
        if other.control_totals:
            self.control_totals.update(other.control_totals)


class LruCache(Generic[K, V]):
    """Cache of the `size` most recently used values."""

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

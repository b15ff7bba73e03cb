"""Packing: how values are written into the store, and read again.

MessagePack with the names of fields, so that a field can come later. What is kept for good is compressed against a
dictionary of what such values have in common, which makes a third of it, and of its field names nothing.
"""

import zlib
from typing import Any

import msgspec
from msgspec import Struct

from bems.embedded.store import AuditEntry
from bems.engine import Execution, Stimulus, stimulus_from_json, stimulus_to_json
from bems.tracker.actions import Alert
from bems.tracker.contract import Event, Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

_PLAIN, _DEFLATED = b"\0", b"\1"
_BITS, _MEMORY, _LEVEL = -12, 5, 3
_ARRAY_32 = b"\xdd"


class EventBody(Struct, frozen=True, omit_defaults=True):
    """What the archive keeps of an event beside its id, its digest and its invoice."""

    stage: Stage
    status: str
    occurred_at: Instant
    received_at: Instant
    facts: Facts


_pack = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(EventBody)
_record = msgspec.msgpack.Decoder(InvoiceRecord)
_transition = msgspec.msgpack.Decoder(Transition)
_alert = msgspec.msgpack.Decoder(Alert)
_entry = msgspec.msgpack.Decoder(AuditEntry)
_any = msgspec.msgpack.Decoder()


class Press:
    """Compresses values of one kind, each for itself."""

    def __init__(self, dictionary: bytes) -> None:
        self._dictionary = dictionary
        # Copying one that has read the dictionary takes less time than reading it again.
        self._blank = zlib.compressobj(_LEVEL, zlib.DEFLATED, _BITS, _MEMORY, zdict=dictionary)

    def press(self, content: bytes) -> bytes:
        blank = self._blank.copy()
        return blank.compress(content) + blank.flush()

    def unpress(self, content: bytes) -> bytes:
        return zlib.decompressobj(_BITS, zdict=self._dictionary).decompress(content)


class Packing:
    """How one store writes its values, with the dictionaries that it was made with, by kind of value."""

    def __init__(self, dictionaries: dict[str, bytes]) -> None:
        self._events = Press(dictionaries["event"])
        self._transitions = Press(dictionaries["transition"])
        self._records = Press(dictionaries["record"])
        self._executions = Press(dictionaries["execution"])

    def event(self, event: Event) -> bytes:
        return self._events.press(pack_event(event))

    def read_event(self, event_id: str, digest: str, invoice_id: str, content: bytes) -> Event:
        body = _event.decode(self._events.unpress(content))
        return Event(
            body.stage, event_id, invoice_id, body.status, body.occurred_at, body.received_at, body.facts, digest
        )

    def transition(self, transition: Transition) -> bytes:
        return self._transitions.press(pack_transition(transition))

    def read_transition(self, content: bytes) -> Transition:
        return _transition.decode(self._transitions.unpress(content))

    def record(self, record: InvoiceRecord) -> bytes:
        """One that waits for nothing will hardly be written again: it is compressed."""
        content = pack_record(record)
        return _PLAIN + content if record.wait else _DEFLATED + self._records.press(content)

    def read_record(self, content: bytes) -> InvoiceRecord:
        return _record.decode(_open(self._records, content))

    def execution(self, execution: Execution, past: bytes) -> bytes:
        """An execution with its past; compressed once it is over."""
        content = pack_execution(execution, past)
        return _DEFLATED + self._executions.press(content) if execution.finished else _PLAIN + content

    def read_execution(self, content: bytes) -> tuple[Execution, bytes]:
        execution, past = _any.decode(_open(self._executions, content))
        return Execution.from_json(execution), past


def _open(press: Press, content: bytes) -> bytes:
    return content[1:] if content[:1] == _PLAIN else press.unpress(content[1:])


def pack_event(event: Event) -> bytes:
    return _pack(EventBody(event.stage, event.status, event.occurred_at, event.received_at, event.facts))


def pack_transition(transition: Transition) -> bytes:
    return _pack(transition)


def pack_record(record: InvoiceRecord) -> bytes:
    return _pack(record)


def pack_execution(execution: Execution, past: bytes) -> bytes:
    """`past` is what happened to it: the `pack_stimulus` of each, one after the other."""
    return _pack((execution.to_json(), past))


def pack_alert(alert: Alert) -> bytes:
    return _pack(alert)


def read_alert(content: bytes) -> Alert:
    return _alert.decode(content)


def pack_entry(entry: AuditEntry) -> bytes:
    return _pack(entry)


def read_entry(content: bytes) -> AuditEntry:
    return _entry.decode(content)


def pack_stimulus(stimulus: Stimulus, at: Instant) -> bytes:
    """One more piece of an execution's past."""
    return _pack((stimulus_to_json(stimulus), at))


def read_past(count: int, past: bytes) -> list[tuple[Stimulus, Instant]]:
    """The stimuli of a past of so many pieces: as one MessagePack array, whose head is its length."""
    pieces: list[tuple[list[Any], Instant]] = _any.decode(_ARRAY_32 + count.to_bytes(4, "big") + past)
    return [(stimulus_from_json(stimulus), at) for stimulus, at in pieces]


def pack_digest(digest: str) -> str | bytes:
    """The gate's digests are hexadecimal, and take half the room as bytes."""
    try:
        short = bytes.fromhex(digest)
    except ValueError:
        return digest
    return short if short.hex() == digest else digest


def read_digest(packed: str | bytes) -> str:
    return packed if isinstance(packed, str) else packed.hex()

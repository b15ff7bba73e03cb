"""Packing: how values are written into the store, and read again.

MessagePack with the names of fields, so that a field can come later, compressed (see `press`).
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from bems.embedded.storage.compression import DictionaryCompressor
from bems.embedded.storage.store import AuditEntry
from bems.engine import Execution, Stimulus, stimulus_from_json, stimulus_to_json
from bems.tracker.actions import Alert
from bems.tracker.contract import Event, Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

FRACTIONS_PER_UNIT = 10_000
"""What the fraction of an amount is counted in: no currency has more than four decimals."""

_ARRAY_32 = b"\xdd"

KINDS = ("event", "transition", "record", "execution")
"""The kinds of values that have dictionaries of their own."""

Dictionaries = dict[str, dict[int, bytes]]
"""By kind and number."""


class EventBody(Struct, frozen=True, omit_defaults=True):
    """What the archive keeps of an event beside its id, its digest and its invoice."""

    stage: Stage
    status: str
    occurred_at: Instant
    received_at: Instant
    facts: Facts
    imported: bool = False


_pack = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(EventBody)
_record = msgspec.msgpack.Decoder(InvoiceRecord)
_transition = msgspec.msgpack.Decoder(Transition)
_alert = msgspec.msgpack.Decoder(Alert)
_entry = msgspec.msgpack.Decoder(AuditEntry)
_any = msgspec.msgpack.Decoder()


def _of_kind(read: Callable[[], Dictionaries], kind: str) -> dict[int, bytes]:
    return read()[kind]


class Codec:
    """How one store writes its values, with the dictionaries that it has. `read` reads these anew from the store, for a
    value that was written against a later one. It is for one thread at a time."""

    def __init__(self, dictionaries: Dictionaries, reload: Callable[[], Dictionaries]) -> None:
        self._compressors = {
            kind: DictionaryCompressor(dictionaries[kind], partial(_of_kind, reload, kind)) for kind in KINDS
        }
        self._events, self._transitions = self._compressors["event"], self._compressors["transition"]
        self._records, self._executions = self._compressors["record"], self._compressors["execution"]

    def next_dictionary(self) -> tuple[str, int, bytes] | None:
        """Kind, number and content of a dictionary that should be used from now on, if there is something to be learned
        from what was packed. It is to be kept, and then adopted."""
        for kind, press in self._compressors.items():
            dictionary = press.next_dictionary()
            if dictionary:
                return (kind, *dictionary)
        return None

    def use_dictionary(self, kind: str, number: int, content: bytes) -> None:
        """Pack against this one from now on; it is in the store."""
        self._compressors[kind].use_dictionary(number, content)

    def compress(self, kind: str, contents: list[bytes]) -> list[bytes]:
        """What `encode_event` and its like made of values of a kind, as it is stored."""
        return self._compressors[kind].compress(contents)

    def decode_event(self, event_id: str, digest: str, invoice_id: str, content: bytes) -> Event:
        body = _event.decode(self._events.decompress(content))
        return Event(
            body.stage,
            event_id,
            invoice_id,
            body.status,
            body.occurred_at,
            body.received_at,
            body.facts,
            digest,
            body.imported,
        )

    def decode_transition(self, content: bytes) -> Transition:
        return _transition.decode(self._transitions.decompress(content))

    def decode_record(self, content: bytes) -> InvoiceRecord:
        return _record.decode(self._records.decompress(content))

    def decode_execution(self, content: bytes) -> tuple[Execution, bytes]:
        execution, past = _any.decode(self._executions.decompress(content))
        return Execution.from_json(execution), past


def encode_event(event: Event) -> bytes:
    return _pack(
        EventBody(event.stage, event.status, event.occurred_at, event.received_at, event.facts, event.imported)
    )


def encode_transition(transition: Transition) -> bytes:
    return _pack(transition)


def encode_record(record: InvoiceRecord) -> bytes:
    return _pack(record)


def encode_execution(execution: Execution, past: bytes) -> bytes:
    """`past` is what happened to it: the `encode_stimulus` of each, one after the other."""
    return _pack((execution.to_json(), past))


def encode_alert(alert: Alert) -> bytes:
    return _pack(alert)


def decode_alert(content: bytes) -> Alert:
    return _alert.decode(content)


def encode_audit_entry(entry: AuditEntry) -> bytes:
    return _pack(entry)


def decode_audit_entry(content: bytes) -> AuditEntry:
    return _entry.decode(content)


def encode_stimulus(stimulus: Stimulus, at: Instant) -> bytes:
    """One more piece of an execution's past."""
    return _pack((stimulus_to_json(stimulus), at))


def decode_stimuli(count: int, past: bytes) -> list[tuple[Stimulus, Instant]]:
    """The stimuli of a past of so many pieces: as one MessagePack array, whose head is its length."""
    pieces: list[tuple[list[Any], Instant]] = _any.decode(_ARRAY_32 + count.to_bytes(4, "big") + past)
    return [(stimulus_from_json(stimulus), at) for stimulus, at in pieces]


def encode_amount(amount: Decimal) -> tuple[int, int]:
    """Whole units, and what is behind the point in ten-thousandths, both with the amount's sign: together they may have
    more digits than an integer of SQLite."""
    whole = int(amount)
    return whole, int((amount - whole) * FRACTIONS_PER_UNIT)


def encode_digest(digest: str) -> str | bytes:
    """The gate's digests are hexadecimal, and take half the room as bytes."""
    try:
        short = bytes.fromhex(digest)
    except ValueError:
        return digest
    return short if short.hex() == digest else digest


def decode_digest(packed: str | bytes) -> str:
    return packed if isinstance(packed, str) else packed.hex()

"""Packing: how values are written into the store, and read again.

MessagePack with the names of fields, so that a field can come later, compressed (see `press`).
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from bems.embedded.press import Press
from bems.embedded.store import AuditEntry
from bems.engine import Execution, Stimulus, stimulus_from_json, stimulus_to_json
from bems.tracker.actions import Alert
from bems.tracker.contract import Event, Facts, Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

FRACTION = 10_000
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


class Packing:
    """How one store writes its values, with the dictionaries that it has. `read` reads these anew from the store, for a
    value that was written against a later one. It is for one thread at a time."""

    def __init__(self, dictionaries: Dictionaries, read: Callable[[], Dictionaries]) -> None:
        self._presses = {kind: Press(dictionaries[kind], lambda kind=kind: read()[kind]) for kind in KINDS}  # type: ignore[misc]
        self._events, self._transitions = self._presses["event"], self._presses["transition"]
        self._records, self._executions = self._presses["record"], self._presses["execution"]

    def lesson(self) -> tuple[str, int, bytes] | None:
        """Kind, number and content of a dictionary that should be used from now on, if there is something to be learned
        from what was packed. It is to be kept, and then adopted."""
        for kind, press in self._presses.items():
            lesson = press.lesson()
            if lesson:
                return (kind, *lesson)
        return None

    def adopt(self, kind: str, number: int, content: bytes) -> None:
        """Pack against this one from now on; it is in the store."""
        self._presses[kind].adopt(number, content)

    def press(self, kind: str, contents: list[bytes]) -> list[bytes]:
        """What `pack_event` and its like made of values of a kind, as it is stored."""
        return self._presses[kind].press(contents)

    def read_event(self, event_id: str, digest: str, invoice_id: str, content: bytes) -> Event:
        body = _event.decode(self._events.unpress(content))
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

    def read_transition(self, content: bytes) -> Transition:
        return _transition.decode(self._transitions.unpress(content))

    def read_record(self, content: bytes) -> InvoiceRecord:
        return _record.decode(self._records.unpress(content))

    def read_execution(self, content: bytes) -> tuple[Execution, bytes]:
        execution, past = _any.decode(self._executions.unpress(content))
        return Execution.from_json(execution), past


def pack_event(event: Event) -> bytes:
    return _pack(
        EventBody(event.stage, event.status, event.occurred_at, event.received_at, event.facts, event.imported)
    )


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


def pack_amount(amount: Decimal) -> tuple[int, int]:
    """Whole units, and what is behind the point in ten-thousandths, both with the amount's sign: together they may have
    more digits than an integer of SQLite."""
    whole = int(amount)
    return whole, int((amount - whole) * FRACTION)


def pack_digest(digest: str) -> str | bytes:
    """The gate's digests are hexadecimal, and take half the room as bytes."""
    try:
        short = bytes.fromhex(digest)
    except ValueError:
        return digest
    return short if short.hex() == digest else digest


def read_digest(packed: str | bytes) -> str:
    return packed if isinstance(packed, str) else packed.hex()

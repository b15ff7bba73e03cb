"""Codec: how values are encoded in the store.

Values are MessagePack with field names, so that fields can be added later. Large kinds of values are compressed (see
`compression`).
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
from bems.tracker.contract import Actor, Event, Facts, Payment, Reason, Stage
from bems.tracker.control_totals import AlertMessage, CompletenessAlert, ControlTotalState
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

FRACTIONS_PER_UNIT = 10_000
"""Units in which the fraction of an amount is stored: ten-thousandths, as no currency has more than four decimals."""

_ARRAY_32 = b"\xdd"
"""MessagePack type byte of an array whose length follows in 32 bits."""

KINDS = ("event", "transition", "record", "execution")
"""Kinds of values that are compressed. Each has its own dictionaries."""

Dictionaries = dict[str, dict[int, bytes]]
"""Content of each dictionary by kind and number."""


class StoredEvent(Struct, frozen=True, omit_defaults=True):
    """Stored form of an event, without its id, digest and invoice id, which have separate columns."""

    stage: Stage
    status: str
    occurred_at: Instant
    received_at: Instant
    facts: Facts
    imported: bool = False
    actor: Actor | None = None
    reason: Reason | None = None
    payment: Payment | None = None


class _AlertKind(Struct, frozen=True):
    kind: str


_pack = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(StoredEvent)
_record = msgspec.msgpack.Decoder(InvoiceRecord)
_transition = msgspec.msgpack.Decoder(Transition)
_alert = msgspec.msgpack.Decoder(Alert)
_completeness_alert = msgspec.msgpack.Decoder(CompletenessAlert)
_alert_kind = msgspec.msgpack.Decoder(_AlertKind)
_control_total = msgspec.msgpack.Decoder(ControlTotalState)
_entry = msgspec.msgpack.Decoder(AuditEntry)
_any = msgspec.msgpack.Decoder()


def _reload_kind(reload: Callable[[], Dictionaries], kind: str) -> dict[int, bytes]:
    return reload()[kind]


class Codec:
    """Encodes and decodes the values of one store with the store's dictionaries. Use it from one thread at a time.

    `reload` reads the dictionaries again from the store, for a value that was compressed with a newer one.
    """

    def __init__(self, dictionaries: Dictionaries, reload: Callable[[], Dictionaries]) -> None:
        self._compressors = {
            kind: DictionaryCompressor(dictionaries[kind], partial(_reload_kind, reload, kind)) for kind in KINDS
        }
        self._events, self._transitions = self._compressors["event"], self._compressors["transition"]
        self._records, self._executions = self._compressors["record"], self._compressors["execution"]

    def next_dictionary(self) -> tuple[str, int, bytes] | None:
        """Return kind, number and content of a newly trained dictionary, or None if there is none.

        Store it, and then call `use_dictionary`.
        """
        for kind, compressor in self._compressors.items():
            dictionary = compressor.next_dictionary()
            if dictionary:
                return (kind, *dictionary)
        return None

    def use_dictionary(self, kind: str, number: int, content: bytes) -> None:
        """Compress values of this kind with this dictionary from now on. It must be in the store."""
        self._compressors[kind].use_dictionary(number, content)

    def compress(self, kind: str, contents: list[bytes]) -> list[bytes]:
        """Compress the results of `encode_event`, `encode_record` etc., all of one kind, for the store."""
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
            body.actor,
            body.reason,
            body.payment,
        )

    def decode_transition(self, content: bytes) -> Transition:
        return _transition.decode(self._transitions.decompress(content))

    def decode_record(self, content: bytes) -> InvoiceRecord:
        return _record.decode(self._records.decompress(content))

    def decode_execution(self, content: bytes) -> tuple[Execution, bytes]:
        """Return the execution and its encoded stimuli (see `encode_execution`)."""
        execution, stimuli = _any.decode(self._executions.decompress(content))
        return Execution.from_json(execution), stimuli


def encode_event(event: Event) -> bytes:
    return _pack(
        StoredEvent(
            event.stage,
            event.status,
            event.occurred_at,
            event.received_at,
            event.facts,
            event.imported,
            event.actor,
            event.reason,
            event.payment,
        )
    )


def encode_transition(transition: Transition) -> bytes:
    return _pack(transition)


def encode_record(record: InvoiceRecord) -> bytes:
    return _pack(record)


def encode_execution(execution: Execution, stimuli: bytes) -> bytes:
    """Encode an execution with its stimuli: the concatenated `encode_stimulus` of each."""
    return _pack((execution.to_json(), stimuli))


def encode_alert(alert: AlertMessage) -> bytes:
    return _pack(alert)


def decode_alert(content: bytes) -> Alert:
    return _alert.decode(content)


def decode_alert_message(content: bytes) -> AlertMessage:
    """Decode an alert of an invoice or of a control total."""
    is_completeness = _alert_kind.decode(content).kind == "completeness"
    return _completeness_alert.decode(content) if is_completeness else _alert.decode(content)


def encode_control_total(state: ControlTotalState) -> bytes:
    return _pack(state)


def decode_control_total(content: bytes) -> ControlTotalState:
    return _control_total.decode(content)


def encode_audit_entry(entry: AuditEntry) -> bytes:
    return _pack(entry)


def decode_audit_entry(content: bytes) -> AuditEntry:
    return _entry.decode(content)


def encode_stimulus(stimulus: Stimulus, at: Instant) -> bytes:
    """Encode one stimulus of an execution and its instant. `decode_stimuli` reads a concatenation of them."""
    return _pack((stimulus_to_json(stimulus), at))


def decode_stimuli(count: int, stimuli: bytes) -> list[tuple[Stimulus, Instant]]:
    """Decode `count` concatenated stimuli. With a prepended length they are one MessagePack array."""
    pieces: list[tuple[list[Any], Instant]] = _any.decode(_ARRAY_32 + count.to_bytes(4, "big") + stimuli)
    return [(stimulus_from_json(stimulus), at) for stimulus, at in pieces]


def encode_amount(amount: Decimal) -> tuple[int, int]:
    """Return the amount's whole units and its fraction in ten-thousandths, both with the amount's sign.

    One SQLite integer cannot hold both: an amount has up to 18 digits before the point.
    """
    whole = int(amount)
    return whole, int((amount - whole) * FRACTIONS_PER_UNIT)


def encode_digest(digest: str) -> str | bytes:
    """Return a hexadecimal digest, such as parsing makes, as bytes, which take half the space. Keep any other."""
    try:
        short = bytes.fromhex(digest)
    except ValueError:
        return digest
    return short if short.hex() == digest else digest


def decode_digest(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.hex()

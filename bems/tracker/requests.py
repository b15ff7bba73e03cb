"""Requests: what people and programs ask of a cell beside sending events, from bytes to values."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from bems.tracker.commands import Acknowledge, Cancel, Command, Complete, Extend, Park, Revive, Verb
from bems.tracker.contract import Identifier, Stage, Timestamp
from bems.tracker.instants import LATEST, Instant, clamp, from_datetime, without_leap_second
from bems.tracker.parsing import InvalidEvent, reject_invalid, reject_too_large, reject_unreadable
from bems.validation.field_errors import validate
from bems.validation.lenient_json import LenientJson, find_anomalies

T = TypeVar("T")

MAX_REQUEST_BYTES = 1024 * 1024
"""Bytes of a request: a thousand ids of any length."""

Role = Literal["sender", "viewer", "operator", "admin"]
"""A sender sends events. A viewer looks at all there is, an operator acts on it too, an admin may do everything."""

KeyName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}(?!\n)$",
        description="1 to 64 of A-Z, a-z, 0-9, '.', '_', '@' and '-', the first a letter or digit",
    ),
]
Note = Annotated[
    str,
    Meta(
        max_length=1000,
        pattern=r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$",
        description="up to 1000 characters, none of them control but tabs and line ends",
    ),
]


class CommandRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="verb"):
    """What every command has. Sent again with the same `command_id`, it is not done twice."""

    command_id: Identifier
    invoice_id: Identifier
    note: Note = ""


class CompleteRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="complete"):
    """The stage is complete, on the operator's word."""

    stage: Stage


class ExtendRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="extend"):
    """The present wait's deadline moves to a later time."""

    until: Timestamp


class CancelRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cancel"):
    """The invoice is cancelled."""


class ParkRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="park"):
    """No more alerts until the invoice's next event."""


class ReviveRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="revive"):
    """A parked invoice is waited for again, from now."""


class AcknowledgeRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="acknowledge"):
    """The alerts so far have been seen."""


AnyCommandRequest = CompleteRequest | CancelRequest | ExtendRequest | ParkRequest | ReviveRequest | AcknowledgeRequest
VERBS: tuple[str, ...] = ("complete", "cancel", "extend", "park", "revive", "acknowledge")
_VERBS_WITHOUT_ARGUMENTS: dict[type[CommandRequest], Verb] = {
    CancelRequest: Cancel(),
    ParkRequest: Park(),
    ReviveRequest: Revive(),
    AcknowledgeRequest: Acknowledge(),
}


class RedriveRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which dead letters to handle again: those named, or all that match; `all` says that nothing was forgotten."""

    event_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=1000)] | None = None
    invoice_id: Identifier | None = None
    error: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """A text in their error."""
    all: Literal[True] | None = None

    def __post_init__(self) -> None:
        if (self.event_ids, self.invoice_id, self.error, self.all) == (None, None, None, None):
            raise ValueError('say which: use "event_ids", "invoice_id", "error", or "all": true')


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: KeyName
    role: Role


def read_request(body: bytes, expected: Any, what: str) -> Any:
    """The request that a body holds, as an `expected`, or a Refusal with every fault; `what` is its name in that."""
    if len(body) > MAX_REQUEST_BYTES:
        return reject_too_large(what, len(body), MAX_REQUEST_BYTES)
    reading = LenientJson(body)
    if reading.error is not None:
        return reject_unreadable(what, reading.error)
    if isinstance(reading.data, dict) and isinstance(reading.data.get("until"), str):
        reading.data["until"] = without_leap_second(reading.data["until"])
    odd = find_anomalies(reading.data)
    faults = odd + [fault for fault in validate(reading.data, expected) if fault not in odd]
    return reject_invalid(what, faults, None) if faults else msgspec.convert(reading.data, expected)


def read_command(body: bytes, operator: str, now: Instant) -> Command | InvalidEvent:
    """The command in the body of `POST /commands`, accepted at `now`."""
    request = read_request(body, AnyCommandRequest, "command")
    if isinstance(request, InvalidEvent):
        return request
    verb: Verb
    if isinstance(request, CompleteRequest):
        verb = Complete(request.stage)
    elif isinstance(request, ExtendRequest):
        # What lies outside of what an instant may be is refused by the core, as too early or too late.
        verb = Extend(clamp(from_datetime(request.until), LATEST + 1))
    else:
        verb = _VERBS_WITHOUT_ARGUMENTS[type(request)]
    return Command(request.command_id, request.invoice_id, operator, now, verb, request.note)

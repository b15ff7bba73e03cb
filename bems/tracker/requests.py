"""Requests other than events: parsers of the bodies of commands, redrives and API keys."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from bems.tracker.commands import (
    Acknowledge,
    AddNote,
    Assign,
    Cancel,
    Command,
    Complete,
    Extend,
    Park,
    Revive,
    Snooze,
    Verb,
)
from bems.tracker.contract import Identifier, Name, Stage, Timestamp
from bems.tracker.instants import LATEST, Instant, clamp, from_datetime, without_leap_second
from bems.tracker.parsing import InvalidEvent, reject_invalid, reject_too_large, reject_unreadable
from bems.validation.field_errors import validate
from bems.validation.lenient_json import LenientJson, find_anomalies

T = TypeVar("T")

MAX_REQUEST_BYTES = 1024 * 1024
"""Maximum size of a request: enough for a thousand ids of any length."""

Role = Literal["sender", "viewer", "operator", "admin"]
"""Role of an API key. A sender sends events; a viewer reads everything; an operator also sends commands; an admin may
do everything."""

KeyName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}(?!\n)$",
        description="1 to 64 of A-Z, a-z, 0-9, '.', '_', '@' and '-', the first a letter or digit",
    ),
]
_NOTE_PATTERN = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
NoteText = Annotated[
    str,
    Meta(
        max_length=1000,
        pattern=_NOTE_PATTERN,
        description="up to 1000 characters, none of them control but tabs and line ends",
    ),
]
RequiredNote = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1000,
        pattern=_NOTE_PATTERN,
        extra_json_schema={
            "pattern": r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f]"
        },
        description="1 to 1000 characters that say why, none of them control but tabs and line ends",
    ),
]


class CommandRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="verb"):
    """Fields of every command. Sending a command again with the same `command_id` is idempotent."""

    command_id: Identifier
    invoice_id: Identifier
    note: NoteText = ""


class CompleteRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="complete"):
    """Mark a stage complete by hand."""

    stage: Stage
    note: RequiredNote


class ExtendRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="extend"):
    """Move the current wait's deadline to a later time."""

    until: Timestamp


class CancelRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cancel"):
    """Cancel the invoice."""

    note: RequiredNote


class ParkRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="park"):
    """Raise no more alerts until the invoice's next event."""

    note: RequiredNote


class ReviveRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="revive"):
    """End the parking of an invoice and start a new wait now."""


class AcknowledgeRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="acknowledge"):
    """Confirm that the alerts so far have been seen."""


class SnoozeRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="snooze"):
    """Raise no alert of the current wait until a time."""

    until: Timestamp


class AssignRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="assign"):
    """Make somebody responsible for the invoice; null for nobody."""

    assignee: Name | None


class NoteRequest(CommandRequest, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="note"):
    """Leave a note."""

    note: RequiredNote


AnyCommandRequest = (
    CompleteRequest
    | CancelRequest
    | ExtendRequest
    | ParkRequest
    | ReviveRequest
    | AcknowledgeRequest
    | SnoozeRequest
    | AssignRequest
    | NoteRequest
)
VERBS: tuple[str, ...] = (
    "complete", "cancel", "extend", "park", "revive", "acknowledge", "snooze", "assign", "note",
)  # fmt: skip
_VERBS_WITHOUT_ARGUMENTS: dict[type[CommandRequest], Verb] = {
    CancelRequest: Cancel(),
    ParkRequest: Park(),
    ReviveRequest: Revive(),
    AcknowledgeRequest: Acknowledge(),
    NoteRequest: AddNote(),
}


class RedriveRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Selection of dead letters to process again: by event id, or all that match the other conditions.

    To select every dead letter, `all` must be set explicitly.
    """

    event_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=1000)] | None = None
    invoice_id: Identifier | None = None
    error: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """Text that the dead letter's error contains."""
    all: Literal[True] | None = None

    def __post_init__(self) -> None:
        if (self.event_ids, self.invoice_id, self.error, self.all) == (None, None, None, None):
            raise ValueError('say which: use "event_ids", "invoice_id", "error", or "all": true')


class EventLookupRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Ids of events to look up."""

    event_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=1000)]


class KeyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """API key to create."""

    name: KeyName
    role: Role


def read_request(body: bytes, expected: Any, what: str) -> Any:
    """Parse a body as `expected`, or return an InvalidEvent with every error; `what` names the request in messages."""
    if len(body) > MAX_REQUEST_BYTES:
        return reject_too_large(what, len(body), MAX_REQUEST_BYTES)
    reading = LenientJson(body)
    if reading.error is not None:
        return reject_unreadable(what, reading.error)
    if isinstance(reading.data, dict) and isinstance(reading.data.get("until"), str):
        reading.data["until"] = without_leap_second(reading.data["until"])
    anomalies = find_anomalies(reading.data)
    errors = anomalies + [error for error in validate(reading.data, expected) if error not in anomalies]
    return reject_invalid(what, errors, None) if errors else msgspec.convert(reading.data, expected)


def read_command(body: bytes, operator: str, now: Instant) -> Command | InvalidEvent:
    """Parse the body of `POST /commands` into a command that was accepted at `now`."""
    request = read_request(body, AnyCommandRequest, "command")
    if isinstance(request, InvalidEvent):
        return request
    verb: Verb
    if isinstance(request, CompleteRequest):
        verb = Complete(request.stage)
    elif isinstance(request, ExtendRequest):
        # `on_command` refuses EARLIEST and LATEST + 1, so a time out of range is reported as too early or too late.
        verb = Extend(clamp(from_datetime(request.until), LATEST + 1))
    elif isinstance(request, SnoozeRequest):
        verb = Snooze(clamp(from_datetime(request.until), LATEST + 1))
    elif isinstance(request, AssignRequest):
        verb = Assign(request.assignee)
    else:
        verb = _VERBS_WITHOUT_ARGUMENTS[type(request)]
    return Command(request.command_id, request.invoice_id, operator, now, verb, request.note)

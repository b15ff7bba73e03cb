"""Queries: what a request may ask after the `?`, and the pages of an answer.

A page ends with a cursor where more may follow; what comes meanwhile is neither missed nor told twice.
"""

import base64
import binascii
import re
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct, inspect

from bems.embedded.alerting.delivery import State
from bems.tracker.actions import Severity
from bems.tracker.contract import Stage, Timestamp
from bems.tracker.instants import without_leap_second
from bems.tracker.parsing import InvalidEvent, invalid
from bems.tracker.record import Mark
from bems.tracker.status import Status
from bems.validation.error_messages import format_value, strip_metadata
from bems.validation.field_errors import FieldError, append_pointer, validate

T = TypeVar("T")

MAX_QUERY_CHARACTERS = 4096

Cursor = Annotated[str, Meta(max_length=1024, description="what the page before gave as next_cursor")]
Limit = Annotated[int, Meta(ge=1, le=500, description="1 to 500")]
RowNumber = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A row's number, as SQLite has it."""
SqliteInteger = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Any integer that SQLite has."""
FilterText = Annotated[str, Meta(min_length=1, max_length=128, description="1 to 128 characters")]


_ONLY_TRUE = inspect.LiteralType((True,))
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,8}", re.ASCII)


class Page(Struct, Generic[T], frozen=True):
    """A part of a list. `next_cursor` asks for what follows; null: this is the end."""

    items: list[T]
    next_cursor: str | None


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing may be asked for."""


class InvoicesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which invoices. Those that are stuck come longest waiting first, all others in the order of their ids."""

    status: Status | None = None
    stage: Stage | None = None
    """The stage whose event they lack."""
    stuck: Literal[True] | None = None
    """Those of whose present wait an alert is out, and those that are parked."""
    sort: Literal["age", "value"] | None = None
    """Of those that are stuck: the longest waiting first, or the greatest amount of each currency."""
    mark: Mark | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of an invoice's events; the newest first."""

    limit: Limit = 100
    cursor: Cursor | None = None


class AlertsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts; the newest first."""

    invoice_id: FilterText | None = None
    stage: Stage | None = None
    severity: Severity | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class CommandsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which commands; the newest first."""

    invoice_id: FilterText | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class HistoryQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events of an execution's history; the oldest first."""

    limit: Limit = 100
    cursor: Cursor | None = None


class DeadLettersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters, in the order of their event ids."""

    invoice_id: FilterText | None = None
    error: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """A text in their error."""
    set_aside: bool | None = None
    """`true`: those that are not tried again by themselves; `false`: the others."""
    limit: Limit = 100
    cursor: Cursor | None = None


class DeliveriesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which deliveries of alerts, the oldest alerts first."""

    state: State = "waiting"
    limit: Limit = 100
    cursor: Cursor | None = None


class PolicyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which policy."""

    at: Timestamp | None = None
    """The one that was in force at that instant. Without it, the one that is."""


class PoliciesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A page of the policies; the newest first."""

    limit: Limit = 100
    cursor: Cursor | None = None


class DashboardQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What time a dashboard is about, and in which steps."""

    since: Timestamp | None = None
    """From its hour on. Without it, 30 days before `until`."""
    until: Timestamp | None = None
    """Without it, now."""
    by: Literal["hour", "day"] = "day"


def read_query(text: bytes, expected: type[T]) -> T | InvalidEvent:
    """The query, or a refusal with every fault; pointers are the parameters' names, `/limit`."""
    if len(text) > MAX_QUERY_CHARACTERS:
        return InvalidEvent(
            400, "the query is too long", [FieldError("", f"has more than {MAX_QUERY_CHARACTERS} characters")]
        )
    types = _parameter_types(expected)  # type: ignore[arg-type]
    data: dict[str, Any] = {}
    repeated: dict[str, FieldError] = {}
    # Bytes that are no UTF-8 become the replacement character, which nothing here has in it.
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        if name in data:
            fault = FieldError(
                append_pointer("", name), f"{format_value(name)} is sent more than once: use it once", "repeated"
            )
            repeated[name] = fault
        data[name] = _coerce(value, types.get(name, str))
    faults = [*repeated.values(), *validate(data, expected)]
    return invalid("query", faults, None) if faults else msgspec.convert(data, expected)


@cache
def _parameter_types(expected: type[Struct]) -> dict[str, type]:
    """What the text of each parameter stands for: bool, int, datetime or str."""
    types: dict[str, type] = {}
    for field in inspect.type_info(expected).fields:  # type: ignore[attr-defined]
        plain, _ = strip_metadata(field.type)
        members = (
            [strip_metadata(member)[0] for member in plain.types] if isinstance(plain, inspect.UnionType) else [plain]
        )
        for member in members:
            if isinstance(member, inspect.BoolType) or member == _ONLY_TRUE:
                types[field.encode_name] = bool
            elif isinstance(member, inspect.IntType):
                types[field.encode_name] = int
            elif isinstance(member, inspect.DateTimeType):
                types[field.encode_name] = datetime
    return types


def _coerce(value: str, kind: type) -> object:
    """JSON has numbers and booleans, and a query has only text."""
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is datetime:
        return without_leap_second(value)
    return int(value) if kind is int and _INTEGER.fullmatch(value) else value


def write_cursor(of: str, *values: str | int) -> str:
    """Where a page of a list ended, in a form that nobody reads anything into."""
    return base64.urlsafe_b64encode(msgspec.json.encode((of, *values))).decode().rstrip("=")


def read_cursor(cursor: str | None, of: str, *shape: Any) -> tuple[Any, ...] | InvalidEvent | None:
    """What `write_cursor` was given behind the name of the list: values of these types."""
    if cursor is None:
        return None
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        read_name, *values = msgspec.json.decode(content, type=tuple.__class_getitem__((str, *shape)))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        read_name, values = "", []
    if read_name == of and write_cursor(of, *values) == cursor:
        return tuple(values)
    fault = FieldError(
        "/cursor", f"{format_value(cursor)} is not a cursor of this list: use next_cursor of the page before it"
    )
    return invalid("query", [fault], None)

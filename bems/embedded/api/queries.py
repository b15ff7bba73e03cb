"""Query parameters."""

import re
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct, field, inspect

from bems.embedded.alerting.delivery import DeliveryState
from bems.embedded.api.pages import PagedQuery
from bems.tracker.actions import Severity
from bems.tracker.contract import Date, Label, Stage, Timestamp
from bems.tracker.instants import without_leap_second
from bems.tracker.parsing import InvalidEvent, reject_invalid
from bems.tracker.record import Mark
from bems.tracker.status import Status
from bems.validation.error_messages import format_value, strip_metadata
from bems.validation.field_errors import FieldError, append_pointer, validate

T = TypeVar("T")

MAX_QUERY_CHARACTERS = 4096

FilterText = Annotated[str, Meta(min_length=1, max_length=128, description="1 to 128 characters")]


_ONLY_TRUE = inspect.LiteralType((True,))
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,8}", re.ASCII)


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Query of an operation without parameters."""


class InvoicesQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of invoices. Stuck invoices are ordered by waiting time, longest first; others by id."""

    status: Status | None = None
    stage: Stage | None = None
    """The stage whose event the invoices wait for."""
    stuck: Literal[True] | None = None
    """Only stuck invoices: their current wait has raised an alert, or they are parked."""
    sort: Literal["age", "value"] | None = None
    """Order of stuck invoices: longest waiting first, or by currency with the largest amount first."""
    mark: Mark | None = None


class AlertsQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of alerts, newest first."""

    invoice_id: FilterText | None = None
    stage: Stage | None = None
    severity: Severity | None = None


class CommandsQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of commands, newest first."""

    invoice_id: FilterText | None = None
    result: Literal["accepted", "refused", "requested"] | None = None


class DeadLettersQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of dead letters, ordered by event id."""

    invoice_id: FilterText | None = None
    error: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """Only dead letters whose error contains this text."""
    set_aside: bool | None = None
    """`true`: only dead letters that are not retried automatically; `false`: only the others."""


class DeliveriesQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of deliveries, oldest alert first."""

    state: DeliveryState = "waiting"


class PolicyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Selection of a policy."""

    at: Timestamp | None = None
    """Time at which the policy was in force; default now."""


class DashboardQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Period and step of a dashboard."""

    since: Timestamp | None = None
    """Start, rounded down to the hour; default 30 days before `until`."""
    until: Timestamp | None = None
    """End, exclusive; default now."""
    by: Literal["hour", "day"] = "day"


class ControlTotalsQuery(PagedQuery, frozen=True, forbid_unknown_fields=True):
    """Filters of the list of control totals, the latest interval first."""

    source: Label | None = None
    stage: Stage | None = None
    day: Date | None = None
    """Only intervals that begin on this day in UTC."""


class SourceEventsQuery(PagedQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Selection of a source's events: those of one stage that occurred in the interval [from, to), by event id."""

    source: Label
    stage: Stage
    since: Timestamp = field(name="from")
    until: Timestamp = field(name="to")
    limit: Annotated[int, Meta(ge=1, le=10_000, description="1 to 10000")] = 1_000


def read_query(text: bytes, expected: type[T]) -> T | InvalidEvent:
    """Return the query, or InvalidEvent with every fault; a pointer is the name of a parameter, such as `/limit`."""
    if len(text) > MAX_QUERY_CHARACTERS:
        return InvalidEvent(
            400, "the query is too long", [FieldError("", f"has more than {MAX_QUERY_CHARACTERS} characters")]
        )
    types = _parameter_types(expected)  # type: ignore[arg-type]
    data: dict[str, Any] = {}
    repeated: dict[str, FieldError] = {}
    # Invalid UTF-8 becomes the replacement character, which no valid value contains.
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        if name in data:
            fault = FieldError(
                append_pointer("", name), f"{format_value(name)} is sent more than once: use it once", "repeated"
            )
            repeated[name] = fault
        data[name] = _coerce(value, types.get(name, str))
    faults = [*repeated.values(), *validate(data, expected)]
    return reject_invalid("query", faults, None) if faults else msgspec.convert(data, expected)


@cache
def _parameter_types(expected: type[Struct]) -> dict[str, type]:
    """Return the type of each parameter that is not a string: bool, int or datetime."""
    types: dict[str, type] = {}
    for one in inspect.type_info(expected).fields:  # type: ignore[attr-defined]
        plain, _ = strip_metadata(one.type)
        members = (
            [strip_metadata(member)[0] for member in plain.types] if isinstance(plain, inspect.UnionType) else [plain]
        )
        for member in members:
            if isinstance(member, inspect.BoolType) or member == _ONLY_TRUE:
                types[one.encode_name] = bool
            elif isinstance(member, inspect.IntType):
                types[one.encode_name] = int
            elif isinstance(member, inspect.DateTimeType):
                types[one.encode_name] = datetime
    return types


def _coerce(value: str, kind: type) -> object:
    """Convert the text of a parameter to its type; return it unchanged if it is not valid, so that validation fails."""
    if kind is bool and value in ("true", "false"):
        return value == "true"
    if kind is datetime:
        return without_leap_second(value)
    return int(value) if kind is int and _INTEGER.fullmatch(value) else value

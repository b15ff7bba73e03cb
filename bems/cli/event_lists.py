"""A source's own list of the events that it sent, read from a file and compared with a cell."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from bems.cli.errors import UserError
from bems.cli.files import LogFile
from bems.embedded.api.control_totals import KnownEvent, SourceEventSummary
from bems.tracker.contract import Amount, CurrencyCode, Identifier, Stage

EXPECTED_LIST_FORMAT = (
    "write one event id per line, or CSV with the columns event_id, amount and currency (only event_id is required), "
    'or JSON lines, {"event_id": ..., "amount": ..., "currency": ...}'
)

MAX_REPORTED_ERRORS = 20
"""Maximum number of faulty lines that are reported."""

EventDifferenceKind = Literal["missing", "not applied", "different", "unknown"]
"""`missing`: the cell never accepted the event. `not applied`: it accepted the event, whose processing failed.
`different`: it has the event with another source, stage, amount or currency. `unknown`: the source does not list it."""

_BYTE_ORDER_MARK = "\ufeff"


class ListedEvent(NamedTuple):
    """An event as its source lists it. The amount and currency are None if the list does not have them."""

    event_id: str
    amount: Decimal | None = None
    currency: str | None = None


class EventDifference(Struct, frozen=True):
    """A difference between the list and the cell. `expected` is the list's value, `found` the cell's."""

    event_id: str
    difference: EventDifferenceKind
    expected: str | None = None
    found: str | None = None


class ListFilter(NamedTuple):
    """Source and stage to compare; None for any. Lines of an event log that have another one are left out."""

    source: str | None = None
    stage: Stage | None = None


class EventListFile(LogFile):
    """A file with a list of events, plain or gzipped."""

    EXPECTED_FORMAT = EXPECTED_LIST_FORMAT


class _Line(Struct, frozen=True):
    """Line of a list or of an event log. An event's other fields are ignored."""

    event_id: Identifier | None = None
    amount: Amount | None = None
    currency: CurrencyCode | None = None
    source: Any = None
    stage: Any = None
    event: Any = None


class _Row(Struct, frozen=True):
    """A listed event, with the same rules in every format."""

    event_id: Identifier
    amount: Amount | None = None
    currency: CurrencyCode | None = None


class _InvalidLine(Exception):
    """A line that is no listed event. The message says why."""


def read_event_list(path: str, wanted: ListFilter) -> dict[str, ListedEvent]:
    """Return the events in a file by id. Raises UserError with the numbers of the lines that cannot be read."""
    file = EventListFile(path)
    events: dict[str, ListedEvent] = {}
    errors: list[str] = []
    try:
        for number, line in _read_lines(file, wanted):
            if isinstance(line, _InvalidLine):
                errors.append(f"{path}: line {number}: {line}")
            elif events.setdefault(line.event_id, line) != line:
                errors.append(f"{path}: line {number}: {line.event_id} is listed before with another amount")
            if len(errors) >= MAX_REPORTED_ERRORS:
                break
    finally:
        file.close()
    if errors:
        raise UserError("\n".join(errors))
    if not events:
        raise UserError(f"{path}: there is no event in it: {EXPECTED_LIST_FORMAT}")
    return events


def _read_lines(file: EventListFile, wanted: ListFilter) -> Iterator[tuple[int, ListedEvent | _InvalidLine]]:
    """Yield each line's event or fault, with the line's number. The first line decides the format."""
    lines = _decode(file)
    number, first = next(lines, (0, ""))
    if not first:
        return
    rest: Iterator[tuple[int, str]] = _prepend((number, first), lines)
    if first.lstrip().startswith("{"):
        for number, line in rest:
            event = _read_json(line, wanted)
            if event is not None:
                yield number, event
        return
    delimiter = max(",;\t", key=first.count)
    if "event_id" in [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]:
        yield from _read_csv(rest, delimiter)
    elif delimiter in first:
        yield number, _InvalidLine("this looks like CSV, and its first line has no column event_id")
    else:
        for number, line in rest:
            yield number, _read_row({"event_id": line.strip()})


def _decode(file: EventListFile) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, without their line ends, each with its number."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{file.path}: line {number} is not UTF-8 text: {error.reason}") from error
        text = text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text
        if text.strip():
            yield number, text.rstrip("\r\n")


def _prepend(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _read_json(line: str, wanted: ListFilter) -> ListedEvent | _InvalidLine | None:
    """Return the line's event, None if it has another source or stage than the wanted one."""
    try:
        read = msgspec.json.decode(line, type=_Line)
        stage = read.stage
        if read.event is not None:
            read = msgspec.convert(read.event, _Line)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _InvalidLine(str(error))
    source = read.source.get("system") if isinstance(read.source, dict) else read.source
    if wanted.stage is not None and stage not in (None, wanted.stage):
        return None
    if wanted.source is not None and source not in (None, wanted.source):
        return None
    return _read_row({"event_id": read.event_id, "amount": read.amount, "currency": read.currency})


def _read_csv(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, ListedEvent | _InvalidLine]]:
    names: list[str] | None = None
    for number, line in lines:
        values = [value.strip() for value in next(csv.reader([line], delimiter=delimiter))]
        if names is None:
            names = values
        elif len(values) != len(names):
            yield number, _InvalidLine(f"has {len(values)} columns, and the first line has {len(names)}")
        else:
            row = dict(zip(names, values, strict=True))
            yield number, _read_row({name: row.get(name) or None for name in ("event_id", "amount", "currency")})


def _read_row(values: dict[str, str | None]) -> ListedEvent | _InvalidLine:
    try:
        row = msgspec.convert(values, _Row)
    except msgspec.ValidationError as error:
        return _InvalidLine(str(error))
    return ListedEvent(row.event_id, None if row.amount is None else Decimal(row.amount), row.currency)


def find_event_differences(
    listed: Mapping[str, ListedEvent], known: Iterable[KnownEvent], wanted: ListFilter
) -> list[EventDifference]:
    """Return the listed events that the cell does not have, or has otherwise. `known` are those that it accepted."""
    found = {event.event_id: event for event in known}
    return [
        difference
        for id, event in listed.items()
        for difference in (_compare(event, found[id], wanted) if id in found else [EventDifference(id, "missing")])
    ]


def find_unknown_events(
    listed: Mapping[str, ListedEvent], of_source: Iterable[SourceEventSummary]
) -> list[EventDifference]:
    """Return the cell's events of the source that its list does not have."""
    return [
        EventDifference(event.event_id, "unknown", None, f"{event.amount} {event.currency}")
        for event in of_source
        if event.event_id not in listed
    ]


def _compare(listed: ListedEvent, known: KnownEvent, wanted: ListFilter) -> Iterator[EventDifference]:
    id = listed.event_id
    if not known.applied:
        yield EventDifference(id, "not applied")
    for expected, found in ((wanted.source, known.source), (wanted.stage, known.stage)):
        if expected is not None and expected != found:
            yield EventDifference(id, "different", expected, found)
    is_other_amount = listed.amount is not None and listed.amount != Decimal(known.amount)
    is_other_currency = listed.currency is not None and listed.currency != known.currency
    if is_other_amount or is_other_currency:
        amount = known.amount if listed.amount is None else f"{listed.amount:f}"
        sums = f"{amount} {listed.currency or known.currency}", f"{known.amount} {known.currency}"
        yield EventDifference(id, "different", *sums)

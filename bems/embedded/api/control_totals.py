"""Control totals over the API: sent, compared and listed, and the events of a source that they count."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from typing import TypeVar

import duckdb
from msgspec import Struct, field

from bems.embedded.analytics.source_events import count_events, list_source_events
from bems.embedded.analytics.time_series import NotOpen
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.pages import Page, read_cursor, write_cursor
from bems.embedded.api.queries import ControlTotalsQuery, SourceEventsQuery
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.storage.reader import Reader
from bems.embedded.writer import EventCount
from bems.tracker import responses
from bems.tracker.contract import Stage
from bems.tracker.control_totals import (
    ControlTotalState,
    ControlTotalStatus,
    EventTotals,
    TotalDifference,
    parse_control_total,
)
from bems.tracker.currencies import render_amount
from bems.tracker.instants import DAY, EARLIEST, LATEST, Instant, clamp, from_datetime, render, to_datetime
from bems.tracker.parsing import InvalidEvent, reject_invalid
from bems.tracker.responses import HttpResponse
from bems.validation.field_errors import FieldError

log = logging.getLogger(__name__)

T = TypeVar("T")

SERIES_TIMEOUT_SECONDS = 10.0
"""Maximum time that a request waits for DuckDB to have every row of the store."""

SERIES_POLL_SECONDS = 0.02

SERIES_BEHIND = "DuckDB does not have every event yet"


class StatedTotals(Struct, frozen=True):
    """Number of distinct events, and the sum of their amounts by currency as decimal strings."""

    events: int
    amounts: dict[str, str]


class ControlTotalResult(Struct, frozen=True):
    """A control total and its newest comparison.

    `stated` is what the source says it sent, and `found` what the cell had at `checked_at`. `status` is `complete` if
    they are equal, otherwise `different`, and `waiting` before the first comparison. A control total that differs is
    compared again; its alert is raised at `alert_due_at` if it still differs then.
    """

    source: str
    stage: Stage
    since: datetime = field(name="from")
    until: datetime = field(name="to")
    status: ControlTotalStatus
    stated: StatedTotals
    found: StatedTotals | None
    differences: list[TotalDifference]
    stated_at: datetime
    checked_at: datetime | None
    alert_due_at: datetime | None
    alerted_at: datetime | None


class SourceEventSummary(Struct, frozen=True):
    """An applied event of a source, with the amount and currency that it stated."""

    event_id: str
    occurred_at: datetime
    amount: str
    currency: str


class KnownEvent(Struct, frozen=True):
    """An accepted event. `applied` is false for a dead letter: it is not counted in the time series yet."""

    event_id: str
    source: str
    stage: Stage
    occurred_at: datetime
    amount: str
    currency: str
    applied: bool


async def receive_control_total(context: CellContext, bridge: WriterBridge, body: bytes, key: str) -> HttpResponse:
    """Store a control total, compare it, and return the result. `key` is the id of the caller's key.

    If it cannot be compared now, the response is 503. It is stored nevertheless, and compared later.
    """
    total = parse_control_total(body, context.clock.now())
    if isinstance(total, InvalidEvent):
        return responses.bad_request(total)
    await bridge.submit(total)
    found = await _query_series(context, lambda: count_events(context.analytics, total), key)
    if isinstance(found, HttpResponse):
        return found
    await bridge.submit(EventCount(total, found))
    state = await context.readers.read_for_action(lambda reader: reader.control_total(total.id))
    assert state is not None, "no control total is ever deleted"
    return responses.json_response(200, view_control_total(state))


async def list_states(context: CellContext, query: ControlTotalsQuery, key: str) -> HttpResponse:
    """Return a page of control totals, the latest interval first."""
    before = read_cursor(query.cursor, "control totals", int, str)
    if isinstance(before, InvalidEvent):
        return responses.bad_request(before)
    states = await context.readers.read(
        lambda reader: reader.control_totals(
            source=query.source,
            stage=query.stage,
            since=None if query.day is None else _day_bounds(query.day),
            before=(before[0], before[1]) if before else None,
            limit=query.limit,
        ),
        key,
    )
    cursor = None
    if len(states) == query.limit:
        last = states[-1].total
        cursor = write_cursor("control totals", last.until, last.id)
    return responses.json_response(200, Page([view_control_total(state) for state in states], cursor))


async def list_events_of_source(context: CellContext, query: SourceEventsQuery, key: str) -> HttpResponse:
    """Return a page of a source's events that occurred in an interval, ordered by event id."""
    after = read_cursor(query.cursor, "source events", str)
    if isinstance(after, InvalidEvent):
        return responses.bad_request(after)
    since, until = (clamp(from_datetime(at), LATEST) for at in (query.since, query.until))
    if since >= until:
        detail = f"{render(until)} is not after from, {render(since)}: to is exclusive"
        return responses.bad_request(reject_invalid("query", [FieldError("/to", detail, "not after from")], None))
    events = await _query_series(
        context,
        lambda: list_source_events(
            context.analytics,
            query.source,
            query.stage,
            since,
            until,
            after=after[0] if after else "",
            limit=query.limit,
        ),
        key,
    )
    if isinstance(events, HttpResponse):
        return events
    cursor = write_cursor("source events", events[-1].event_id) if len(events) == query.limit else None
    shown = [
        SourceEventSummary(
            event.event_id,
            event.occurred_at.replace(tzinfo=UTC),
            render_amount(event.amount, event.currency),
            event.currency,
        )
        for event in events
    ]
    return responses.json_response(200, Page(shown, cursor))


def view_known_events(reader: Reader, event_ids: list[str]) -> list[KnownEvent]:
    """Return the accepted events among these ids, in the order of the ids, each once."""
    found = {event.event_id: (event, applied) for event, applied in reader.events_by_id(event_ids)}
    return [
        KnownEvent(
            id,
            event.facts.source.system,
            event.stage,
            to_datetime(event.occurred_at),
            format(event.facts.amount, "f"),
            event.facts.currency,
            applied,
        )
        for id in dict.fromkeys(event_ids)
        if id in found
        for event, applied in [found[id]]
    ]


def view_control_total(state: ControlTotalState) -> ControlTotalResult:
    """Return the view of a control total."""
    total, status = state.total, state.status
    is_alert_pending = status == "different" and state.alerted_at is None
    return ControlTotalResult(
        total.source,
        total.stage,
        to_datetime(total.since),
        to_datetime(total.until),
        status,
        _view_totals(total.stated),
        None if state.found is None else _view_totals(state.found),
        state.differences,
        to_datetime(state.stated_at),
        _to_datetime(state.checked_at),
        to_datetime(state.alert_due_at) if is_alert_pending else None,
        _to_datetime(state.alerted_at),
    )


def _view_totals(totals: EventTotals) -> StatedTotals:
    return StatedTotals(totals.events, totals.render_amounts())


def _to_datetime(instant: Instant | None) -> datetime | None:
    return None if instant is None else to_datetime(instant)


def _day_bounds(day: date) -> tuple[Instant, Instant]:
    begin = from_datetime(datetime.combine(day, time_of_day(), UTC))
    return max(begin, EARLIEST), begin + DAY


async def _query_series(context: CellContext, query: Callable[[], T], key: str) -> T | HttpResponse:
    """Run a query of DuckDB once it has every row that the store has now. Return 503 if it fails, or takes too long."""
    newest = await context.readers.read_for_action(lambda reader: reader.newest_transition())
    deadline = time.monotonic() + SERIES_TIMEOUT_SECONDS
    why = SERIES_BEHIND
    context.analytics.wake()
    while True:
        if context.analytics.watermark >= newest:
            try:
                return await context.readers.run_blocking(query, key)
            except NotOpen as closed:
                # The feeder opens DuckDB after a start, and again when a query needs more memory.
                why = str(closed)
            except duckdb.Error as error:
                log.error("the events of a source could not be counted: %s", error)
                return responses.unavailable(why="the query in DuckDB failed, and the cell's log says why")
        if time.monotonic() >= deadline:
            return responses.unavailable(5, why)
        await asyncio.sleep(SERIES_POLL_SECONDS)

"""Dashboards, as they are asked for over HTTP."""

import logging

import duckdb
from msgspec import Struct

from bems.embedded.analytics import dashboards
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.analytics.time_series import NotOpen
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.queries import DashboardQuery
from bems.tracker import responses
from bems.tracker.instants import DAY, Instant, clamp, from_datetime, render
from bems.tracker.parsing import invalid
from bems.tracker.responses import HttpResponse
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

log = logging.getLogger(__name__)

DAYS = 30


class Name(Struct, frozen=True):
    """A dashboard that can be asked for."""

    name: str
    summary: str


class Rows(Struct, frozen=True):
    """What a dashboard shows of the hours from that of `since` on and before `until`: rows with a value for each
    column. Amounts are decimals as text, times RFC 3339."""

    name: str
    since: str
    until: str
    columns: tuple[str, ...]
    rows: list[list[str | int | float | None]]
    truncated: bool = False
    """Whether the earliest rows are left out, because there are too many for one answer."""


def names() -> list[Name]:
    """All there are."""
    return [Name(name, one.summary) for name, one in DASHBOARDS.items()]


async def look(parts: CellContext, name: str, query: DashboardQuery, key: str) -> HttpResponse:
    """What it shows now. `key` is the id of the key that asks."""
    if name not in DASHBOARDS:
        return responses.not_found(
            f"there is no dashboard {format_value(name)}: ask for one of {', '.join(DASHBOARDS)}"
        )
    # Now is past as soon as it is asked for: its hour too, if it begins one.
    until = parts.clock.now() + 1 if query.until is None else clamp(from_datetime(query.until))
    since = clamp(until - DAYS * DAY if query.since is None else from_datetime(query.since))
    # A time beyond all times is taken as the last one, and shows nothing.
    if query.since is not None and since == from_datetime(query.since) and since >= until:
        detail = f"{render(since)} is not before until, {render(until)}: nothing lies between; exchange them?"
        return responses.bad_request(invalid("query", [FieldError("/since", detail, "reversed")], None))
    try:
        return await parts.readers.run_blocking(lambda: _show(parts, name, since, until, query), key)
    except NotOpen as closed:
        return responses.unavailable(1, str(closed))
    except duckdb.Error as error:
        log.error("the dashboard %s could not be answered: %s", name, error)
        return responses.unavailable(why="DuckDB cannot answer, and the cell's log says why")


def _show(parts: CellContext, name: str, since: Instant, until: Instant, query: DashboardQuery) -> HttpResponse:
    rows = dashboards.query_dashboard(parts.analytics, name, since, until, query.by, dashboards.MAX_ROWS + 1)
    kept, columns = rows[-dashboards.MAX_ROWS :], DASHBOARDS[name].columns
    return responses.json_response(200, Rows(name, render(since), render(until), columns, kept, len(kept) < len(rows)))

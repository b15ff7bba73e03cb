"""Dashboards over HTTP."""

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
from bems.tracker.parsing import reject_invalid
from bems.tracker.responses import HttpResponse
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError

log = logging.getLogger(__name__)

DEFAULT_PERIOD_DAYS = 30
"""Length of a dashboard's period if the query has no `since`."""


class DashboardSummary(Struct, frozen=True):
    """Name and summary of a dashboard."""

    name: str
    summary: str


class DashboardRows(Struct, frozen=True):
    """The rows of a dashboard, each with a value for every column.

    They cover the hours from the one that contains `since`, up to but excluding `until`. Amounts are decimal strings,
    times RFC 3339.
    """

    name: str
    since: str
    until: str
    columns: tuple[str, ...]
    rows: list[list[str | int | float | None]]
    truncated: bool = False
    """Whether the earliest rows are omitted, because the response would have too many rows."""


def list_dashboards() -> list[DashboardSummary]:
    """Return all dashboards."""
    return [DashboardSummary(name, one.summary) for name, one in DASHBOARDS.items()]


async def show_dashboard(context: CellContext, name: str, query: DashboardQuery, key: str) -> HttpResponse:
    """Return the dashboard's rows. `key` is the id of the caller's key."""
    if name not in DASHBOARDS:
        return responses.not_found(f"there is no dashboard {format_value(name)}: use one of {', '.join(DASHBOARDS)}")
    # `until` is exclusive. Adding 1 includes the current hour even if it starts exactly now.
    until = context.clock.now() + 1 if query.until is None else clamp(from_datetime(query.until))
    since = clamp(until - DEFAULT_PERIOD_DAYS * DAY if query.since is None else from_datetime(query.since))
    # A `since` that was out of range and clamped is no error: the dashboard is empty then.
    if query.since is not None and since == from_datetime(query.since) and since >= until:
        detail = f"{render(since)} is not before until, {render(until)}: use a since that is earlier than until"
        return responses.bad_request(reject_invalid("query", [FieldError("/since", detail, "reversed")], None))
    try:
        return await context.readers.run_blocking(lambda: _query_dashboard(context, name, since, until, query), key)
    except NotOpen as closed:
        return responses.unavailable(1, str(closed))
    except duckdb.Error as error:
        log.error("the query of dashboard %s failed: %s", name, error)
        return responses.unavailable(why="the query in DuckDB failed, and the cell's log says why")


def _query_dashboard(
    context: CellContext, name: str, since: Instant, until: Instant, query: DashboardQuery
) -> HttpResponse:
    rows = dashboards.query_dashboard(
        context.analytics, name, since, until, query.by, dashboards.MAX_DASHBOARD_ROWS + 1
    )
    kept, columns = rows[-dashboards.MAX_DASHBOARD_ROWS :], DASHBOARDS[name].columns
    return responses.json_response(
        200, DashboardRows(name, render(since), render(until), columns, kept, len(kept) < len(rows))
    )

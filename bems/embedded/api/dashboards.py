"""Dashboards, as they are asked for over HTTP."""

import logging

import duckdb
from msgspec import Struct

from bems.embedded import dashboards
from bems.embedded.api.parts import Parts
from bems.embedded.api.queries import DashboardQuery
from bems.embedded.dashboards import DASHBOARDS
from bems.embedded.time_series import NotOpen
from bems.tracker import answers
from bems.tracker.answers import HttpAnswer
from bems.tracker.faults import Fault
from bems.tracker.gate import invalid
from bems.tracker.instants import DAY, Instant, bounded, from_datetime, render
from bems.tracker.wording import show

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


async def look(parts: Parts, name: str, query: DashboardQuery, key: str) -> HttpAnswer:
    """What it shows now. `key` is the id of the key that asks."""
    if name not in DASHBOARDS:
        return answers.not_found(f"there is no dashboard {show(name)}: ask for one of {', '.join(DASHBOARDS)}")
    # Now is past as soon as it is asked for: its hour too, if it begins one.
    until = parts.clock.now() + 1 if query.until is None else bounded(from_datetime(query.until))
    since = bounded(until - DAYS * DAY if query.since is None else from_datetime(query.since))
    # A time beyond all times is taken as the last one, and shows nothing.
    if query.since is not None and since == from_datetime(query.since) and since >= until:
        detail = f"{render(since)} is not before until, {render(until)}: nothing lies between; exchange them?"
        return answers.refused(invalid("query", [Fault("/since", detail, "reversed")], None))
    try:
        return await parts.readers.run(lambda: _show(parts, name, since, until, query), key)
    except NotOpen as closed:
        return answers.unavailable(1, str(closed))
    except duckdb.Error as error:
        log.error("the dashboard %s could not be answered: %s", name, error)
        return answers.unavailable(why="DuckDB cannot answer, and the cell's log says why")


def _show(parts: Parts, name: str, since: Instant, until: Instant, query: DashboardQuery) -> HttpAnswer:
    rows = dashboards.ask(parts.analytics, name, since, until, query.by, dashboards.MAX_ROWS + 1)
    kept, columns = rows[-dashboards.MAX_ROWS :], DASHBOARDS[name].columns
    return answers.content(200, Rows(name, render(since), render(until), columns, kept, len(kept) < len(rows)))

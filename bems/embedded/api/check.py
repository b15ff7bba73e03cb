"""Consistency check: every accepted event is accounted for, and the store and DuckDB hold the same time series."""

from decimal import Decimal
from typing import Any

import duckdb
from msgspec import Struct

from bems.embedded.analytics import dashboards
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.analytics.time_series import NotOpen
from bems.embedded.api.cell_context import CellContext
from bems.embedded.storage.reader import Counts, Reader, Total
from bems.tracker.currencies import render_amount
from bems.tracker.instants import EARLIEST, LATEST
from bems.tracker.status import Status


class Difference(Struct, frozen=True):
    """A status and currency for which the invoice records and the time series differ. Amounts are decimal strings."""

    status: Status
    currency: str
    invoices: int
    series_invoices: int
    amount: str
    series_amount: str


class Check(Struct, frozen=True):
    """The result of the check: counts of events and rows in the store and in DuckDB.

    `accepted`      events in the archive.
    `dead_letters`  accepted events that have not been applied, because their processing failed.
    `set_aside`     dead letters that are not retried automatically; an operator must redrive them.
    `transitions`   rows of the time series in the store.
    `analytics`     rows of the time series in DuckDB, which is at most two seconds behind.
    `applied`       event rows in DuckDB: one for each accepted event that is not a dead letter.
    `alerts`        alerts in the store, without messages of kind `resolved`.
    `alert_rows`    alert rows in DuckDB.
    `differences`   statuses and currencies whose number or amount of invoices differs between records and series.
    `balanced`      true if accepted = applied + dead_letters, transitions = analytics, alerts = alert_rows, and there
                    are no differences. Otherwise false, or null if the counts are not comparable: DuckDB is behind or
                    not open, or the store changed during the check.
    """

    accepted: int
    applied: int
    dead_letters: int
    set_aside: int
    transitions: int
    analytics: int
    alerts: int
    alert_rows: int
    differences: list[Difference]
    balanced: bool | None


async def check_consistency(context: CellContext, key: str) -> Check:
    """Run the check now. `key` is the id of the caller's key."""
    counts, totals = await context.readers.read(_count_store, key)
    watermark = context.analytics.watermark
    kinds, backlog = await context.readers.run_blocking(lambda: _count_series(context.analytics), key)
    # Counts are comparable only if DuckDB had every row of the store, and the store did not change during the check.
    is_stable = (
        watermark == counts.transitions and await context.readers.read(lambda reader: reader.counts(), key) == counts
    )
    differences = find_differences(totals, backlog)
    rows = sum(kinds.values()) if kinds else 0
    applied, alert_rows = (kinds.get("event", 0), kinds.get("alert", 0)) if kinds else (0, 0)
    is_balanced = (
        counts.events == applied + counts.dead_letters
        and counts.transitions == rows
        and counts.alerts == alert_rows
        and not differences
    )
    return Check(
        counts.events,
        applied,
        counts.dead_letters,
        counts.set_aside_dead_letters,
        counts.transitions,
        rows,
        counts.alerts,
        alert_rows,
        differences,
        True if is_balanced else False if is_stable and kinds is not None else None,
    )


def find_differences(totals: list[Total], backlog: list[list[Any]]) -> list[Difference]:
    """Return where records and series differ. `backlog` contains the rows of the backlog dashboard."""
    records = {(one.status, one.currency): (one.invoices, render_amount(one.amount, one.currency)) for one in totals}
    series = {(status, currency): (int(count), amount) for status, currency, count, amount in backlog}
    differences = []
    for status, currency in sorted(records.keys() | series.keys()):
        count, amount = records.get((status, currency), (0, "0"))
        series_count, series_amount = series.get((status, currency), (0, "0"))
        if (count, Decimal(amount)) != (series_count, Decimal(series_amount)):
            differences.append(Difference(status, currency, count, series_count, amount, series_amount))
    return differences


def _count_store(reader: Reader) -> tuple[Counts, list[Total]]:
    return reader.counts(), reader.totals()


def _count_series(analytics: AnalyticsFeeder) -> tuple[dict[str, int] | None, list[list[Any]]]:
    """Return the number of DuckDB rows by kind (None if DuckDB is unavailable), and the backlog dashboard's rows."""
    try:
        return analytics.kinds(), dashboards.query_dashboard(analytics, "backlog", EARLIEST, LATEST, "day")
    except (NotOpen, duckdb.Error):
        return None, []

"""The books: whether every accepted event is accounted for, and the series is the same in both places."""

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
    """A status and currency of which the records and the series say different things. Amounts are decimals in text."""

    status: Status
    currency: str
    invoices: int
    series_invoices: int
    amount: str
    series_amount: str


class Check(Struct, frozen=True):
    """The cell's events and rows, counted where they are.

    `accepted`      events in the archive.
    `dead_letters`  those of them that have not been applied: their handling failed; `set_aside` will stay so until they
                    are redriven.
    `transitions`   rows of the series in the store; `analytics` those in DuckDB, which is at most two seconds behind.
    `applied`       rows of events in DuckDB: each accepted event has one, unless it is a dead letter.
    `differences`   statuses and currencies whose invoices or amounts, as the records have them, are not those that the
                    series gives.
    `balanced`      accepted = applied + dead_letters, transitions = analytics, and no differences; null where that is
                    not so, but they were not seen at one moment: DuckDB is behind or not open, or more came in
                    meanwhile.
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


async def check_consistency(parts: CellContext, key: str) -> Check:
    """The books as they are now. `key` is the id of the key that asks."""
    counts, totals = await parts.readers.read(_count, key)
    fed = parts.analytics.watermark
    kinds, backlog = await parts.readers.run_blocking(lambda: _count_series(parts.analytics), key)
    # DuckDB had all of a store that did not change while it was asked: only then is what differs a difference.
    still = fed == counts.transitions and await parts.readers.read(lambda reader: reader.counts(), key) == counts
    differences = find_differences(totals, backlog)
    rows = sum(kinds.values()) if kinds else 0
    applied, alert_rows = (kinds.get("event", 0), kinds.get("alert", 0)) if kinds else (0, 0)
    even = counts.events == applied + counts.dead_letters and counts.transitions == rows and counts.alerts == alert_rows
    even = even and not differences
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
        True if even else False if still and kinds is not None else None,
    )


def find_differences(totals: list[Total], backlog: list[list[Any]]) -> list[Difference]:
    """Where records and series differ. `backlog` are the rows of the dashboard of that name."""
    records = {(one.status, one.currency): (one.invoices, render_amount(one.amount, one.currency)) for one in totals}
    series = {(status, currency): (int(count), amount) for status, currency, count, amount in backlog}
    differences = []
    for status, currency in sorted(records.keys() | series.keys()):
        count, amount = records.get((status, currency), (0, "0"))
        told_count, told_amount = series.get((status, currency), (0, "0"))
        if (count, Decimal(amount)) != (told_count, Decimal(told_amount)):
            differences.append(Difference(status, currency, count, told_count, amount, told_amount))
    return differences


def _count(reader: Reader) -> tuple[Counts, list[Total]]:
    return reader.counts(), reader.totals()


def _count_series(analytics: AnalyticsFeeder) -> tuple[dict[str, int] | None, list[list[Any]]]:
    """How many rows of each kind DuckDB has (None where it cannot tell now), and what it says of the invoices."""
    try:
        return analytics.kinds(), dashboards.query_dashboard(analytics, "backlog", EARLIEST, LATEST, "day")
    except (NotOpen, duckdb.Error):
        return None, []

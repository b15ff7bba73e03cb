"""Dashboards over a hundred million transitions, the number that a company of this size has after a month."""

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import get_args

import duckdb

from bems.embedded.analytics import dashboards, rollup
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.analytics.time_series import TimeSeries
from bems.tracker.instants import DAY, parse
from bems.tracker.transitions import Transition
from bench.figures import Figure

ROWS, CHUNK = 100_000_000, 5_000_000
FEED_BATCHES = 20
"""Number of final batches that are inserted and rolled up as the cell's feed does; earlier rows use larger chunks."""

START, DAYS = parse("2026-10-01T00:00:00Z"), 30

_STAGES = "['ingestion', 'authorization', 'reconciliation', 'posting']"
_STATUSES = "['AwaitingAuthorization', 'AwaitingReconciliation', 'AwaitingPosting', 'Posted']"
_OUTCOMES = "['received', 'approved', 'matched', 'posted']"
_CURRENCIES = "['EUR', 'USD', 'GBP', 'JPY', 'CHF', 'INR', 'BRL', 'SGD']"
_STEP = DAYS * DAY // ROWS
"""Microseconds between two rows."""

# Four rows per invoice. A few of them are alerts, which do not change the status.
_VALUES = {
    "seq": "seq",
    "invoice_id": "'INV/2026/' || lpad((seq // 4)::VARCHAR, 9, '0')",
    "cell": "'bench'",
    "recorded_at": f"make_timestamp({START} + seq * {_STEP})",
    "stage": f"{_STAGES}[seq % 4 + 1]",
    "transition_id": "seq",
    "kind": "if(alert, 'alert', 'event')",
    "from_status": f"if(seq % 4 = 0, NULL, {_STATUSES}[if(alert, seq % 4 + 1, seq % 4)])",
    "to_status": f"{_STATUSES}[seq % 4 + 1]",
    "outcome": f"if(alert, NULL, {_OUTCOMES}[seq % 4 + 1])",
    "event_id": "if(alert, NULL, seq)",
    "superseded": "h % 97 = 0 AND NOT alert",
    "amount": "(h % 10000000) / 100",
    "currency": f"{_CURRENCIES}[seq // 4 % 8 + 1]",
    "vendor_id": "h % 5000",
    "vendor_tier": "['gold', 'silver', 'standard'][h % 3 + 1]",
    "terms_days": "30",
    "occurred_at": f"make_timestamp({START} + seq * {_STEP})",
    "received_at": f"make_timestamp({START} + seq * {_STEP})",
    "lag_ms": "if(alert, NULL, h % 40)",
    "step": "if(alert, 1, NULL)",
    "severity": "if(alert, if(h % 5 = 0, 'critical', 'warning'), NULL)",
    "decided_at": f"make_timestamp({START} + seq * {_STEP})",
    "policy_digest": "'0123456789abcdef'",
    "from_amount": "if(seq % 4 = 0, NULL, (seq // 4 % 10000000) / 100)",
    "from_currency": f"if(seq % 4 = 0, NULL, {_CURRENCIES}[seq // 4 % 8 + 1])",
    "to_amount": "(seq // 4 % 10000000) / 100",
    "to_currency": f"{_CURRENCIES}[seq // 4 % 8 + 1]",
    "source": "'sap-ecc'",
    "attributes": """'{"po":"4500012345"}'""",
}


class LastRow:
    """A store reduced to its last row, which is all that `TimeSeries` checks."""

    def __init__(self, seq: int) -> None:
        self._row = Transition(
            transition_id=f"{seq}",
            invoice_id="INV",
            kind="event",
            stage="posting",
            recorded_at=START + seq * _STEP,
            from_status=None,
            to_status="Posted",
            amount=Decimal(0),
            currency="EUR",
            vendor_id="V",
        )
        self._seq = seq

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        return [(self._seq, self._row)][:limit] if after < self._seq else []

    def close(self) -> None:
        pass


def measure(folder: Path) -> Iterator[Figure]:
    """Query each dashboard over the month, by day and by hour, three times each. The slowest query counts."""
    path = folder / "analytics.duckdb"
    TimeSeries(path, "bench", LastRow(0)).close()
    started = time.perf_counter()
    rollup_seconds = fill(path)
    fill_seconds = time.perf_counter() - started
    series = TimeSeries(path, "bench", LastRow(ROWS))
    try:
        [(hours,)] = series.query("SELECT count(*) FROM rolled_up", ())
        seconds = {
            (name, by): max(time_dashboard(series, name, by) for _ in range(3))
            for name in DASHBOARDS
            for by in get_args(dashboards.DashboardUnit)
        }
    finally:
        series.close()
    slowest = max(seconds, key=lambda one: seconds[one])
    times = "<br>".join(
        f"{name}: {seconds[name, 'day'] * 1000:.0f} ms by day, {seconds[name, 'hour'] * 1000:.0f} by hour"
        for name in DASHBOARDS
    )
    yield Figure(
        f"dashboards over {ROWS:,} transitions of {DAYS} days, the slowest ({slowest[0]} by {slowest[1]})",
        f"{seconds[slowest]:.2f} s",
        "1 s each",
        "0.2 s",
        seconds[slowest] <= 1,
    )
    yield Figure("each of them", times)
    yield Figure(
        "the same: the roll-up",
        f"{hours:,} rows; {rollup_seconds * 1e9:.0f} ns of wall time a transition, "
        f"{rollup.ROWS_PER_ROLLUP:,} at a time "
        f"(making the rows: {fill_seconds:.0f} s)",
    )


def time_dashboard(series: TimeSeries, name: str, by: dashboards.DashboardUnit) -> float:
    """Return the seconds of one query."""
    started = time.perf_counter()
    rows = dashboards.query_dashboard(series, name, START, START + DAYS * DAY, by)
    seconds = time.perf_counter() - started
    if not rows:
        raise RuntimeError(f"the dashboard {name} is empty")
    return seconds


def fill(path: Path) -> float:
    """Insert the rows and roll up all but the last ones, as the feed does.

    Returns the roll-up time per row in seconds, measured on the last batches.
    """
    seconds, rolled_up = 0.0, ROWS - rollup.ROWS_PER_ROLLUP + 1
    batches_from = rolled_up - FEED_BATCHES * rollup.ROWS_PER_ROLLUP
    with duckdb.connect(str(path), config={"threads": 2, "memory_limit": "1GB"}) as database:
        database.execute("INSERT INTO tiers VALUES ('gold'), ('silver'), ('standard')")
        for first in range(0, batches_from, CHUNK):
            insert(database, first, min(first + CHUNK, batches_from))
            database.execute(rollup.UPSERT_SQL, {"behind": first})
        for first in range(batches_from, rolled_up, rollup.ROWS_PER_ROLLUP):
            insert(database, first, first + rollup.ROWS_PER_ROLLUP)
            started = time.perf_counter()
            database.execute(rollup.UPSERT_SQL, {"behind": first})
            seconds += time.perf_counter() - started
        insert(database, rolled_up, ROWS)
        database.execute("UPDATE feed SET watermark = ?, rolled_up = ?", (ROWS, rolled_up))
    return seconds / (rolled_up - batches_from)


def insert(database: duckdb.DuckDBPyConnection, after: int, last: int) -> None:
    """Insert the transitions with numbers from `after` + 1 to `last`. Number 1 is the first row of an invoice."""
    values = ", ".join(f"{sql} AS {name}" for name, sql in _VALUES.items())
    database.execute(
        f"""INSERT INTO transitions BY NAME SELECT {values} FROM (
            SELECT range AS seq, (hash(range) % 1000000007)::BIGINT AS h,
            range % 4 > 0 AND hash(range) % 20 = 0 AS alert
            FROM range({after + 1}, {last + 1})
        )"""
    )

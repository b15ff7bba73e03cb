"""Dashboards for executives, operations and finance: queries of the hourly roll-up.

The SQL dialect is DuckDB's. `hourly` is a macro of the roll-up; names that begin with `$` are parameters.
"""

from typing import Any, Literal, NamedTuple, Protocol

from bems.tracker.currencies import render_amount
from bems.tracker.instants import Instant, to_datetime

DashboardUnit = Literal["hour", "day"]

MAX_DASHBOARD_ROWS = 20_000
"""Maximum number of rows in a result. It fits a month by the hour, except for `amounts` in a cell with many currencies
and tiers."""

_IN_RANGE = "hour >= $since AND hour < $until"
_BUCKET = "date_trunc($by, hour)"
_BUCKET_TEXT = f"strftime({_BUCKET}, '%Y-%m-%dT%H:%M:%SZ')"
"""DuckDB renders the timestamps as text: rendering thousands of rows in Python would take most of the query's time."""


class Dashboard(NamedTuple):
    """A query and its description. `sql` may use the parameters $since, $until and $by."""

    summary: str
    columns: tuple[str, ...]
    sql: str


DASHBOARDS: dict[str, Dashboard] = {
    "volume": Dashboard(
        "Events by stage and outcome; superseded ones came after a newer one",
        ("time", "stage", "outcome", "events", "superseded"),
        f"""SELECT {_BUCKET_TEXT}, stage, outcome, sum(transitions), sum(superseded) FROM hourly($behind)
        WHERE kind = 'event' AND {_IN_RANGE} GROUP BY {_BUCKET}, 2, 3 ORDER BY 1, 2, 3""",
    ),
    "visibility": Dashboard(
        "How soon events are visible after they were received: mean, and shares within limits",
        ("time", "stage", "events", "mean_ms", "within_1s", "within_10s", "within_2min"),
        f"""SELECT {_BUCKET_TEXT}, stage, sum(measured), sum(lag_ms) * 1.0 / sum(measured),
        sum(within_1s) * 1.0 / sum(measured), sum(within_10s) * 1.0 / sum(measured),
        sum(within_2min) * 1.0 / sum(measured) FROM hourly($behind)
        WHERE kind = 'event' AND measured > 0 AND {_IN_RANGE} GROUP BY {_BUCKET}, 2 ORDER BY 1, 2""",
    ),
    "backlog": Dashboard(
        "Invoices and amounts by status and currency, as it was at the end of the time that is asked about",
        ("status", "currency", "invoices", "amount"),
        """SELECT status, currency, sum(change), sum(amount) FROM (
            SELECT to_status AS status, to_currency AS currency, transitions AS change, to_amount AS amount
            FROM hourly($behind) WHERE hour < $until
            UNION ALL SELECT from_status, from_currency, -transitions, -from_amount
            FROM hourly($behind) WHERE hour < $until
        ) WHERE status <> '' GROUP BY 1, 2 HAVING sum(change) <> 0 OR sum(amount) <> 0 ORDER BY 1, 2""",
    ),
    "alerts": Dashboard(
        "Alerts by stage and severity",
        ("time", "stage", "severity", "alerts"),
        f"""SELECT {_BUCKET_TEXT}, stage, severity, sum(transitions) FROM hourly($behind)
        WHERE kind = 'alert' AND {_IN_RANGE} GROUP BY {_BUCKET}, 2, 3 ORDER BY 1, 2, 3""",
    ),
    "amounts": Dashboard(
        "Invoices and amounts that came into a status, by currency and the vendors' tier",
        ("time", "status", "currency", "vendor_tier", "invoices", "amount"),
        f"""SELECT {_BUCKET_TEXT}, to_status, to_currency, vendor_tier, sum(transitions),
        sum(to_amount) FROM hourly($behind)
        WHERE from_status <> to_status AND {_IN_RANGE} GROUP BY {_BUCKET}, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
    ),
}


class RollupSource(Protocol):
    """A time series whose roll-up can be queried."""

    def query_hourly(self, sql: str, parameters: dict[str, object]) -> list[Any]: ...


def query_dashboard(
    series: RollupSource, name: str, since: Instant, until: Instant, by: DashboardUnit, limit: int = MAX_DASHBOARD_ROWS
) -> list[list[Any]]:
    """Return the last `limit` rows of a dashboard, from the hour of `since` up to but not including `until`.

    Times are UTC text according to RFC 3339; amounts are exact decimals as text. Raises KeyError for an unknown
    dashboard, NotOpen if the database is not open, and duckdb.Error for other failures.
    """
    sql = f"SELECT * FROM ({DASHBOARDS[name].sql}) ORDER BY ALL DESC LIMIT {limit:d}"
    parameters = {
        "since": to_datetime(since).replace(minute=0, second=0, microsecond=0, tzinfo=None),
        "until": to_datetime(until).replace(tzinfo=None),
        "by": by,
    }
    rows = series.query_hourly(sql, {name: value for name, value in parameters.items() if f"${name}" in sql})
    columns = DASHBOARDS[name].columns
    if "amount" not in columns:
        return [list(row) for row in reversed(rows)]
    amount, currency = columns.index("amount"), columns.index("currency")
    return [[*row[:amount], render_amount(row[amount], row[currency]), *row[amount + 1 :]] for row in reversed(rows)]

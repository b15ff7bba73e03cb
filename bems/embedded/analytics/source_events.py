"""The events of a source in the time series: counted for control totals, and listed."""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from bems.tracker.contract import Stage
from bems.tracker.control_totals import ControlTotal, EventTotals
from bems.tracker.instants import Instant

_EVENTS = """SELECT DISTINCT event_id, occurred_at, amount, currency FROM transitions
    WHERE kind = 'event' AND source = $source AND stage = $stage
    AND occurred_at >= make_timestamp($since) AND occurred_at < make_timestamp($until)"""
_TOTALS = f"SELECT currency, count(DISTINCT event_id), sum(amount) FROM ({_EVENTS}) GROUP BY currency"
_LIST = f"SELECT * FROM ({_EVENTS}) WHERE event_id > $after ORDER BY event_id LIMIT $limit"


class QuerySource(Protocol):
    """A time series that can be queried."""

    def query(self, sql: str, parameters: object = ()) -> list[Any]: ...


class SourceEvent(NamedTuple):
    """An event of the time series, with the amount and currency that it stated. `occurred_at` is in UTC, naive."""

    event_id: str
    occurred_at: datetime
    amount: Decimal
    currency: str


def count_events(series: QuerySource, total: ControlTotal) -> EventTotals:
    """Return the number and sums of the events of a control total, superseded ones included.

    Raises NotOpen if the database is not open, and duckdb.Error for other failures.
    """
    parameters = _interval(total.source, total.stage, total.since, total.until)
    rows = series.query(_TOTALS, parameters)
    return EventTotals(sum(count for _, count, _ in rows), {currency: amount for currency, _, amount in rows})


def list_source_events(
    series: QuerySource,
    source: str,
    stage: Stage,
    since: Instant,
    until: Instant,
    *,
    after: str = "",
    limit: int = 1_000,
) -> list[SourceEvent]:
    """Return the events that occurred from `since` up to but not including `until`, ordered by event id.

    `after` is the id before the first one to return. Raises as `count_events` does.
    """
    parameters = {**_interval(source, stage, since, until), "after": after, "limit": limit}
    return [SourceEvent(*row) for row in series.query(_LIST, parameters)]


def _interval(source: str, stage: Stage, since: Instant, until: Instant) -> dict[str, object]:
    return {"source": source, "stage": stage, "since": since, "until": until}

"""Dashboards equal a plain count of the same rows, whatever part of them is rolled up."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from bems.embedded.analytics import dashboards, rollup
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.tracker.contract import STAGES
from bems.tracker.instants import DAY, HOUR, MINUTE, parse, to_datetime
from bems.tracker.transitions import Transition
from tests.embedded.analytics_rows import Rows, feed, running

START = parse("2026-03-01T10:20:00Z")
END = START + 40 * DAY
STATUSES = ("AwaitingAuthorization", "AwaitingReconciliation", "AwaitingPosting", "Posted")


def make_rows(count: int) -> list[Transition]:
    """Return rows of many invoices over 40 days, each with a chain of statuses."""
    random, statuses, rows = Random(7), dict[int, int](), list[Transition]()
    worth: dict[int, tuple[Decimal, str]] = {}
    for number in range(count):
        invoice = random.randrange(count // 4)
        before = statuses.get(invoice)
        alert = before is not None and random.random() < 0.3
        after = before if alert and before is not None else min(3, 0 if before is None else before + 1)
        statuses[invoice] = after
        stated = Decimal(random.randrange(10**6)), random.choice(("EUR", "USD", "JPY"))
        from_amount, from_currency = worth.get(invoice, (None, None))
        if not alert:
            worth[invoice] = stated
        to_amount, to_currency = worth[invoice]
        rows.append(
            Transition(
                transition_id=f"t{number}",
                invoice_id=f"i{invoice}",
                kind="alert" if alert else "event",
                stage=STAGES[after],
                recorded_at=START + number * (40 * DAY) // count,
                from_status=None if before is None else STATUSES[before],  # type: ignore[arg-type]
                to_status=STATUSES[after],  # type: ignore[arg-type]
                amount=stated[0],
                currency=stated[1],
                from_amount=from_amount,
                from_currency=from_currency,
                to_amount=to_amount,
                to_currency=to_currency,
                vendor_id="V",
                vendor_tier=random.choice((None, "gold")),
                outcome=None if alert else random.choice(("approved", "rejected")),
                event_id=None if alert else f"e{number}",
                superseded=not alert and random.random() < 0.1,
                lag_ms=None if alert else random.choice((5, 999, 1000, 1001, 9_999, 120_000, 120_001)),
                severity=random.choice(("warning", "critical")) if alert else None,
            )
        )
    return rows


ROWS = make_rows(900)


@pytest.fixture(scope="module", params=[1, 7, 300, 10_000], ids=lambda every: f"every{every}")
def analytics(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalyticsFeeder]:
    """Analytics with all rows, for queries only. The last rows, which do not fill a group, are not rolled up."""
    rows = Rows()
    with running(tmp_path_factory.mktemp("analytics"), rows, max_rows=50) as analytics:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rollup, "ROWS_PER_ROLLUP", request.param)
            for number in range(0, len(ROWS), 90):
                rows.rows += ROWS[number : number + 90]
                feed(analytics, rows)
        yield analytics


def day(row: Transition) -> str:
    return f"{to_datetime(row.recorded_at):%Y-%m-%d}T00:00:00Z"


def test_volume_counts_events_by_outcome(analytics: AnalyticsFeeder) -> None:
    expected, late = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for row in ROWS:
        if row.kind == "event":
            expected[day(row), row.stage, row.outcome or ""] += 1
            late[day(row), row.stage, row.outcome or ""] += row.superseded
    shown = dashboards.query_dashboard(analytics, "volume", START, END, "day")
    assert shown == [[*key, count, late[key]] for key, count in sorted(expected.items())]


def test_visibility_has_the_mean_lag_and_shares(analytics: AnalyticsFeeder) -> None:
    shown = dashboards.query_dashboard(analytics, "visibility", START, END, "day")
    assert sum(row[2] for row in shown) == sum(row.kind == "event" for row in ROWS)
    for time, stage, events, *figures in shown:
        lags = [row.lag_ms for row in ROWS if row.lag_ms is not None and day(row) == time and row.stage == stage]
        assert events == len(lags)
        shares = [sum(lag <= limit for lag in lags) / len(lags) for limit in (1_000, 10_000, 120_000)]
        assert list(map(float, figures)) == pytest.approx([sum(lags) / len(lags), *shares])


def test_backlog_is_the_status_of_every_invoice_at_that_time(analytics: AnalyticsFeeder) -> None:
    # A time within an hour includes that whole hour.
    for until in (START - HOUR, START, START + 9 * DAY - 20 * MINUTE, END):
        last = {row.invoice_id: row for row in ROWS if row.recorded_at // HOUR * HOUR < until}
        counts, amounts = Counter[tuple[str, str]](), dict[tuple[str, str], Decimal]()
        for row in last.values():
            key = row.to_status, row.to_currency or ""
            counts[key] += 1
            amounts[key] = amounts.get(key, Decimal()) + (row.to_amount or 0)
        shown = dashboards.query_dashboard(analytics, "backlog", START, until, "day")
        assert [(*row[:3], Decimal(row[3])) for row in shown] == [
            (*key, count, amounts[key]) for key, count in sorted(counts.items())
        ]


def test_alerts_are_counted_by_severity(analytics: AnalyticsFeeder) -> None:
    expected = Counter((day(row), row.stage, row.severity or "") for row in ROWS if row.kind == "alert")
    shown = dashboards.query_dashboard(analytics, "alerts", START, END, "day")
    assert shown == [[*key, count] for key, count in sorted(expected.items())]


def test_amounts_are_exact(analytics: AnalyticsFeeder) -> None:
    expected: dict[tuple[str, ...], tuple[int, Decimal]] = {}
    for row in ROWS:
        if row.from_status != row.to_status:
            key = day(row), row.to_status, row.to_currency or "", row.vendor_tier or ""
            count, amount = expected.get(key, (0, Decimal()))
            expected[key] = count + 1, amount + (row.to_amount or 0)
    shown = dashboards.query_dashboard(analytics, "amounts", START, END, "day")
    assert [(*row[:5], Decimal(row[5])) for row in shown] == [(*key, *value) for key, value in sorted(expected.items())]


def tiered(*tiers: str | None) -> list[Transition]:
    """Return one row per tier, each of a separate invoice."""
    base = next(row for row in ROWS if row.from_status is None)
    return [
        structs.replace(base, transition_id=f"v{number}", invoice_id=f"v{number}", vendor_tier=tier)
        for number, tier in enumerate(tiers)
    ]


def tiers_shown(analytics: AnalyticsFeeder) -> dict[str, int]:
    shown = Counter[str]()
    for _, _, _, tier, count, _ in dashboards.query_dashboard(analytics, "amounts", START - DAY, END, "day"):
        shown[tier] += count
    return dict(shown)


@pytest.mark.parametrize("every", [1, 64, 10_000])
def test_many_tiers_of_a_sender_do_not_increase_the_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(rollup, "ROWS_PER_ROLLUP", every)
    names = [f"tier {number}" for number in range(400)]
    rows = Rows()
    rows.rows += tiered("gold", None, *names, "gold", *names[::-1])
    kept = names[: rollup.MAX_TIERS - 1]
    others = 2 * (len(names) - len(kept))
    expected = {"gold": 2, "": 1, rollup.OTHER_TIER: others} | dict.fromkeys(kept, 2)
    for batch in (30, 1_000):
        folder = tmp_path / str(batch)
        folder.mkdir()
        with running(folder, rows, max_rows=batch) as analytics:
            feed(analytics, rows)
            assert tiers_shown(analytics) == expected
            ((rolled_up,),) = analytics.query("SELECT count(*) FROM rolled_up")
            assert rolled_up <= rollup.MAX_TIERS + 2
        # The limit holds after a restart too.
        with running(folder, rows, max_rows=batch) as analytics:
            rows.rows += tiered(*(f"later {number}" for number in range(9)))
            feed(analytics, rows)
            assert tiers_shown(analytics) == expected | {rollup.OTHER_TIER: others + 9}
            assert analytics.query("SELECT count(*) FROM tiers") == [(rollup.MAX_TIERS,)]
        del rows.rows[-9:]


def test_a_limited_result_has_the_last_rows(analytics: AnalyticsFeeder) -> None:
    for name in DASHBOARDS:
        everything = dashboards.query_dashboard(analytics, name, START, END, "hour")
        assert len(everything) > 3
        assert dashboards.query_dashboard(analytics, name, START, END, "hour", 3) == everything[-3:]


def test_a_range_begins_at_the_hour_of_since_and_excludes_until(analytics: AnalyticsFeeder) -> None:
    since, until = START + DAY, START + 2 * DAY
    begin = since // HOUR * HOUR
    expected = Counter(
        f"{to_datetime(row.recorded_at):%Y-%m-%dT%H}:00:00Z"
        for row in ROWS
        if row.kind == "event" and begin <= row.recorded_at // HOUR * HOUR < until
    )
    shown = Counter[str]()
    for time, _, _, count, _ in dashboards.query_dashboard(analytics, "volume", since, until, "hour"):
        shown[time] += count
    assert shown == expected and len(shown) > 12


def test_a_database_with_an_inconsistent_roll_up_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "ROWS_PER_ROLLUP", 10)
    rows = Rows()
    rows.rows += ROWS[:100]
    with running(tmp_path, rows, max_rows=50) as analytics:
        feed(analytics, rows)
        before = dashboards.query_dashboard(analytics, "volume", START, END, "day")
        database = analytics._database
        assert database
        database._execute(
            "UPDATE rolled_up SET transitions = transitions - 1 WHERE hour = (SELECT min(hour) FROM rolled_up)"
        )
    with running(tmp_path, rows) as analytics:
        feed(analytics, rows)
        assert dashboards.query_dashboard(analytics, "volume", START, END, "day") == before
    assert list(tmp_path.glob("*.damaged-*"))


def test_an_unknown_dashboard_raises_key_error(analytics: AnalyticsFeeder) -> None:
    with pytest.raises(KeyError):
        dashboards.query_dashboard(analytics, "sales", START, END, "day")
    assert list(DASHBOARDS) == ["volume", "visibility", "backlog", "alerts", "amounts"]

"""Analytics: each transition is stored exactly once and unchanged, despite interruptions, kills and errors."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from bems.embedded.analytics import feeder as module
from bems.embedded.analytics import time_series
from bems.embedded.analytics.feeder import ANALYTICS, AnalyticsFeeder
from bems.embedded.analytics.time_series import DUCKDB_COLUMNS, MEMORY_LIMITS_MB, NotOpen, TimeSeries
from bems.embedded.clock import VirtualClock
from bems.embedded.storage.reader import open_reader
from bems.embedded.writer import open_writer
from bems.tracker.actions import Severity
from bems.tracker.columns import AMOUNT, BOOLEAN, DATE, INT, LONG, OBJECT, STRING, TIMESTAMP, ColumnType
from bems.tracker.contract import STAGES
from bems.tracker.instants import LATEST, Instant, to_datetime
from bems.tracker.status import Status
from bems.tracker.time_series_schema import FIELD_COLUMNS
from bems.tracker.transitions import Transition
from tests.embedded.analytics_rows import (
    KINDS,
    NEVER,
    Rows,
    feed,
    feed_once,
    has_each_row_once,
    list_set_aside_files,
    query_database,
    running,
    transition,
)
from tests.embedded.storage.corrupt_files import rewrite
from tests.embedded.submit import submit
from tests.tracker.samples import FULL, NOW, POLICY, event
from tests.waiting import SOON, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Retry failures almost immediately."""
    caplog.set_level(logging.CRITICAL, "bems.embedded")
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,))


# -- values


INSTANTS = [column.name for column in FIELD_COLUMNS if column.type is TIMESTAMP]


def to_duckdb(instant: Instant | None) -> datetime | None:
    return None if instant is None else to_datetime(instant).replace(tzinfo=None)


def expected_row(seq: int, row: Transition) -> dict[str, object]:
    instants = {name: to_duckdb(getattr(row, name)) for name in INSTANTS}
    return {"seq": seq, "cell": "north", **structs.asdict(row), **instants}


def stored_rows(analytics: AnalyticsFeeder, after: int = 0) -> list[dict[str, object]]:
    sql = f"SELECT {', '.join(DUCKDB_COLUMNS)} FROM transitions WHERE seq > ? ORDER BY seq"
    rows = [dict(zip(DUCKDB_COLUMNS, row, strict=True)) for row in analytics.query(sql, (after,))]
    return [{**row, "attributes": json.loads(row["attributes"] or "{}")} for row in rows]


PLAIN = transition(1)
EXTREME_ROWS = {
    "nothing": PLAIN,
    "everything": structs.replace(
        FULL,
        terms_days=3650,
        due_date=date(2999, 12, 31),
        occurred_at=1,
        received_at=LATEST - 1,
        lag_ms=LATEST // 1000,
        step=2**31 - 1,
        decided_at=LATEST - 2,
        attributes={"approver": 'Kim "K" Łódź', "": "null"},
    ),
    "most digits": structs.replace(PLAIN, amount=Decimal("999999999999999999"), currency="JPY"),
    "most decimals": structs.replace(PLAIN, amount=Decimal("99999999999999.9999"), currency="CLF"),
    "a large credit note": structs.replace(PLAIN, amount=Decimal("-9999999999999999.99")),
    "a small credit note": structs.replace(PLAIN, amount=Decimal("-0.0001"), currency="UYW"),
    "nothing to pay": structs.replace(PLAIN, amount=Decimal("0.00")),
    "the beginning of time": structs.replace(PLAIN, recorded_at=0, occurred_at=0, due_date=date(1970, 1, 1), lag_ms=-1),
    "the end of time": structs.replace(PLAIN, recorded_at=LATEST - 1),
    "quotes": structs.replace(PLAIN, invoice_id="'\"''`$1?;--", event_id='{"a": [null]}', vendor_id="\\u0041\\"),
    "lines": structs.replace(PLAIN, vendor_id="a\nb\r\nc\u2028d\te\x0b", vendor_tier=""),
    "scripts": structs.replace(PLAIN, vendor_id="Łódź 株式会社 🧾 e\u0301 \U0010ffff", vendor_tier="\ufeffnull"),
}


def test_extreme_transitions_are_stored_unchanged(tmp_path: Path) -> None:
    rows = Rows()
    rows.rows = list(EXTREME_ROWS.values())
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark)
        for (seq, row), stored, name in zip(rows.transitions(), stored_rows(analytics), EXTREME_ROWS, strict=True):
            assert stored == expected_row(seq, row), name
        assert analytics.query("SELECT sum(amount) FROM transitions") == [(sum(row.amount for row in rows.rows),)]


def amounts() -> st.SearchStrategy[Decimal]:
    digits = st.integers(-(10**18) + 1, 10**18 - 1)
    return st.builds(lambda number, places: Decimal(number).scaleb(-places), digits, st.sampled_from((0, 2, 3, 4)))


def transitions() -> st.SearchStrategy[Transition]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    values: dict[ColumnType, st.SearchStrategy[Any]] = {
        STRING: text,
        INT: st.integers(0, 3650),
        LONG: st.integers(-LATEST, LATEST),
        BOOLEAN: st.booleans(),
        TIMESTAMP: st.integers(0, LATEST - 1),
        AMOUNT: amounts(),
        DATE: st.dates(date(1970, 1, 1), date(2999, 12, 31)),
        OBJECT: st.dictionaries(text, text, max_size=3),
    }
    columns = {
        column.name: values[column.type]
        if "NOT NULL" in DUCKDB_COLUMNS[column.name] or column.type is OBJECT
        else st.none() | values[column.type]
        for column in FIELD_COLUMNS
    }
    status = st.sampled_from(get_args(Status))
    chosen = {"kind": st.sampled_from(KINDS), "stage": st.sampled_from(STAGES), "to_status": status}
    optional = {"from_status": st.none() | status, "severity": st.none() | st.sampled_from(get_args(Severity))}
    return st.builds(Transition, **{**columns, **chosen, **optional})


def test_any_transition_is_stored_unchanged(tmp_path: Path) -> None:
    rows = Rows()
    with running(tmp_path, rows, max_rows=7) as analytics:

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(transitions(), min_size=1, max_size=20))
        def check(more: list[Transition]) -> None:
            before = len(rows.rows)
            rows.rows += more
            feed(analytics, rows)
            assert stored_rows(analytics, before) == [expected_row(*row) for row in rows.transitions(before, len(more))]

        check()


def test_queries_use_utc_whatever_the_time_zone_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with running(tmp_path, Rows(1)) as analytics:
            until(lambda: analytics.watermark)
            [(now, recorded_at)] = analytics.query("SELECT now()::TIMESTAMP, recorded_at FROM transitions")
            assert abs((now - datetime.now(UTC).replace(tzinfo=None)).total_seconds()) < 60
            assert recorded_at == to_duckdb(NOW + 1)
    finally:
        monkeypatch.undo()
        time.tzset()


# -- each row exactly once


def test_many_small_feeds_neither_lose_nor_duplicate_rows(tmp_path: Path) -> None:
    rows = Rows()
    for count in (3, 1, 10, 0, 25):
        with running(tmp_path, rows, max_rows=5) as analytics:
            for _ in range(4):
                rows.grow(count)
                feed(analytics, rows)
            expected = {kind: sum(row.kind == kind for row in rows.rows) for kind in sorted(KINDS)}
            assert (analytics.count(), analytics.kinds()) == (len(rows.rows), expected)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


def test_queries_see_complete_batches_with_their_watermark(tmp_path: Path) -> None:
    rows, seen = Rows(500), set[int]()
    sql = "SELECT (SELECT count(*) FROM transitions), (SELECT max(seq) FROM transitions), (SELECT watermark FROM feed)"
    broken: list[object] = []

    def query_repeatedly() -> None:
        number, deadline = 0, time.monotonic() + SOON
        while number < 500 and not broken and time.monotonic() < deadline:
            with suppress(NotOpen):
                [(number, last, watermark)] = analytics.query(sql)
                seen.add(number)
                if not (number == (last or 0) == watermark and number % 25 == 0):
                    broken.append((number, last, watermark))

    with running(tmp_path, rows, max_rows=25) as analytics:
        threads = [threading.Thread(target=query_repeatedly) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not broken
    assert 500 in seen


class ConnectionHook:
    """A connection that calls `act` before each statement that begins with `prefix`."""

    def __init__(self, connection: Any, prefix: str, act: Callable[[], None]) -> None:
        self._connection, self._prefix, self._act = connection, prefix, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: object) -> Any:
        if sql.startswith(self._prefix):
            self._act()
        return self._connection.execute(sql, *parameters)


def act_before(prefix: str, act: Callable[[], None]) -> Callable[..., Any]:
    connect = duckdb.connect
    return lambda *arguments, **options: ConnectionHook(connect(*arguments, **options), prefix, act)


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("prefix", ["INSERT INTO transitions", "UPDATE feed", "COMMIT"])
def test_an_interrupted_feed_leaves_neither_rows_nor_watermark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    rows = Rows(3)
    feed_once(tmp_path, rows)
    armed = True

    def fail() -> None:
        if armed:
            raise duckdb.IOException("the disk is full")

    monkeypatch.setattr(duckdb, "connect", act_before(prefix, fail))
    rows.grow(4)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.failure == "IOException: the disk is full")
        with suppress(NotOpen):
            assert analytics.count() == 3
        assert analytics.watermark in (0, 3)
        armed = False
        until(lambda: analytics.watermark == 7 and analytics.failure is None)
    monkeypatch.undo()
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


def feed_until_killed(folder: str, prefix: str, count: str) -> None:
    """Entry point of the child process: kills itself before the nth statement that begins with `prefix`."""
    left = int(count)

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(duckdb, "connect", act_before(prefix, count_down))
    feed_once(Path(folder), Rows(2000), max_rows=50)


def test_after_a_kill_between_rows_and_watermark_feeding_resumes(tmp_path: Path) -> None:
    rows = Rows(2000)
    code = "import sys; from tests.embedded.analytics.test_feeder import feed_until_killed as f; f(*sys.argv[1:])"
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path), "UPDATE feed", "7"], cwd=ROOT, timeout=60)
    assert child.returncode == -signal.SIGKILL
    with running(tmp_path, Rows(300)) as analytics:
        until(lambda: analytics.watermark)
        assert analytics.count() == 300
    feed_once(tmp_path, rows)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


def test_transitions_of_a_real_cell_are_fed(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    with open_writer(tmp_path, POLICY, clock) as writer, running(tmp_path, lambda: open_reader(tmp_path)) as analytics:
        for number in range(20):
            submit(writer, event("ingestion", "received", NOW + number, f"e{number}", f"INV-{number}")).result(SOON)
            analytics.wake()
        until(lambda: analytics.watermark == 20)
        assert analytics.kinds() == {"event": 20}
        reader = open_reader(tmp_path)
        assert stored_rows(analytics) == [expected_row(*row) for row in reader.transitions()]
        reader.close()


# -- feeding, and stop


def test_rows_are_fed_within_two_seconds_without_a_wake(tmp_path: Path) -> None:
    rows = Rows(1)
    assert module.FEED_SECONDS <= 1, "a feed itself takes less than another second"
    with running(tmp_path, rows, feed_seconds=module.FEED_SECONDS) as analytics:
        until(lambda: analytics.watermark == 1)
        rows.grow(1)
        until(lambda: analytics.watermark == 2)


def test_stop_feeds_outstanding_rows_and_leaves_one_file(tmp_path: Path) -> None:
    rows = Rows(10)
    analytics = AnalyticsFeeder(tmp_path, "north", rows, max_rows=3, feed_seconds=NEVER).start()
    until(lambda: analytics.watermark == 10)
    rows.grow(20)
    analytics.stop()
    analytics.stop()
    assert (analytics.watermark, rows.closed) == (30, rows.opened)
    assert [path.name for path in tmp_path.iterdir()] == [ANALYTICS]
    assert has_each_row_once(tmp_path, rows)
    with pytest.raises(NotOpen):
        analytics.count()


def test_stop_is_limited_by_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Rows):
        def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
            self.grow(limit)
            return super().transitions(after, limit)

    monkeypatch.setattr(module, "STOP_TIMEOUT_SECONDS", 0.0)
    with running(tmp_path, Endless(), max_rows=2) as analytics:
        until(lambda: analytics.watermark > 2)
    assert query_database(tmp_path, "SELECT watermark FROM feed") == [[(analytics.watermark,)]]


def test_stop_before_start_does_nothing(tmp_path: Path) -> None:
    analytics = AnalyticsFeeder(tmp_path, "north", Rows())
    with pytest.raises(NotOpen):
        analytics.count()
    analytics.stop()
    assert (analytics.watermark, analytics.failure) == (0, None)


def test_stop_interrupts_a_query(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            analytics.query(
                "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE (a.range + b.range) % 7 = 3"
            )
        except Exception as error:
            errors.append(error)

    with running(tmp_path, Rows(1)) as analytics:
        until(lambda: analytics.watermark)
        database = analytics._database
        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: database and database._cursors)
    thread.join(SOON)
    assert [type(error) for error in errors] == [NotOpen]


# -- queries


FORBIDDEN_STATEMENTS = (
    "DELETE FROM transitions",
    "CREATE TABLE other (a INTEGER)",
    "SELECT * FROM read_csv('/etc/passwd')",
    "COPY transitions TO 'transitions.csv'",
    "ATTACH 'other.duckdb'",
    "INSTALL httpfs",
    "SET enable_external_access = true",
    "SET TimeZone = 'Asia/Tokyo'",
    "SELECT nonsense",
)


def test_queries_cannot_write_and_raise_errors(tmp_path: Path) -> None:
    with running(tmp_path, Rows(2)) as analytics:
        until(lambda: analytics.watermark)
        for sql in FORBIDDEN_STATEMENTS:
            with pytest.raises(duckdb.Error):
                analytics.query(sql)
        assert analytics.query("SELECT seq FROM transitions WHERE kind = $kind", {"kind": KINDS[1]}) == [(1,)]
        assert (analytics.count(), analytics.failure) == (2, None)


# -- errors


def test_an_error_of_the_source_is_retried_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.2))
    rows = Rows(5)
    rows.errors = [OSError("no such store"), ValueError("not yet")]
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.failure == "OSError: no such store")
        with pytest.raises(NotOpen):
            analytics.count()

        def wake_and_check() -> bool:
            analytics.wake()
            return analytics.failure is None

        until(wake_and_check)
    second, third = rows.tries[1:]
    assert third - second >= 0.2, "each delay is longer, and `wake` does not shorten it"
    assert [record.getMessage() for record in caplog.records] == [
        "the analytics feed failed, attempt 1: ValueError: not yet",
        "the analytics feed failed, attempt 2: OSError: no such store",
    ]
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("fast_retries")
def test_a_gap_in_the_numbers_is_an_error(tmp_path: Path) -> None:
    class Gap(Rows):
        missing = True

        def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
            return [row for row in super().transitions(after, limit) if row[0] != 3 or not self.missing]

    rows = Gap(5)
    with running(tmp_path, rows, max_rows=2) as analytics:
        until(lambda: analytics.failure and "do not follow" in analytics.failure)
        assert analytics.watermark == 2
        rows.missing = False
        until(lambda: analytics.watermark == 5)
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("fast_retries")
def test_a_path_that_cannot_be_written_is_retried(tmp_path: Path) -> None:
    (tmp_path / ANALYTICS).mkdir()
    rows = Rows(5)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.failure and "IsADirectoryError" in analytics.failure)
        (tmp_path / ANALYTICS).rmdir()
        until(lambda: analytics.watermark == 5)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


@pytest.mark.usefixtures("fast_retries")
def test_damage_found_by_a_query_is_repaired(tmp_path: Path) -> None:
    rows = Rows(20_000)
    feed_once(tmp_path, rows)
    [used] = query_database(
        tmp_path, "SELECT block_id, column_name FROM pragma_storage_info('transitions') WHERE block_id >= 0"
    )
    block = next(
        block for block, name in used if name == "event_id" and not {(block, "seq"), (block, "transition_id")} & {*used}
    )
    at = 12288 + block * 262144 + 5000
    rewrite(tmp_path / ANALYTICS, lambda content: content.__setitem__(slice(at, at + 50), b"\xff" * 50))
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 20_000)
        assert list_set_aside_files(tmp_path) == set()
        with pytest.raises(duckdb.Error, match="Corrupt"):
            analytics.query("SELECT max(event_id) FROM transitions")
        until(lambda: list_set_aside_files(tmp_path) == {f"{ANALYTICS}.damaged-1"} and analytics.watermark == 20_000)
        until(lambda: analytics.failure is None)
        assert analytics.query("SELECT max(event_id) FROM transitions") == [
            (max(str(row.event_id) for row in rows.rows),)
        ]
    assert has_each_row_once(tmp_path, rows)


LARGE_VALUE_SQL = "SELECT length(string_agg(repeat('x', 1_000_000), '')) FROM range({})"
"""Builds one value of this many MB, which cannot spill to the disk."""


def memory_limit(analytics: AnalyticsFeeder) -> str:
    [(limit,)] = analytics.query("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'")
    return str(limit)


def is_open(analytics: AnalyticsFeeder) -> bool:
    with suppress(NotOpen):
        return analytics.count() >= 0
    return False


def test_memory_is_limited_however_much_was_read(tmp_path: Path) -> None:
    # Incompressible values, all of which DuckDB would cache after reading them.
    feed_once(tmp_path, Rows(10))
    with duckdb.connect(str(tmp_path / ANALYTICS)) as database:
        database.execute("CREATE TABLE more AS SELECT hash(range) AS content FROM range(12_000_000)")
    assert (tmp_path / ANALYTICS).stat().st_size > 80_000_000
    with running(tmp_path, Rows(10)) as analytics:
        until(lambda: analytics.watermark == 10)
        assert analytics.query("SELECT count(DISTINCT content % 256) FROM more") == [(256,)]
        [(used,)] = analytics.query("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
        assert used <= MEMORY_LIMITS_MB[0] * 1_000_000
        temporary = analytics.query("SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'")
        assert temporary == [(str(tmp_path / f"{ANALYTICS}.tmp"),)]
        assert memory_limit(analytics) == "61.0 MiB"


def test_the_database_is_reopened_after_a_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[duckdb.DuckDBPyConnection]()
    connect = duckdb.connect

    def open_and_count(*arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(duckdb, "connect", open_and_count)
    monkeypatch.setattr(time_series, "REOPEN_AFTER_ROWS", 100)
    rows = Rows(250)
    with running(tmp_path, rows, max_rows=25) as analytics:
        until(lambda: analytics.watermark == 250)
        settings = analytics.query("SELECT name, value FROM duckdb_settings() ORDER BY name")
        assert len(opened) == 3
        for one in opened[:-1]:
            with pytest.raises(duckdb.ConnectionException):
                one.execute("SELECT 1")
        until(lambda: analytics.count() == 250)
        with analytics._database._cursor():  # type: ignore[union-attr]
            rows.grow(100)
            feed(analytics, rows)
            assert len(opened) == 3, "a running query is not interrupted"
        rows.grow(1)
        feed(analytics, rows)
        until(lambda: len(opened) == 4)
        assert analytics.query("SELECT name, value FROM duckdb_settings() ORDER BY name") == settings
        assert (rows.opened, analytics.failure, analytics.count()) == (1, None, 351)
    monkeypatch.undo()
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("fast_retries")
def test_a_database_that_cannot_be_reopened_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_series, "REOPEN_AFTER_ROWS", 10)
    configure, called = TimeSeries._configure, itertools.count(1)

    def fail_second(self: TimeSeries) -> None:
        if next(called) == 2:
            raise duckdb.IOException("IO Error: the disk is full")
        configure(self)

    monkeypatch.setattr(TimeSeries, "_configure", fail_second)
    rows = Rows(10)
    with running(tmp_path, rows) as analytics:
        until(lambda: rows.opened == 2 and is_open(analytics))
        assert (analytics.count(), analytics.failure) == (10, None)
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("fast_retries")
def test_a_query_that_needs_more_memory_raises_the_limit_for_the_next_one(tmp_path: Path) -> None:
    rows = Rows(100)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 100)
        limits = []
        for _ in MEMORY_LIMITS_MB:
            before = rows.opened
            limits.append(memory_limit(analytics))
            with pytest.raises(duckdb.OutOfMemoryException):
                analytics.query(LARGE_VALUE_SQL.format(900))
            if len(limits) < len(MEMORY_LIMITS_MB):
                until(lambda opened=before: rows.opened > opened and is_open(analytics))  # type: ignore[misc]
        assert limits == ["61.0 MiB", "122.0 MiB", "244.1 MiB", "488.2 MiB"]
        assert memory_limit(analytics) == limits[-1], "the last limit stays"
        assert analytics.query(LARGE_VALUE_SQL.format(70)) == [(70_000_000,)]
    assert has_each_row_once(tmp_path, rows) and list_set_aside_files(tmp_path) == set()


@pytest.mark.parametrize("method", ["append", "_check_consistency"])
def test_the_memory_limit_rises_until_feeding_or_opening_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original, limits = getattr(TimeSeries, method), []

    def need_memory(self: TimeSeries, *arguments: object) -> object:
        limits.append(self.memory_mb)
        if self.memory_mb < MEMORY_LIMITS_MB[2]:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data")
        return original(self, *arguments)

    monkeypatch.setattr(TimeSeries, method, need_memory)
    rows = Rows(5)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 5)
        assert analytics.failure is None
    assert limits == list(MEMORY_LIMITS_MB[:3])
    assert has_each_row_once(tmp_path, rows)

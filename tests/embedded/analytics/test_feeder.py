"""Analytics: each row once and as it was, whatever is interrupted, killed or fails."""

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
from bems.embedded.analytics.time_series import COLUMNS, MEMORY_MB, NotOpen, TimeSeries
from bems.embedded.clock import VirtualClock
from bems.embedded.storage.reader import open_reader
from bems.embedded.writer import open_writer
from bems.tracker.actions import Severity
from bems.tracker.contract import STAGES
from bems.tracker.instants import LATEST, Instant, to_datetime
from bems.tracker.status import Status
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
from tests.tracker.samples import NOW, POLICY, event
from tests.waiting import SOON, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What fails is tried again at once."""
    caplog.set_level(logging.CRITICAL, "bems.embedded")
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,))


# -- values


INSTANTS = ("recorded_at", "occurred_at", "received_at", "decided_at")


def in_duckdb(instant: Instant | None) -> datetime | None:
    return None if instant is None else to_datetime(instant).replace(tzinfo=None)


def expected_row(seq: int, row: Transition) -> dict[str, object]:
    instants = {name: in_duckdb(getattr(row, name)) for name in INSTANTS}
    return {"seq": seq, "cell": "north", **structs.asdict(row), **instants}


def stored_rows(analytics: AnalyticsFeeder, after: int = 0) -> list[dict[str, object]]:
    sql = f"SELECT {', '.join(COLUMNS)} FROM transitions WHERE seq > ? ORDER BY seq"
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in analytics.query(sql, (after,))]
    return [{**row, "attributes": json.loads(row["attributes"] or "{}")} for row in rows]


def test_each_field_has_its_column() -> None:
    assert set(COLUMNS) == {"seq", "cell", *Transition.__struct_fields__}


PLAIN = transition(1)
EXTREMES = {
    "nothing": PLAIN,
    "everything": structs.replace(
        PLAIN,
        from_status="Disputed",
        vendor_tier="gold",
        terms_days=3650,
        due_date=date(2999, 12, 31),
        outcome="received",
        event_id="01JD8Y6QZ3",
        superseded=True,
        occurred_at=1,
        received_at=LATEST - 1,
        lag_ms=LATEST // 1000,
        step=2**31 - 1,
        severity="critical",
        decided_at=LATEST - 2,
        policy_digest="0123456789abcdef",
        from_amount=Decimal("-0.05"),
        from_currency="USD",
        source="sap-ecc",
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


def test_an_extreme_row_is_what_the_transition_was(tmp_path: Path) -> None:
    rows = Rows()
    rows.rows = list(EXTREMES.values())
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark)
        for (seq, row), stored, name in zip(rows.transitions(), stored_rows(analytics), EXTREMES, strict=True):
            assert stored == expected_row(seq, row), name
        assert analytics.query("SELECT sum(amount) FROM transitions") == [(sum(row.amount for row in rows.rows),)]


def amounts() -> st.SearchStrategy[Decimal]:
    digits = st.integers(-(10**18) + 1, 10**18 - 1)
    return st.builds(lambda number, places: Decimal(number).scaleb(-places), digits, st.sampled_from((0, 2, 3, 4)))


def transitions() -> st.SearchStrategy[Transition]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    instant, number = st.integers(0, LATEST - 1), st.integers(0, 3650)
    maybe: Callable[[st.SearchStrategy[Any]], st.SearchStrategy[Any]] = lambda one: st.none() | one  # noqa: E731
    status = st.sampled_from(get_args(Status))
    return st.builds(
        Transition,
        transition_id=text,
        invoice_id=text,
        kind=st.sampled_from(KINDS),
        stage=st.sampled_from(STAGES),
        recorded_at=instant,
        from_status=maybe(status),
        to_status=status,
        amount=amounts(),
        currency=st.sampled_from(("EUR", "JPY", "BHD", "CLF")),
        vendor_id=text,
        vendor_tier=maybe(text),
        terms_days=maybe(number),
        due_date=maybe(st.dates(date(1970, 1, 1), date(2999, 12, 31))),
        outcome=maybe(text),
        event_id=maybe(text),
        superseded=st.booleans(),
        occurred_at=maybe(instant),
        received_at=maybe(instant),
        lag_ms=maybe(st.integers(-LATEST, LATEST)),
        step=maybe(number),
        severity=maybe(st.sampled_from(get_args(Severity))),
        decided_at=maybe(instant),
        policy_digest=maybe(text),
        from_amount=maybe(amounts()),
        from_currency=maybe(text),
        to_amount=amounts(),
        to_currency=text,
        source=maybe(text),
        attributes=st.dictionaries(text, text, max_size=3),
    )


def test_any_row_is_what_the_transition_was(tmp_path: Path) -> None:
    rows = Rows()
    with running(tmp_path, rows, batch=7) as analytics:

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(transitions(), min_size=1, max_size=20))
        def check(more: list[Transition]) -> None:
            before = len(rows.rows)
            rows.rows += more
            feed(analytics, rows)
            assert stored_rows(analytics, before) == [expected_row(*row) for row in rows.transitions(before, len(more))]

        check()


def test_the_clock_of_queries_is_utc_wherever_the_machine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with running(tmp_path, Rows(1)) as analytics:
            until(lambda: analytics.watermark)
            [(now, ours)] = analytics.query("SELECT now()::TIMESTAMP, recorded_at FROM transitions")
            assert abs((now - datetime.now(UTC).replace(tzinfo=None)).total_seconds()) < 60
            assert ours == in_duckdb(NOW + 1)
    finally:
        monkeypatch.undo()
        time.tzset()


# -- each row once


def test_many_small_feeds_miss_and_double_nothing(tmp_path: Path) -> None:
    rows = Rows()
    for count in (3, 1, 10, 0, 25):
        with running(tmp_path, rows, batch=5) as analytics:
            for _ in range(4):
                rows.grow(count)
                feed(analytics, rows)
            expected = {kind: sum(row.kind == kind for row in rows.rows) for kind in sorted(KINDS)}
            assert (analytics.count(), analytics.kinds()) == (len(rows.rows), expected)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


def test_a_query_sees_whole_batches_with_their_watermark(tmp_path: Path) -> None:
    rows, seen = Rows(500), set[int]()
    sql = "SELECT (SELECT count(*) FROM transitions), (SELECT max(seq) FROM transitions), (SELECT watermark FROM feed)"
    broken: list[object] = []

    def look() -> None:
        number, deadline = 0, time.monotonic() + SOON
        while number < 500 and not broken and time.monotonic() < deadline:
            with suppress(NotOpen):
                [(number, last, says)] = analytics.query(sql)
                seen.add(number)
                if not (number == (last or 0) == says and number % 25 == 0):
                    broken.append((number, last, says))

    with running(tmp_path, rows, batch=25) as analytics:
        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not broken
    assert 500 in seen


class Through:
    """A connection that does something before or after each statement that begins with some words."""

    def __init__(self, connection: Any, words: str, act: Callable[[], None]) -> None:
        self._connection, self._words, self._act = connection, words, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: object) -> Any:
        if sql.startswith(self._words):
            self._act()
        return self._connection.execute(sql, *parameters)


def act_before(words: str, act: Callable[[], None]) -> Callable[..., Any]:
    connect = duckdb.connect
    return lambda *arguments, **options: Through(connect(*arguments, **options), words, act)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("words", ["INSERT INTO transitions", "UPDATE feed", "COMMIT"])
def test_an_interrupted_feed_leaves_neither_rows_nor_watermark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    rows = Rows(3)
    feed_once(tmp_path, rows)
    armed = True

    def fail() -> None:
        if armed:
            raise duckdb.IOException("the disk is full")

    monkeypatch.setattr(duckdb, "connect", act_before(words, fail))
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


def feed_until_killed(folder: str, words: str, times: str) -> None:
    """The child: it kills itself before the nth statement that begins with these words."""
    left = int(times)

    def come_nearer() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(duckdb, "connect", act_before(words, come_nearer))
    feed_once(Path(folder), Rows(2000), batch=50)


def test_killed_between_rows_and_watermark_it_goes_on_where_it_was(tmp_path: Path) -> None:
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


def test_what_a_cell_commits_arrives(tmp_path: Path) -> None:
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


# -- when it feeds, and when it stops


def test_it_feeds_by_itself_within_two_seconds(tmp_path: Path) -> None:
    rows = Rows(1)
    assert module.FEED_SECONDS <= 1, "and a feed takes less than another"
    with running(tmp_path, rows, every=module.FEED_SECONDS) as analytics:
        until(lambda: analytics.watermark == 1)
        rows.grow(1)
        until(lambda: analytics.watermark == 2)


def test_stopping_feeds_what_is_there_and_leaves_one_file(tmp_path: Path) -> None:
    rows = Rows(10)
    analytics = AnalyticsFeeder(tmp_path, "north", rows, batch=3, every=NEVER).start()
    until(lambda: analytics.watermark == 10)
    rows.grow(20)
    analytics.stop()
    analytics.stop()
    assert (analytics.watermark, rows.closed) == (30, rows.opened)
    assert [path.name for path in tmp_path.iterdir()] == [ANALYTICS]
    assert has_each_row_once(tmp_path, rows)
    with pytest.raises(NotOpen):
        analytics.count()


def test_stopping_takes_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Rows):
        def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
            self.grow(limit)
            return super().transitions(after, limit)

    monkeypatch.setattr(module, "STOP_TIMEOUT_SECONDS", 0.0)
    with running(tmp_path, Endless(), batch=2) as analytics:
        until(lambda: analytics.watermark > 2)
    assert query_database(tmp_path, "SELECT watermark FROM feed") == [[(analytics.watermark,)]]


def test_stopping_before_the_start_is_harmless(tmp_path: Path) -> None:
    analytics = AnalyticsFeeder(tmp_path, "north", Rows())
    with pytest.raises(NotOpen):
        analytics.count()
    analytics.stop()
    assert (analytics.watermark, analytics.failure) == (0, None)


def test_stopping_breaks_off_a_query(tmp_path: Path) -> None:
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


FORBIDDEN = (
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


def test_a_query_only_reads_and_its_error_is_told(tmp_path: Path) -> None:
    with running(tmp_path, Rows(2)) as analytics:
        until(lambda: analytics.watermark)
        for sql in FORBIDDEN:
            with pytest.raises(duckdb.Error):
                analytics.query(sql)
        assert analytics.query("SELECT seq FROM transitions WHERE kind = $kind", {"kind": KINDS[1]}) == [(1,)]
        assert (analytics.count(), analytics.failure) == (2, None)


# -- what fails


def test_a_source_that_fails_is_tried_again_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.2))
    rows = Rows(5)
    rows.errors = [OSError("no such store"), ValueError("not yet")]
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.failure == "OSError: no such store")
        with pytest.raises(NotOpen):
            analytics.count()

        def poked_and_well() -> bool:
            analytics.wake()
            return analytics.failure is None

        until(poked_and_well)
    second, third = rows.tries[1:]
    assert third - second >= 0.2, "each try waits longer, and a poke does not hurry it"
    assert [record.getMessage() for record in caplog.records] == [
        "analytics is not fed, try 1: ValueError: not yet",
        "analytics is not fed, try 2: OSError: no such store",
    ]
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("quick")
def test_a_gap_in_the_numbers_is_not_passed_over(tmp_path: Path) -> None:
    class Gap(Rows):
        missing = True

        def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
            return [row for row in super().transitions(after, limit) if row[0] != 3 or not self.missing]

    rows = Gap(5)
    with running(tmp_path, rows, batch=2) as analytics:
        until(lambda: analytics.failure and "do not follow" in analytics.failure)
        assert analytics.watermark == 2
        rows.missing = False
        until(lambda: analytics.watermark == 5)
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("quick")
def test_a_place_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / ANALYTICS).mkdir()
    rows = Rows(5)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.failure and "IsADirectoryError" in analytics.failure)
        (tmp_path / ANALYTICS).rmdir()
        until(lambda: analytics.watermark == 5)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == set()


@pytest.mark.usefixtures("quick")
def test_damage_that_a_query_comes_upon_is_repaired(tmp_path: Path) -> None:
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


HUNGRY = "SELECT length(string_agg(repeat('x', 1_000_000), '')) FROM range({})"
"""So many MB in one value, which cannot go to the disk."""


def memory_limit(analytics: AnalyticsFeeder) -> str:
    [(limit,)] = analytics.query("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'")
    return str(limit)


def is_open(analytics: AnalyticsFeeder) -> bool:
    with suppress(NotOpen):
        return analytics.count() >= 0
    return False


def test_memory_is_bounded_however_much_was_read(tmp_path: Path) -> None:
    # Values that do not compress, all of which DuckDB would keep once they were read.
    feed_once(tmp_path, Rows(10))
    with duckdb.connect(str(tmp_path / ANALYTICS)) as database:
        database.execute("CREATE TABLE more AS SELECT hash(range) AS content FROM range(12_000_000)")
    assert (tmp_path / ANALYTICS).stat().st_size > 80_000_000
    with running(tmp_path, Rows(10)) as analytics:
        until(lambda: analytics.watermark == 10)
        assert analytics.query("SELECT count(DISTINCT content % 256) FROM more") == [(256,)]
        [(used,)] = analytics.query("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
        assert used <= MEMORY_MB[0] * 1_000_000
        temporary = analytics.query("SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'")
        assert temporary == [(str(tmp_path / f"{ANALYTICS}.tmp"),)]
        assert memory_limit(analytics) == "61.0 MiB"


def test_reopening_frees_what_duckdb_keeps_of_its_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[duckdb.DuckDBPyConnection]()
    connect = duckdb.connect

    def open_and_count(*arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(duckdb, "connect", open_and_count)
    monkeypatch.setattr(time_series, "RENEW_EVERY", 100)
    rows = Rows(250)
    with running(tmp_path, rows, batch=25) as analytics:
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
            assert len(opened) == 3, "no question is broken off for it"
        rows.grow(1)
        feed(analytics, rows)
        until(lambda: len(opened) == 4)
        assert analytics.query("SELECT name, value FROM duckdb_settings() ORDER BY name") == settings
        assert (rows.opened, analytics.failure, analytics.count()) == (1, None, 351)
    monkeypatch.undo()
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.usefixtures("quick")
def test_a_database_that_cannot_be_reopened_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_series, "RENEW_EVERY", 10)
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


@pytest.mark.usefixtures("quick")
def test_a_question_that_needs_more_memory_gets_it_the_next_time(tmp_path: Path) -> None:
    rows = Rows(100)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 100)
        limits = []
        for _ in MEMORY_MB:
            before = rows.opened
            limits.append(memory_limit(analytics))
            with pytest.raises(duckdb.OutOfMemoryException):
                analytics.query(HUNGRY.format(900))
            if len(limits) < len(MEMORY_MB):
                until(lambda opened=before: rows.opened > opened and is_open(analytics))  # type: ignore[misc]
        assert limits == ["61.0 MiB", "122.0 MiB", "244.1 MiB", "488.2 MiB"]
        assert memory_limit(analytics) == limits[-1], "and no more than that"
        assert analytics.query(HUNGRY.format(70)) == [(70_000_000,)]
    assert has_each_row_once(tmp_path, rows) and list_set_aside_files(tmp_path) == set()


@pytest.mark.parametrize("method", ["append", "_check"])
def test_what_feeds_or_opens_it_gets_the_memory_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original, limits = getattr(TimeSeries, method), []

    def hungry(self: TimeSeries, *arguments: object) -> object:
        limits.append(self.memory_mb)
        if self.memory_mb < MEMORY_MB[2]:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data")
        return original(self, *arguments)

    monkeypatch.setattr(TimeSeries, method, hungry)
    rows = Rows(5)
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 5)
        assert analytics.failure is None
    assert limits == list(MEMORY_MB[:3])
    assert has_each_row_once(tmp_path, rows)

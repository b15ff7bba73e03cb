"""Reader pool: the write-ahead log stays bounded, and so does the number of queued queries."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import apsw
import pytest

from bems.clock import SystemClock
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.storage import reader_pool as readers_module
from bems.embedded.storage import wal as log_module
from bems.embedded.storage.errors import QueueFull
from bems.embedded.storage.reader import Counts, Reader, open_reader
from bems.embedded.storage.reader_pool import ReaderPool
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.wal import WalCheckpointer
from bems.embedded.writer import Writer, open_writer
from tests.embedded.api.calls import Cell, run_concurrently
from tests.embedded.submit import submit
from tests.tracker.samples import NOW, POLICY, event
from tests.waiting import SOON, until

MAX_WAL_BYTES = 256 * 1024


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(log_module, "MAX_WAL_BYTES", MAX_WAL_BYTES)
    with open_writer(tmp_path, POLICY, SystemClock()) as writer:
        yield writer


def write(writer: Writer, name: object, count: int = 20) -> None:
    """Store `count` events, each in a separate group."""
    for number in range(count):
        id = f"{name}-{number}"
        submit(writer, event("ingestion", "received", NOW, id, id)).result(SOON)


def size(folder: Path) -> int:
    return (folder / f"{DATABASE}-wal").stat().st_size


class OverlappingReaders:
    """Two clients, of which one always reads. Each query lasts as long as the writer takes for some groups."""

    def __init__(self, folder: Path, writer: Writer) -> None:
        self._folder, self._writer = folder, writer
        self._reads = threading.Semaphore(0), threading.Semaphore(0)
        self.longest = 0

    def run(self, rounds: int) -> None:
        with closing(ReaderPool(self._folder)) as readers:
            asyncio.run(self._run(readers, rounds))

    async def _run(self, readers: ReaderPool, rounds: int) -> None:
        await asyncio.gather(self._ask(readers, 0, rounds), self._ask(readers, 1, rounds))

    async def _ask(self, readers: ReaderPool, number: int, rounds: int) -> None:
        for round in range(rounds):
            await readers.read(lambda reader, round=round: self._read(reader, number, round))  # type: ignore[misc]

    def _read(self, reader: Reader, number: int, round: int) -> None:
        reader.counts()
        # Do not end before the other one has begun, unless the checkpointer holds that one.
        self._reads[1 - number].release()
        self._reads[number].acquire(timeout=0.2)
        write(self._writer, f"{number}-{round}")
        self.longest = max(self.longest, size(self._folder))


def test_overlapping_readers_do_not_let_the_log_grow_forever(writer: Writer, tmp_path: Path) -> None:
    overlapping = OverlappingReaders(tmp_path, writer)
    overlapping.run(10)
    assert overlapping.longest < 12 * MAX_WAL_BYTES


def test_without_the_checkpointer_the_log_grows(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test before this one tests something."""
    monkeypatch.setattr(WalCheckpointer, "reading", lambda _: nullcontext())
    writer._store._execute("PRAGMA wal_autocheckpoint = 20")
    overlapping = OverlappingReaders(tmp_path, writer)
    overlapping.run(10)
    assert overlapping.longest > 20 * MAX_WAL_BYTES


def test_a_query_shows_one_moment(writer: Writer, tmp_path: Path) -> None:
    def question(reader: Reader) -> tuple[Counts, Counts]:
        first = reader.counts()
        write(writer, "meanwhile", 1)
        return first, reader.counts()

    async def ask() -> tuple[Counts, Counts, Counts]:
        return *await readers.read(question), await readers.read(Reader.counts)

    with closing(ReaderPool(tmp_path)) as readers:
        first, second, later = asyncio.run(ask())
    assert first == second
    assert later.events == first.events + 1


def test_the_checkpoint_does_not_wait_for_other_readers(writer: Writer, tmp_path: Path) -> None:
    """A backup reads for long. Queries and the writer continue meanwhile, and the log is reset when it has ended."""
    backup, log = open_reader(tmp_path), WalCheckpointer(tmp_path)
    with backup.snapshot():
        backup.counts()
        write(writer, "a", 40)
        with log.reading():
            pass
        long = size(tmp_path)
        assert long > MAX_WAL_BYTES
        write(writer, "b", 2)
        with log.reading():
            assert log._not_before > 0, "not every query tries a checkpoint"
    backup.close()
    log._not_before = 0.0
    with log.reading():
        assert size(tmp_path) == 0
    assert writer.failure is None
    log.close()


def test_the_writer_continues_while_queries_wait_for_the_checkpoint(writer: Writer, tmp_path: Path) -> None:
    log, inside, leave = WalCheckpointer(tmp_path), threading.Event(), threading.Event()

    def stay() -> None:
        with log.reading():
            inside.set()
            assert leave.wait(SOON)

    def come() -> None:
        assert inside.wait(SOON)
        write(writer, "a", 40)
        try:
            until(lambda: log._is_held)
            write(writer, "b")
            assert log._reading == 1, "no other query was let in"
        finally:
            leave.set()

    def ask() -> None:
        assert inside.wait(SOON)
        until(lambda: size(tmp_path) > MAX_WAL_BYTES)
        with log.reading():
            assert leave.is_set()

    run_concurrently([stay, come, ask, ask])
    assert size(tmp_path) < MAX_WAL_BYTES
    log.close()


def test_a_failed_checkpoint_blocks_no_query(
    writer: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    log = WalCheckpointer(tmp_path)
    monkeypatch.setattr(WalCheckpointer, "_truncate", fail)
    write(writer, "a", 40)
    for _ in range(2):
        with log.reading():
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be checkpointed: database or disk is full" in caplog.text
    log.close()


def test_queries_beyond_the_maximum_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MAX_QUEUED_QUERIES", 5)
    open_writer(tmp_path, POLICY, SystemClock()).stop()
    leave = threading.Event()

    def question(_: Reader) -> bool:
        return leave.wait(SOON)

    async def ask() -> list[bool | BaseException]:
        asked = [asyncio.ensure_future(readers.read(question)) for _ in range(8)]
        # The queries beyond the maximum fail at once.
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        leave.set()
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, await readers.read(question)]

    with closing(ReaderPool(tmp_path)) as readers:
        answers = asyncio.run(ask())
    assert [answer if answer is True else type(answer) for answer in answers] == [True] * 5 + [QueueFull] * 3 + [True]


def test_too_many_queries_are_answered_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MAX_QUEUED_QUERIES", 0)
    with Cell(tmp_path) as cell:
        for path in ("/invoices", "/invoices/INV-1", "/alerts", "/metrics", "/check"):
            reply = cell.ask("GET", path)
            assert (reply.status, reply.headers["retry-after"], reply.faults) == (503, "1", {}), path
        assert cell.send("ingestion").status == 202, "senders are not affected"


@pytest.mark.parametrize(
    ("slow", "longest"), [(readers_module.MAX_THREADS_PER_KEY, MAX_WAL_BYTES), (1, -1)], ids=["threads", "log"]
)
def test_a_slow_dashboard_blocks_no_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int, longest: int
) -> None:
    """A dashboard neither takes all threads, nor is waited for when the log is too long."""
    monkeypatch.setattr(log_module, "MAX_WAL_BYTES", longest)
    asked, leave = threading.Semaphore(0), threading.Event()

    def query(*_: object) -> list[object]:
        asked.release()
        assert leave.wait(SOON)
        return []

    monkeypatch.setattr(AnalyticsFeeder, "query_hourly", query)

    def question(cell: Cell) -> None:
        try:
            for _ in range(slow):
                assert asked.acquire(timeout=SOON)
            assert cell.ask("GET", "/invoices").status == 200
        finally:
            answered = not leave.is_set()
            leave.set()
        assert answered

    def dashboard(cell: Cell) -> None:
        assert cell.ask("GET", "/dashboards/volume").status == 200

    watchdog = threading.Timer(5, leave.set)
    watchdog.start()
    with Cell(tmp_path) as cell:
        run_concurrently([lambda: question(cell), *[lambda: dashboard(cell)] * slow])
    watchdog.cancel()

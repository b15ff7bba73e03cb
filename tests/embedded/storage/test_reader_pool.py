"""Readers beside the event loop: the log that they must not make grow for ever, and how many may wait."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import apsw
import pytest

from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.clock import SystemClock
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

BOUND = 256 * 1024


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    monkeypatch.setattr(log_module, "MAX_WAL_BYTES", BOUND)
    with open_writer(tmp_path, POLICY, SystemClock()) as writer:
        yield writer


def write(writer: Writer, name: object, count: int = 20) -> None:
    """Some turns' worth of events."""
    for number in range(count):
        id = f"{name}-{number}"
        submit(writer, event("ingestion", "received", NOW, id, id)).result(SOON)


def size(folder: Path) -> int:
    return (folder / f"{DATABASE}-wal").stat().st_size


class Overlapping:
    """Two askers of whom one always reads, each as long as the writer takes for some turns."""

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
        # Not to end before the other one has begun, unless that one is held.
        self._reads[1 - number].release()
        self._reads[number].acquire(timeout=0.2)
        write(self._writer, f"{number}-{round}")
        self.longest = max(self.longest, size(self._folder))


def test_readers_that_always_overlap_do_not_make_the_log_grow_for_ever(writer: Writer, tmp_path: Path) -> None:
    overlapping = Overlapping(tmp_path, writer)
    overlapping.run(10)
    assert overlapping.longest < 12 * BOUND


def test_without_that_they_do(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the one before shows something."""
    monkeypatch.setattr(WalCheckpointer, "reading", lambda _: nullcontext())
    writer._store._execute("PRAGMA wal_autocheckpoint = 20")
    overlapping = Overlapping(tmp_path, writer)
    overlapping.run(10)
    assert overlapping.longest > 20 * BOUND


def test_a_question_is_answered_of_one_moment(writer: Writer, tmp_path: Path) -> None:
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


def test_others_that_read_from_it_are_not_waited_for(writer: Writer, tmp_path: Path) -> None:
    """A backup reads for long: questions go on, and so does the writer; the log is begun anew when it has ended."""
    backup, log = open_reader(tmp_path), WalCheckpointer(tmp_path)
    with backup.snapshot():
        backup.counts()
        write(writer, "a", 40)
        with log.reading():
            pass
        long = size(tmp_path)
        assert long > BOUND
        write(writer, "b", 2)
        with log.reading():
            assert log._not_before > 0, "it is not tried at every question"
    backup.close()
    log._not_before = 0.0
    with log.reading():
        assert size(tmp_path) == 0
    assert writer.failure is None
    log.close()


def test_the_writer_goes_on_while_questions_are_held(writer: Writer, tmp_path: Path) -> None:
    log, inside, leave = WalCheckpointer(tmp_path), threading.Event(), threading.Event()

    def stay() -> None:
        with log.reading():
            inside.set()
            assert leave.wait(SOON)

    def come() -> None:
        assert inside.wait(SOON)
        write(writer, "a", 40)
        try:
            until(lambda: log._held)
            write(writer, "b")
            assert log._reading == 1, "nobody was let in"
        finally:
            leave.set()

    def ask() -> None:
        assert inside.wait(SOON)
        until(lambda: size(tmp_path) > BOUND)
        with log.reading():
            assert leave.is_set()

    run_concurrently([stay, come, ask, ask])
    assert size(tmp_path) < BOUND
    log.close()


def test_a_log_that_cannot_be_brought_over_holds_up_nobody(
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
    assert "cannot be brought into it: database or disk is full" in caplog.text
    log.close()


def test_more_questions_than_may_wait_are_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MAX_QUEUED_QUERIES", 5)
    open_writer(tmp_path, POLICY, SystemClock()).stop()
    leave = threading.Event()

    def question(_: Reader) -> bool:
        return leave.wait(SOON)

    async def ask() -> list[bool | BaseException]:
        asked = [asyncio.ensure_future(readers.read(question)) for _ in range(8)]
        # Those for whom there is no room are told at once.
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        leave.set()
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, await readers.read(question)]

    with closing(ReaderPool(tmp_path)) as readers:
        answers = asyncio.run(ask())
    assert [answer if answer is True else type(answer) for answer in answers] == [True] * 5 + [QueueFull] * 3 + [True]


def test_whoever_asks_too_much_is_answered_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MAX_QUEUED_QUERIES", 0)
    with Cell(tmp_path) as cell:
        for path in ("/invoices", "/invoices/INV-1", "/alerts", "/metrics", "/check"):
            reply = cell.ask("GET", path)
            assert (reply.status, reply.headers["retry-after"], reply.faults) == (503, "1", {}), path
        assert cell.send("ingestion").status == 202, "senders are not concerned"


@pytest.mark.parametrize(("slow", "longest"), [(readers_module.THREADS, BOUND), (1, -1)], ids=["threads", "log"])
def test_a_slow_dashboard_holds_up_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int, longest: int
) -> None:
    """Neither by taking all threads, nor by being waited for where the log is too long."""
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

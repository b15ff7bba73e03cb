"""Writer: groups, results, timers, failures, stopping."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import structs

from bems.clock import SystemClock
from bems.embedded.cell import Cell
from bems.embedded.clock import VirtualClock
from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import QueueFull, StoreFailed
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import DeadLetter
from bems.embedded.writer import (
    COALESCE_BELOW_ITEMS,
    COALESCE_SECONDS,
    RETRY_DELAYS,
    Redrive,
    Stopped,
    Writer,
    open_writer,
)
from bems.tracker.commands import Command, Extend, Park
from bems.tracker.contract import Event
from bems.tracker.decisions import ACCEPTED, CONFLICT, DUPLICATE, Receipt
from bems.tracker.instants import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Instant
from bems.tracker.status import status_of
from tests.embedded.submit import submit
from tests.tracker.samples import FACTS, NOW, POLICY, event, plain_policy
from tests.waiting import SOON, until


class CellFixture:
    """A folder with its clock and the writers that ran on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock(NOW)
        self.writers: list[Writer] = []

    def open(self, **options: Any) -> Writer:
        """Return a new writer of the folder, after stopping the previous one."""
        self.stop()
        writer = open_writer(self.folder, POLICY, self.clock)
        if options:
            writer = Writer(writer._cell, writer._store, self.clock, **options)
        self.writers.append(writer)
        return writer

    def stop(self) -> None:
        if self.writers:
            self.writers[-1].stop()

    def move_to(self, at: Instant) -> None:
        self.clock.move_to(at)
        self.writers[-1].wake()

    def count(self, table: str) -> int:
        """Return the number of committed rows, read through another connection."""
        connection = apsw.Connection(str(self.folder / DATABASE), flags=apsw.SQLITE_OPEN_READONLY)
        count: int = connection.execute(f"SELECT count(*) FROM {table}").get
        connection.close()
        return count

    def stop_and_open_store(self) -> SqliteStore:
        """Stop the writer and return its store."""
        self.stop()
        return SqliteStore(self.folder)


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[CellFixture]:
    fixture = CellFixture(tmp_path / "cell")
    yield fixture
    fixture.stop()


def answer(future: "Future[Receipt]") -> Receipt:
    return future.result(SOON)


def break_events(monkeypatch: pytest.MonkeyPatch, invoice_id: str, error: BaseException | None = None) -> list[Event]:
    """Make the handling of this invoice's events raise. Return the list of the events that were tried."""
    tried: list[Event] = []
    redrive = Cell.redrive

    def fail(cell: Cell, event: Event, now: Instant) -> Receipt:
        receipt = redrive(cell, event, now)
        if event.invoice_id == invoice_id:
            tried.append(event)
            raise error or ValueError("broken")
        return receipt

    monkeypatch.setattr(Cell, "redrive", fail)
    return tried


# -- results


def test_an_answered_event_is_durable(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    received = event("ingestion", "received")
    assert answer(submit(writer, received)) == ACCEPTED
    assert answer(submit(writer, received)) == DUPLICATE
    assert answer(submit(writer, structs.replace(received, digest="other"))) == CONFLICT
    store = fixture.stop_and_open_store()
    assert store.events() == [(1, received)]
    store.close()


def test_queued_items_form_one_group_and_are_answered_individually(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = count_commits(monkeypatch)
    writer = fixture.open()
    events = [event("ingestion", "received", event_id=f"e{number // 2}") for number in range(6)]
    futures = [submit(writer, one) for one in events]
    writer.start()
    assert [answer(future) for future in futures] == [ACCEPTED, DUPLICATE] * 3
    writer.stop()
    assert len([count for count in commits if count]) == 1


def count_commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the numbers of events in each commit."""
    commits: list[int] = []
    commit = SqliteStore.commit

    def counted(store: SqliteStore) -> None:
        commits.append(len(store._group_changes.events))
        commit(store)

    monkeypatch.setattr(SqliteStore, "commit", counted)
    return commits


def test_a_group_has_a_maximum_size(fixture: CellFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = count_commits(monkeypatch)
    writer = fixture.open(max_group_items=4)
    futures = [submit(writer, event("ingestion", "received", event_id=f"e{number}")) for number in range(10)]
    writer.start()
    assert {answer(future) for future in futures} == {ACCEPTED}
    writer.stop()
    assert [count for count in commits if count] == [4, 4, 2]


def test_a_full_queue_refuses_items_at_once(fixture: CellFixture) -> None:
    writer = fixture.open(max_queued_items=2)
    futures = [submit(writer, event("ingestion", "received", event_id=f"e{number}")) for number in range(2)]
    with pytest.raises(QueueFull):
        submit(writer, event("ingestion", "received"))
    writer.start()
    assert [answer(future) for future in futures] == [ACCEPTED] * 2


def test_commands_are_answered_and_audited(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    command = Command("1", "INV-1", "ann", NOW, Park(), "on holiday")
    assert answer(submit(writer, command)) == ACCEPTED
    assert answer(submit(writer, command)) == DUPLICATE
    assert answer(submit(writer, Command("2", "INV-1", "ann", NOW, Extend(NOW + DAY)))).result == "refused"
    store = fixture.stop_and_open_store()
    entry, refused = store.command("1"), store.command("2")
    assert entry and entry.command == command and entry.receipt == ACCEPTED
    assert refused and "parked" in refused.receipt.reason
    store.close()


def test_many_threads_can_submit_at_once(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    receipts: list[Receipt] = []

    def send(number: int) -> None:
        for stage, status in (("authorization", "approved"), ("ingestion", "received")):
            one = event(stage, status, NOW, f"{number}-{stage}", f"INV-{number}")  # type: ignore[arg-type]
            receipts.append(answer(submit(writer, one)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert receipts == [ACCEPTED] * 40
    store = fixture.stop_and_open_store()
    assert {status_of(record.outcomes) for record in store.records()} == {"AwaitingReconciliation"}
    store.close()


# -- time


def alerts(store: SqliteStore) -> list[tuple[str, int, Instant]]:
    return [(alert.invoice_id, alert.step, alert.raised_at) for _, alert in store.alerts()]


def test_due_items_are_fired_when_the_clock_reaches_them(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    fixture.move_to(NOW + 3 * DAY)
    until(lambda: fixture.count("alerts") == 1)
    store = fixture.stop_and_open_store()
    assert alerts(store) == [("INV-1", 1, NOW + 3 * DAY)]
    store.close()


def test_the_system_clock_wakes_the_writer(fixture: CellFixture) -> None:
    quick, clock = plain_policy("1m", "1d"), ShiftedClock()
    writer = open_writer(fixture.folder, quick, clock).start()
    answer(submit(writer, event("ingestion", "received")))
    clock.ahead = MINUTE - 100 * MILLISECOND
    until(lambda: fixture.count("alerts") == 1)
    writer.stop()


class ShiftedClock(SystemClock):
    ahead = 0

    def now(self) -> Instant:
        return super().now() + self.ahead


def test_items_that_came_due_while_stopped_are_fired_once_at_the_start(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    answer(submit(writer, event("authorization", "approved", event_id="orphan", invoice_id="INV-2")))
    writer.stop()
    fixture.clock.move_to(NOW + 4 * DAY + HOUR)
    for _ in range(2):
        writer = fixture.open().start()
        answer(submit(writer, Command("1", "INV-0", "ann", NOW, Park(), "why")))
        answer(submit(writer, Command("2", "INV-0", "ann", NOW, Park(), "why")))
    store = fixture.stop_and_open_store()
    at = NOW + 4 * DAY + HOUR
    assert sorted(alerts(store)) == [("INV-1", 2, at), ("INV-2", 2, at)], (
        "of two missed steps only the one reached is raised"
    )
    assert store.next_due() is not None
    store.close()


def test_nothing_is_repeated_when_the_clock_goes_back(fixture: CellFixture) -> None:
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    fixture.move_to(NOW + 3 * DAY)
    until(lambda: fixture.count("alerts") == 1)
    fixture.clock = VirtualClock(NOW)
    writer = fixture.open().start()
    answer(submit(writer, event("authorization", "approved", NOW + 1)))
    fixture.move_to(NOW + 3 * DAY - 1)
    answer(submit(writer, event("ingestion", "received", event_id="other", invoice_id="INV-2")))
    store = fixture.stop_and_open_store()
    assert [alert.kind for _, alert in store.alerts()] == ["stuck", "resolved"]
    rows = [row.recorded_at for row in store.timeline("INV-1")]
    assert rows == sorted(set(rows), reverse=True)
    store.close()


# -- failures


def test_an_event_whose_handling_raises_is_retried_and_then_set_aside(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = break_events(monkeypatch, "INV-1")
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    writer = fixture.open().start()
    bad = event("ingestion", "received")
    assert answer(submit(writer, bad)) == ACCEPTED, "it is durable"
    assert answer(submit(writer, bad)) == DUPLICATE
    assert answer(submit(writer, event("ingestion", "received", event_id="good", invoice_id="INV-2"))) == ACCEPTED
    now = NOW
    for attempt, delay in enumerate(RETRY_DELAYS, 1):
        assert len(tried) == attempt
        now += delay
        fixture.move_to(now)
        until(lambda attempt=attempt: len(tried) == attempt + 1)  # type: ignore[misc]
    fixture.move_to(now + 2 * HOUR)
    assert answer(submit(writer, Redrive("nothing"))).result == "refused"
    refused = answer(submit(writer, Redrive(bad.event_id)))
    assert refused == Receipt("refused", "ValueError: broken")
    assert len(tried) == len(RETRY_DELAYS) + 2
    store = fixture.stop_and_open_store()
    assert store.dead_letters() == [
        DeadLetter(bad.event_id, "INV-1", len(RETRY_DELAYS) + 2, now + 2 * HOUR, None, "ValueError: broken")
    ]
    assert store.event(bad.event_id) == bad
    assert store.record("INV-1") is None
    assert store.record("INV-2") is not None
    store.close()

    monkeypatch.undo()
    writer = fixture.open().start()
    assert answer(submit(writer, Redrive(bad.event_id))) == ACCEPTED
    assert answer(submit(writer, Redrive(bad.event_id))).result == "refused"
    store = fixture.stop_and_open_store()
    assert store.dead_letters() == []
    assert store.record("INV-1") is not None
    assert [row.event_id for row in store.timeline("INV-1")] == [bad.event_id]
    store.close()


def test_an_event_that_cannot_be_stored_fails_alone(fixture: CellFixture, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    writer = fixture.open()
    odd = structs.replace(FACTS, attributes={"note": "\ud800"})
    bad = submit(writer, event("ingestion", "received", event_id="bad", facts=odd))
    good = submit(writer, event("ingestion", "received", event_id="good", invoice_id="INV-2"))
    writer.start()
    with pytest.raises(UnicodeEncodeError):
        answer(bad)
    assert answer(good) == ACCEPTED
    store = fixture.stop_and_open_store()
    assert [one.event_id for _, one in store.events()] == ["good"]
    store.close()


def corrupt_row(fixture: CellFixture, sql: str) -> None:
    """Make the content of a row unreadable. SQLite does not notice."""
    fixture.stop()
    connection = apsw.Connection(str(fixture.folder / DATABASE))
    connection.execute(sql)
    assert connection.changes() == 1
    connection.close()


@pytest.mark.parametrize(
    "row", ["invoices SET record = x'00ff' WHERE invoice_id", "executions SET body = x'00ff' WHERE id"]
)
def test_an_unreadable_row_fails_only_its_own_events(
    fixture: CellFixture, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    answer(submit(fixture.open().start(), event("ingestion", "received")))
    corrupt_row(fixture, f"UPDATE {row} LIKE 'INV-1%'")
    writer = fixture.open()
    futures = [
        submit(writer, event("authorization", "approved", event_id="its")),
        submit(writer, event("ingestion", "received", event_id="other", invoice_id="INV-2")),
    ]
    writer.start()
    assert [answer(future) for future in futures] == [ACCEPTED] * 2
    assert writer.failure is None
    store = fixture.stop_and_open_store()
    assert [dead_letter.event_id for dead_letter in store.dead_letters()] == ["its"]
    assert store.record("INV-2") is not None
    store.close()


def test_a_dead_letter_with_an_unreadable_event_blocks_no_due_item(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received", event_id="other", invoice_id="INV-2")))
    break_events(monkeypatch, "INV-1")
    bad = event("ingestion", "received")
    answer(submit(writer, bad))
    corrupt_row(fixture, "UPDATE events SET body = x'00ff' WHERE invoice_id = 'INV-1'")
    fixture.clock.move_to(NOW + 10 * DAY)
    fixture.open().start()
    until(lambda: fixture.count("alerts") > 0)
    assert answer(submit(fixture.writers[-1], Redrive(bad.event_id))).result == "refused"
    store = fixture.stop_and_open_store()
    [dead_letter] = store.dead_letters()
    assert dead_letter.attempts > 1
    store.close()


def test_a_stored_item_is_accepted_although_the_store_fails_afterwards(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")

    def fail(_: SqliteStore) -> Instant:
        raise StoreFailed("it cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "refresh_next_due", fail)
        writer = fixture.open().start()
        assert answer(submit(writer, event("ingestion", "received"))) == ACCEPTED
        until(lambda: writer.failure == "it cannot be read")
    until(lambda: writer.failure is None)
    assert answer(submit(writer, event("ingestion", "received"))) == DUPLICATE


def test_a_redriven_event_is_tried_once_per_group(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    tried = break_events(monkeypatch, "INV-1")
    writer = fixture.open().start()
    bad = event("ingestion", "received")
    answer(submit(writer, bad))
    fixture.clock.move_to(NOW + DAY)
    assert answer(submit(writer, Redrive(bad.event_id))).result == "refused"
    store = fixture.stop_and_open_store()
    assert [dead_letter.attempts for dead_letter in store.dead_letters()] == [len(tried)]
    store.close()


def test_a_successful_retry_deletes_the_dead_letter(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    break_events(monkeypatch, "INV-1")
    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    writer.stop()
    monkeypatch.undo()
    fixture.clock.move_to(NOW + SECOND)
    writer = fixture.open().start()
    until(lambda: fixture.count("invoices") == 1)
    store = fixture.stop_and_open_store()
    assert store.dead_letters() == []
    store.close()


def test_a_command_that_raises_is_refused_and_changes_nothing(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    writer = fixture.open().start()
    monkeypatch.setattr(Cell, "handle_command", broken)
    receipt = answer(submit(writer, Command("1", "INV-1", "ann", NOW, Park(), "why")))
    assert receipt == Receipt("refused", "it could not be carried out: ValueError: broken")


def broken(*_: object) -> None:
    raise ValueError("broken")


def test_a_timer_that_raises_is_retried_with_backoff_and_blocks_no_other(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    fired: list[Instant] = []
    fire = Cell.fire_due

    def fail(cell: Cell, due: Any, now: Instant) -> None:
        fire(cell, due, now)
        if due.key.startswith("INV-1"):
            fired.append(now)
            raise ValueError("broken")

    writer = fixture.open().start()
    answer(submit(writer, event("ingestion", "received")))
    answer(submit(writer, event("ingestion", "received", event_id="other", invoice_id="INV-2")))
    monkeypatch.setattr(Cell, "fire_due", fail)
    now = NOW + 3 * DAY
    fixture.move_to(now)
    until(lambda: bool(fired))
    for times, delay in enumerate(RETRY_DELAYS[:2], 1):
        fixture.move_to(now + delay - 1)
        answer(submit(writer, Command(f"{times}", "INV-0", "ann", NOW, Park(), "why")))
        assert len(fired) == times
        now += delay
        fixture.move_to(now)
        until(lambda times=times: len(fired) == times + 1)  # type: ignore[misc]
    until(lambda: fixture.count("alerts") == 1)
    monkeypatch.undo()
    fixture.move_to(now + RETRY_DELAYS[2])
    until(lambda: fixture.count("alerts") == 2)
    store = fixture.stop_and_open_store()
    assert {(id, step) for id, step, _ in alerts(store)} == {("INV-1", 1), ("INV-2", 1)}
    store.close()


def test_a_group_that_cannot_be_stored_fails_for_its_callers_and_the_next_one_is_stored(
    fixture: CellFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bems.embedded.writer")
    writer = fixture.open()
    execute = writer._store._execute
    execute(f"PRAGMA max_page_count = {execute('PRAGMA page_count').get}")
    events = [event("ingestion", "received", event_id=f"e{n}", invoice_id=f"INV-{n}") for n in range(200)]
    futures = [submit(writer, one) for one in events]
    writer.start()
    for future in futures:
        with pytest.raises(StoreFailed, match="full"):
            future.result(SOON)
    assert (
        answer(submit(writer, Command("1", "INV-1", "ann", NOW, Park(), "why"))).reason == "there is no invoice INV-1"
    )
    execute("PRAGMA max_page_count = 1000000")
    assert [answer(submit(writer, one)) for one in events[:2]] == [ACCEPTED] * 2
    store = fixture.stop_and_open_store()
    assert [seq for seq, _ in store.transitions()] == [1, 2]
    store.close()


def test_a_writer_that_dies_answers_all_waiting_callers(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Writer, "_take", broken)
    writer = fixture.open()
    future = submit(writer, event("ingestion", "received"))
    writer.start()
    with pytest.raises(Stopped, match="died"):
        answer(future)
    with pytest.raises(Stopped):
        submit(writer, event("ingestion", "received"))
    assert "ValueError: broken" in caplog.text


# -- stopping


def test_stop_finishes_queued_items_and_accepts_no_more(fixture: CellFixture) -> None:
    writer = fixture.open(max_group_items=3)
    futures = [submit(writer, event("ingestion", "received", event_id=f"e{number}")) for number in range(10)]
    writer.start()
    writer.stop()
    writer.stop()
    assert [future.result(0) for future in futures] == [ACCEPTED] * 10
    with pytest.raises(Stopped):
        submit(writer, event("ingestion", "received"))
    store = fixture.stop_and_open_store()
    assert len(store.events()) == 10
    store.close()


def test_a_writer_that_never_started_answers_its_items_with_stopped(fixture: CellFixture) -> None:
    writer = fixture.open()
    future = submit(writer, event("ingestion", "received"))
    writer.stop()
    with pytest.raises(Stopped):
        future.result(0)
    SqliteStore(fixture.folder).close()


def test_a_second_writer_on_the_folder_is_refused_and_does_not_disturb_the_first(fixture: CellFixture) -> None:
    with fixture.open() as writer:
        with pytest.raises(StoreUnusable, match="another cell runs on this folder"):
            open_writer(fixture.folder, POLICY, fixture.clock)
        assert answer(submit(writer, event("ingestion", "received"))) == ACCEPTED


# -- group commit (decision 010)


@pytest.mark.parametrize(
    ("waiting", "slept"),
    [(0, []), (1, [COALESCE_SECONDS]), (COALESCE_BELOW_ITEMS - 1, [COALESCE_SECONDS]), (COALESCE_BELOW_ITEMS, [])],
)
def test_the_writer_waits_for_more_after_a_small_group(
    fixture: CellFixture, monkeypatch: pytest.MonkeyPatch, waiting: int, slept: list[float]
) -> None:
    """It waits where some items, and fewer than COALESCE_BELOW_ITEMS, came in while it committed the group before."""
    writer, pauses, groups = fixture.open(), list[float](), list[int]()
    commit_group = Writer.commit_group

    def commit_and_receive(self: Writer) -> bool:
        groups.append(len(self._queue))
        more = commit_group(self)
        if len(groups) == 1:
            for number in range(waiting):
                self.submit(event("ingestion", f"later-{number}", NOW), lambda _: None)
        else:
            self._is_open = False
        return more

    monkeypatch.setattr(Writer, "commit_group", commit_and_receive)
    monkeypatch.setattr("bems.embedded.writer.time.sleep", pauses.append)
    monkeypatch.setattr(Writer, "_sleep", lambda _: None)
    writer.submit(event("ingestion", "first", NOW), lambda _: None)
    writer._run()
    assert (groups[:2], pauses) == ([1, waiting], slept)

"""Durable store: items, groups and due items."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.definition import ESCALATE, REGISTER_WAIT, load_machine, read_definition
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.seed_dictionaries import load_dictionaries
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import DeadLetter, DueItem
from bems.embedded.storage.unit_of_work import LruCache
from bems.engine import load
from bems.tracker.actions import execution_name
from bems.tracker.instants import DAY
from bems.tracker.record import InvoiceRecord, Wait
from tests.tracker.samples import FACTS, NOW, POLICY, event

RECORD = InvoiceRecord("INV-1", FACTS, (NOW, "e"))
RUN_1 = execution_name("INV-1", 1)
MACHINE = load_machine()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


def open_store(folder: Path, **options: Any) -> SqliteStore:
    store = SqliteStore(folder, **options)
    store.store_definition(MACHINE.digest, "{}")
    return store


def reopened(store: SqliteStore, folder: Path) -> SqliteStore:
    store.close()
    return open_store(folder)


# -- items and groups


def test_committed_data_is_there_after_reopening(store: SqliteStore, tmp_path: Path) -> None:
    cell = Cell(POLICY, MACHINE, store)
    received = event("ingestion", "received")
    cell.handle_event(received, NOW)
    while cell.fire_next(NOW + 4 * DAY):
        pass
    store.commit()
    record, execution, stimuli = store.record("INV-1"), store.execution(RUN_1), store.stimuli(RUN_1)
    again = reopened(store, tmp_path)
    assert (again.record("INV-1"), again.execution(RUN_1), again.stimuli(RUN_1)) == (record, execution, stimuli)
    assert again.events() == [(1, received)]
    assert again.event(received.event_id) == received
    assert [alert.step for _, alert in again.alerts()] == [1]
    assert [row.kind for _, row in again.transitions()] == ["event", "alert"]
    again.close()


def test_uncommitted_data_is_gone_after_reopening(store: SqliteStore, tmp_path: Path) -> None:
    store.put_record(RECORD)
    again = reopened(store, tmp_path)
    assert again.record("INV-1") is None
    again.close()


def test_changes_of_an_item_that_raises_are_discarded_and_the_others_stand(store: SqliteStore) -> None:
    cell = Cell(POLICY, MACHINE, store)
    with store.savepoint():
        cell.handle_event(event("ingestion", "received", invoice_id="INV-1"), NOW)
    before = store.record("INV-1")

    def fail() -> None:
        cell.handle_event(event("authorization", "approved", invoice_id="INV-1"), NOW)
        cell.handle_event(event("ingestion", "received", event_id="other", invoice_id="INV-2"), NOW)
        assert store.record("INV-2") is not None, "its own writes are seen"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.savepoint():
        fail()
    assert store.record("INV-1") == before
    assert store.record("INV-2") is None
    assert store.digest("other") is None
    with store.savepoint():
        cell.handle_event(event("ingestion", "received", event_id="third", invoice_id="INV-3"), NOW)
    store.commit()
    assert [one.invoice_id for _, one in store.events()] == ["INV-1", "INV-3"]
    assert [seq for seq, _ in store.transitions()] == [1, 2]
    assert store.stimuli(execution_name("INV-2", 1)) == []


def test_an_item_that_cannot_be_encoded_fails_alone(store: SqliteStore) -> None:
    with pytest.raises(OverflowError, match="can't serialize ints"), store.savepoint():
        store.put_record(structs.replace(RECORD, check_at=1 << 70))
    store.put_record(RECORD)
    store.commit()
    assert store.record("INV-1") == RECORD


def test_a_group_that_cannot_be_stored_is_discarded_as_a_whole(store: SqliteStore) -> None:
    store.put_record(RECORD)
    store.commit()
    pages = store._execute("PRAGMA page_count").get
    store._execute(f"PRAGMA max_page_count = {pages}")
    store.put_record(structs.replace(RECORD, version=1))
    for number in range(200):
        store.add_event(event("ingestion", "received", event_id=f"e{number}"))
    with pytest.raises(StoreFailed, match="full"):
        store.commit()
    assert store.record("INV-1") == RECORD
    assert store.digest("e1") is None
    store._execute("PRAGMA max_page_count = 1000000")
    store.add_event(event("ingestion", "received", event_id="e1"))
    store.commit()
    assert [seq for seq, _ in store.events()] == [1]


def test_a_failed_read_raises_store_failed(store: SqliteStore) -> None:
    store._execute("DROP TABLE events")
    with pytest.raises(StoreFailed, match="could not be read"):
        store.digest("e")


def test_caches_are_bounded_and_do_not_affect_results(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_cached_items=2)
    for number in range(5):
        store.put_record(structs.replace(RECORD, invoice_id=f"INV-{number}"))
    store.commit()
    assert [store.record(f"INV-{number}") is not None for number in range(6)] == [True] * 5 + [False]
    assert len(store._records._values) == 2
    store.close()
    cache: LruCache[str, int] = LruCache(2)
    cache.update({"a": 1, "b": 2})
    assert cache.get("a") == 1
    cache.update({"c": 3})
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


# -- what is due


def put_wait(store: SqliteStore, id: str, check_at: int | None) -> None:
    store.put_record(structs.replace(RECORD, invoice_id=id, check_at=check_at, wait=Wait("posting", NOW, NOW, NOW)))


def test_due_items_are_ordered_and_limited(store: SqliteStore) -> None:
    for number in range(5):
        put_wait(store, f"INV-{number}", NOW + 5 - number)
    store.commit()
    put_wait(store, "INV-4", NOW + 9)
    put_wait(store, "INV-5", NOW + 3)
    due = [("INV-3", 2), ("INV-2", 3), ("INV-5", 3), ("INV-1", 4)]
    assert store.due(NOW + 5, 10) == [DueItem(NOW + at, "check", id) for id, at in due]
    assert store.due(NOW + 5, 1)[0] == DueItem(NOW + 2, "check", "INV-3")


@pytest.mark.parametrize("committed", [True, False])
def test_a_postponed_item_is_due_later(store: SqliteStore, committed: bool) -> None:
    put_wait(store, "INV-1", NOW)
    put_wait(store, "INV-2", NOW + 1)
    store.commit()
    store.postpone(DueItem(NOW, "check", "INV-1"), NOW + 5)
    if committed:
        store.commit()
    assert store.next_due() == DueItem(NOW + 1, "check", "INV-2")
    store.commit()
    assert store.due(NOW + 9, 5) == [DueItem(NOW + 1, "check", "INV-2"), DueItem(NOW + 5, "check", "INV-1")]


def test_an_item_moved_in_the_same_group_is_not_postponed(store: SqliteStore) -> None:
    put_wait(store, "INV-1", NOW)
    store.commit()
    store.postpone(DueItem(NOW, "check", "INV-1"), NOW + 5)
    put_wait(store, "INV-1", NOW + 1)
    store.commit()
    assert store.next_due() == DueItem(NOW + 1, "check", "INV-1")


# -- dead letters, timelines, definitions, dictionaries


def test_dead_letters_stay_until_they_are_dropped(store: SqliteStore) -> None:
    first, dead = (
        DeadLetter("e1", "INV-1", 1, NOW, NOW + 5, "KeyError: x"),
        DeadLetter("e2", "INV-2", 6, NOW + 1, None, "y"),
    )
    store.put_dead_letter(first)
    store.put_dead_letter(dead)
    assert store.dead_letter("e1") == first
    store.commit()
    assert (store.dead_letter("e1"), store.dead_letters()) == (first, [first, dead])
    assert store.dead_letters_due(NOW + 5, 9) == []
    assert store.dead_letters_due(NOW + 6, 9) == [first]
    store.drop_dead_letter("e1")
    assert store.dead_letter("e1") is None
    store.commit()
    assert (store.dead_letter("e1"), store.dead_letters()) == (None, [dead])


def test_a_timeline_spans_groups(store: SqliteStore) -> None:
    cell = Cell(POLICY, MACHINE, store)
    for number, stage in enumerate(("ingestion", "authorization", "reconciliation", "posting")):
        for id in ("INV-1", "INV-2"):
            status = {"ingestion": "received", "authorization": "approved", "reconciliation": "matched"}.get(stage)
            at = NOW + number
            cell.handle_event(event(stage, status or "posted", at, f"{id}-{stage}", id), at)  # type: ignore[arg-type]
        if number != 1:
            store.commit()
    stages = [row.stage for row in store.timeline("INV-1")]
    assert stages == ["posting", "reconciliation", "authorization", "ingestion"]
    assert [seq for seq, _ in store.transitions()] == list(range(1, 9))
    assert [seq for seq, _ in store.transitions(after=3, limit=2)] == [4, 5]
    assert store.timeline("INV-3") == []


def test_an_execution_keeps_the_definition_that_it_was_started_with(tmp_path: Path) -> None:
    old_text = (
        read_definition().replace("${RegisterWaitFunction}", REGISTER_WAIT).replace("${EscalateFunction}", ESCALATE)
    )
    new_text = old_text.replace("AwaitAuthorization", "WaitForAuthorization")
    for text, at, stage, status in (
        (old_text, NOW, "ingestion", "received"),
        (new_text, NOW + 1, "authorization", "approved"),
    ):
        machine = load(text, resources={"lambda:invoke"})
        store = SqliteStore(tmp_path)
        store.store_definition(machine.digest, text)
        store.store_definition(machine.digest, text)
        cell = Cell(POLICY, machine, store)
        cell.handle_event(event(stage, status, at), at)  # type: ignore[arg-type]
        cell.handle_event(event("ingestion", "received", at, f"other {at}", f"INV-{at}"), at)
        store.commit()
        store.close()
    store = SqliteStore(tmp_path)
    cell = Cell(POLICY, machine, store)
    assert states(cell, RUN_1) == ["AwaitAuthorization", "AwaitReconciliation"]
    assert states(cell, execution_name(f"INV-{NOW}", 1)) == ["AwaitAuthorization"]
    assert states(cell, execution_name(f"INV-{NOW + 1}", 1)) == ["WaitForAuthorization"]
    assert store.definition(store.definition_of(RUN_1) or "") == old_text
    with pytest.raises(KeyError):
        store.definition("another")
    store.close()


def states(cell: Cell, name: str) -> list[str]:
    history = cell.executions.history(name)
    return [e["stateEnteredEventDetails"]["name"] for e in history if e["type"].endswith("StateEntered")]


def test_a_store_keeps_the_dictionaries_it_was_created_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = dict.fromkeys(load_dictionaries(), b"other times")
    monkeypatch.setattr("bems.embedded.storage.schema.load_dictionaries", lambda: others)
    sent = [event("ingestion", status, NOW + at) for at, status in enumerate(("received", "cancelled"))]
    for one in sent:
        store = open_store(tmp_path)
        Cell(POLICY, MACHINE, store).handle_event(one, one.received_at)
        store.commit()
        store.close()
        monkeypatch.undo()
    store = open_store(tmp_path)
    assert [one for _, one in store.events()] == sent
    record, execution = store.record("INV-1"), store.execution(RUN_1)
    assert record and execution and execution.is_finished
    assert [row.outcome for row in store.timeline("INV-1")] == ["cancelled", "received"]
    store.close()

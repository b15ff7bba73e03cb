"""Tests that every store passes: the one in memory and the durable one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import AuditEntry, DueItem, MemoryStore
from bems.engine import Start, TimerFired, new_execution
from bems.tracker.actions import execution_name
from bems.tracker.commands import Acknowledge, Command, Extend, Park, Revive
from bems.tracker.decisions import ACCEPTED, CONFLICT, DUPLICATE, Receipt
from bems.tracker.instants import DAY, HOUR
from bems.tracker.record import InvoiceRecord
from tests.tracker.samples import FACTS, NOW, POLICY, event

AnyStore = MemoryStore | SqliteStore
RECORD = InvoiceRecord("INV-1", FACTS, (NOW, "e"))
RUN_1 = execution_name("INV-1", 1)


@pytest.fixture(params=["memory", "sqlite", "sqlite, committed each time"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    if request.param == "memory":
        yield MemoryStore(keep_history=True)
        return
    sqlite = SqliteStore(tmp_path)
    sqlite.store_definition(load_machine().digest, "{}")
    yield sqlite
    sqlite.close()


def settle(store: AnyStore, request: pytest.FixtureRequest) -> None:
    """Commit and clear the caches if the parameter says so, so that reads go to the database itself."""
    if isinstance(store, SqliteStore) and "committed" in request.node.callspec.id:
        store.commit()
        store.rollback()


def test_a_record_is_the_last_one_stored(store: AnyStore, request: pytest.FixtureRequest) -> None:
    assert store.record("INV-1") is None
    for version in (1, 2):
        store.put_record(structs.replace(RECORD, version=version))
        settle(store, request)
        assert store.record("INV-1") == structs.replace(RECORD, version=version)
    assert store.record("INV-2") is None


def test_all_records_are_listed(store: AnyStore) -> None:
    store.put_record(RECORD)
    store.put_record(structs.replace(RECORD, invoice_id="INV-2"))
    if isinstance(store, SqliteStore):
        store.commit()
    assert [record.invoice_id for record in store.records()] == ["INV-1", "INV-2"]


def test_an_event_is_known_by_its_digest(store: AnyStore, request: pytest.FixtureRequest) -> None:
    assert store.digest("e") is None
    for digest in ("00aaff", "00AAFF", "no hexadecimal"):
        store.add_event(event("ingestion", "received", event_id=f"e{digest}", digest=digest))
        settle(store, request)
        assert store.digest(f"e{digest}") == digest


def test_an_execution_is_stored_with_its_state_and_stimuli(store: AnyStore, request: pytest.FixtureRequest) -> None:
    assert store.execution("x-1") is None
    assert store.stimuli("x-1") == []
    execution = new_execution("x-1")
    store.add_execution(execution, load_machine().digest)
    settle(store, request)
    assert store.execution("x-1") == execution
    execution = execution.copy()
    execution.status = "RUNNING"
    store.append_stimulus(execution, Start({"a": [1, None, "é"]}), NOW)
    settle(store, request)
    assert store.execution("x-1") == execution
    store.append_stimulus(execution, TimerFired(), NOW + 1)
    settle(store, request)
    assert store.stimuli("x-1") == [(Start({"a": [1, None, "é"]}), NOW), (TimerFired(), NOW + 1)]


def test_a_command_is_in_the_audit_log(store: AnyStore, request: pytest.FixtureRequest) -> None:
    assert store.command("1") is None
    entry = AuditEntry(Command("1", "INV-1", "ann", NOW, Extend(NOW + DAY), "since when?"), Receipt("refused", "why"))
    store.add_command(entry)
    settle(store, request)
    assert store.command("1") == entry


def test_every_change_updates_the_next_due_item(store: AnyStore, request: pytest.FixtureRequest) -> None:
    assert store.next_due() is None
    for at in (NOW + 5, NOW + 9, NOW + 2):
        store.put_record(structs.replace(RECORD, check_at=at))
        settle(store, request)
        assert store.next_due() == DueItem(at, "check", "INV-1")
    execution = new_execution("x-1")
    execution.status, execution.timer_at = "RUNNING", NOW + 1
    store.add_execution(execution, load_machine().digest)
    settle(store, request)
    assert store.next_due() == DueItem(NOW + 1, "timer", "x-1")
    execution = execution.copy()
    execution.timer_at = NOW + 2
    store.append_stimulus(execution, TimerFired(), NOW)
    settle(store, request)
    assert store.next_due() == DueItem(NOW + 2, "check", "INV-1"), "at the same instant, checks come before timers"
    store.put_record(RECORD)
    settle(store, request)
    assert store.next_due() == DueItem(NOW + 2, "timer", "x-1")
    execution = execution.copy()
    execution.status = "SUCCEEDED"
    store.append_stimulus(execution, TimerFired(), NOW)
    settle(store, request)
    assert store.next_due() is None


def test_a_cell_behaves_the_same_on_every_store(store: AnyStore, request: pytest.FixtureRequest) -> None:
    reference = MemoryStore(keep_history=True)
    cells = Cell(POLICY, load_machine(), store), Cell(POLICY, load_machine(), reference)
    received, parked = event("ingestion", "received"), Command("1", "INV-1", "ann", NOW + HOUR, Park(), "why")
    for cell in cells:
        assert cell.handle_event(received, NOW) == ACCEPTED
        settle(store, request)
        assert cell.handle_event(received, NOW) == DUPLICATE
        assert cell.handle_command(parked, NOW + HOUR).result == "accepted"
        settle(store, request)
        assert cell.handle_command(parked, NOW + HOUR) == DUPLICATE
        assert cell.handle_command(structs.replace(parked, operator="bob"), NOW + HOUR) == CONFLICT
        again = Command("2", "INV-1", "ann", NOW + HOUR, Acknowledge())
        refused = cell.handle_command(again, NOW + HOUR)
        assert refused.result == "refused"
        revived = cell.handle_command(Command("3", "INV-1", "ann", NOW + 2 * HOUR, Revive()), NOW + 2 * HOUR)
        assert (revived.result, revived.next_alert_at) == ("accepted", NOW + 2 * HOUR + 3 * DAY)
        assert cell.handle_command(again, NOW + 2 * HOUR) == refused, "a refused command returns its original refusal"
        cell.handle_event(event("authorization", "approved", NOW + 3 * HOUR), NOW + 3 * HOUR)
        while cell.fire_next(NOW + 4 * DAY) is not None:
            settle(store, request)
        cell.handle_event(event("ingestion", "cancelled", NOW + DAY), NOW + 5 * DAY)
        settle(store, request)
    assert store.record("INV-1") == reference.record("INV-1")
    for name in (RUN_1, execution_name("INV-1", 2)):
        assert store.stimuli(name) == reference.stimuli(name) != []
        assert store.execution(name) == reference.execution(name)
        assert cells[0].executions.history(name) == cells[1].executions.history(name) != []
    assert store.next_due() is None

"""Cell: decisions, executions and store together."""

import pytest

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.store import DueItem, MemoryStore
from bems.engine import Stop, step
from bems.tracker.actions import SendTaskAnswer, execution_name
from bems.tracker.commands import Cancel, Command, Extend, Park, Revive
from bems.tracker.instants import DAY, HOUR
from bems.tracker.status import status_of
from tests.tracker.samples import NOW, POLICY, event

RUN_1, RUN_2 = execution_name("INV-1", 1), execution_name("INV-1", 2)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(keep_history=True)


@pytest.fixture
def cell(store: MemoryStore) -> Cell:
    return Cell(POLICY, load_machine(), store)


def states(cell: Cell, name: str) -> list[str]:
    history = cell.executions.history(name)
    return [e["stateEnteredEventDetails"]["name"] for e in history if e["type"].endswith("StateEntered")]


def test_nothing_is_left_pending(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    cell.handle_event(event("authorization", "approved"), NOW)
    record = store.record("INV-1")
    assert record and record.pending == ()
    execution = store.execution(RUN_1)
    assert execution
    assert record.run.token == execution.token is not None


def test_one_event_id_with_two_contents_is_a_conflict_even_across_invoices(cell: Cell) -> None:
    assert cell.handle_event(event("ingestion", "received", event_id="e", digest="1"), NOW).result == "accepted"
    assert cell.handle_event(event("ingestion", "received", event_id="e", digest="1"), NOW).result == "duplicate"
    other = event("ingestion", "received", event_id="e", digest="2", invoice_id="INV-2")
    assert cell.handle_event(other, NOW).result == "conflict"


def test_an_answer_to_an_unknown_token_has_no_effect(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    before = store.execution(RUN_1)
    for token in ("nobody", "nobody#1", f"{RUN_1}#999", ""):
        cell.executions.answer(SendTaskAnswer(token, "ok", NOW), NOW)
    assert store.execution(RUN_1) == before


def test_an_operator_parks_and_revives(cell: Cell) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    assert cell.handle_command(Command("1", "INV-1", "ann", NOW, Park(), "why"), NOW).result == "accepted"
    assert states(cell, RUN_1) == ["AwaitAuthorization", "Parked"]
    assert cell.handle_command(Command("2", "INV-1", "ann", NOW, Revive()), NOW).result == "accepted"
    assert states(cell, RUN_2) == ["AwaitAuthorization"]


def test_an_execution_waits_until_an_extended_deadline(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    cell.handle_command(Command("1", "INV-1", "ann", NOW, Extend(NOW + 10 * DAY)), NOW)
    while cell.fire_next(NOW + 10 * DAY) is not None:
        pass
    assert store.alerts == []
    while cell.fire_next(NOW + 10 * DAY + 1) is not None:
        pass
    assert [alert.due_at for alert in store.alerts] == [NOW + 10 * DAY]


def test_a_cancelled_invoice_ends_its_run(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    cell.handle_command(Command("1", "INV-1", "ann", NOW + HOUR, Cancel(), "why"), NOW + HOUR)
    record = store.record("INV-1")
    assert record and status_of(record.outcomes) == "Cancelled"
    assert states(cell, RUN_1)[-1] == "Cancelled"
    assert store.next_due() is None


def test_a_stopped_run_is_replaced_when_its_alert_is_due(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    execution = store.execution(RUN_1)
    assert execution
    stopped, _, _ = step(load_machine(), execution, Stop(), NOW + HOUR)
    store.append_stimulus(stopped, Stop(), NOW + HOUR)
    while cell.fire_next(NOW + 4 * DAY) is not None:
        pass
    assert [alert.step for alert in store.alerts] == [1]
    assert states(cell, RUN_2) == ["AwaitAuthorization"]


def test_a_run_registers_though_the_clock_went_back(cell: Cell, store: MemoryStore) -> None:
    cell.handle_event(event("ingestion", "received", NOW + 3 * DAY), NOW + 3 * DAY)
    cell.handle_event(event("authorization", "approved", NOW), NOW)
    record, execution = store.record("INV-1"), store.execution(execution_name("INV-1", 1))
    assert record and execution
    assert record.run.token == execution.token is not None
    fired = 0
    while cell.fire_next(NOW + DAY):
        fired += 1
    assert fired == 0, "else it would ask again every second until the clock has caught up"
    cell.handle_event(event("reconciliation", "matched", NOW + HOUR), NOW + HOUR)
    assert states(cell, execution_name("INV-1", 1))[-1] == "AwaitPosting"


def test_fire_next_stops_before_its_bound(cell: Cell) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    assert cell.fire_next(NOW + 3 * DAY) is None
    assert cell.fire_next(NOW + 3 * DAY + 1) == NOW + 3 * DAY


def test_the_store_tells_what_is_due_first(store: MemoryStore, cell: Cell) -> None:
    cell.handle_event(event("ingestion", "received", invoice_id="INV-1"), NOW + DAY)
    cell.handle_event(event("authorization", "approved", invoice_id="INV-2"), NOW)
    assert store.next_due() == DueItem(NOW + 3 * DAY, "check", "INV-2")
    cell.handle_event(event("ingestion", "cancelled", invoice_id="INV-2"), NOW)
    assert store.next_due() == DueItem(NOW + 4 * DAY, "timer", RUN_1)


def test_a_store_without_history_forgets_what_is_over() -> None:
    store = MemoryStore()
    cell = Cell(POLICY, load_machine(), store)
    cell.handle_event(event("ingestion", "received"), NOW)
    assert store.execution(RUN_1)
    cell.handle_event(event("ingestion", "cancelled", NOW + 1), NOW)
    assert store.execution(RUN_1) is None
    assert cell.executions.history(RUN_1) == []


def test_a_run_that_ends_by_itself_is_replaced_at_once_and_its_dispute_reported(
    cell: Cell, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mismatches without end fill the history of an execution."""
    monkeypatch.setattr("bems.engine.state_runner.MAX_EXECUTION_EVENTS", 120)
    monkeypatch.setattr("bems.engine.state_runner._RECORD_AFTER_EVENT", 110)
    cell.handle_event(event("ingestion", "received"), NOW)
    cell.handle_event(event("authorization", "approved", NOW + 1), NOW + 1)
    for n in range(2, 60):
        cell.handle_event(event("reconciliation", "mismatched", NOW + n, f"mismatch {n}"), NOW + n)
        record = store.record("INV-1")
        assert record and record.run.state == "open" and record.mark is None
        execution = store.execution(execution_name("INV-1", record.run.number))
        assert execution and execution.status == "RUNNING" and execution.token == record.run.token is not None
    assert record and record.run.number > 1
    first = store.execution(RUN_1)
    assert first and first.status == "FAILED"
    assert [alert.event_id for alert in store.alerts if alert.kind == "dispute"] == [
        f"mismatch {n}" for n in range(2, 60)
    ]


def test_an_invoice_whose_runs_end_at_once_becomes_dormant_and_its_dispute_is_reported(
    cell: Cell, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell.handle_event(event("ingestion", "received"), NOW)
    cell.handle_event(event("authorization", "approved", NOW + 1), NOW + 1)
    monkeypatch.setattr("bems.engine.state_runner.MAX_EXECUTION_EVENTS", 10)
    monkeypatch.setattr("bems.engine.state_runner._RECORD_AFTER_EVENT", 0)
    cell.handle_event(event("reconciliation", "mismatched", NOW + 2), NOW + 2)
    record = store.record("INV-1")
    assert record and record.mark == "dormant"
    assert [alert.kind for alert in store.alerts] == ["dispute"]

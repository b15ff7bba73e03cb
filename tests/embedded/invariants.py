"""Invariants of a cell that was sent a log of events, however often it was killed: each event is applied once."""

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import MemoryStore, Store
from bems.engine import RUNNING, new_execution, replay_execution
from bems.tracker.actions import execution_name
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import WAITS_FOR, status_of
from bems.tracker.transitions import Transition
from tests.tracker.samples import plain_policy

POLICY = plain_policy("2d", "1d", 2, 4)
"""Policy of the cell under test."""


def record_answer(answered: dict[str, str], event_id: str, result: str) -> None:
    """Record the result of an event, and check it: an event that was answered before must be a duplicate."""
    assert result == "duplicate" or (result == "accepted" and event_id not in answered)
    answered.setdefault(event_id, result)


def check_store(store: SqliteStore, log: dict[str, bytes], end: Instant) -> None:
    """Fire everything that is due at `end`, and compare the store with a run of the same events in memory."""
    cell = Cell(POLICY, load_machine(), store)
    while due := store.due(end + 1, 100):
        for one in due:
            cell.fire_due(one, end)
        store.commit()
    events = [event for _, event in store.events(limit=1_000_000)]
    assert sorted(event.event_id for event in events) == sorted(log)
    assert store.dead_letters() == []
    rows = check_transitions(store, events)
    check_alerts(store, rows)
    reference = run_in_memory(events)
    for record in store.records():
        other = reference.record(record.invoice_id)
        assert other is not None
        assert comparable(record) == comparable(other)
        check_run(store, record, end)
    assert len(list(store.records())) == len(list(reference.records()))


def check_transitions(store: SqliteStore, events: list[Event]) -> list[Transition]:
    numbered = store.transitions(limit=1_000_000)
    assert [seq for seq, _ in numbered] == list(range(1, len(numbered) + 1))
    rows = [row for _, row in numbered]
    assert [row.event_id for row in rows if row.kind == "event"] == [event.event_id for event in events]
    by_invoice: dict[str, list[Transition]] = {}
    for row in rows:
        by_invoice.setdefault(row.invoice_id, []).append(row)
    for id, timeline in by_invoice.items():
        instants = [row.recorded_at for row in timeline]
        assert instants == sorted(set(instants)), "instants of an invoice's rows increase strictly"
        assert len({row.transition_id for row in timeline}) == len(timeline)
        assert store.timeline(id) == timeline[::-1]
    return rows


def check_alerts(store: SqliteStore, rows: list[Transition]) -> None:
    alerts = [alert for _, alert in store.alerts(limit=1_000_000)]
    assert len(alerts) > 50
    raised = sorted(f"alert {alert.id}" for alert in alerts if alert.kind != "resolved")
    assert raised == sorted(row.transition_id for row in rows if row.kind == "alert")
    assert len(raised) < len(alerts)
    steps: dict[tuple[str, str, Instant], int] = {}
    for alert in alerts:
        assert alert.raised_at >= alert.due_at
        if alert.kind == "stuck":
            wait = alert.invoice_id, alert.stage, alert.waiting_since
            assert alert.step > steps.get(wait, 0)
            steps[wait] = alert.step


def run_in_memory(events: list[Event]) -> MemoryStore:
    """Handle the same events in the same order in memory, each at the instant at which the cell received it."""
    memory = MemoryStore()
    cell = Cell(POLICY, load_machine(), memory)
    for event in events:
        while cell.fire_next(event.received_at) is not None:
            pass
        cell.handle_event(event, event.received_at)
    return memory


def comparable(record: InvoiceRecord) -> object:
    """Return the parts of a record that do not depend on when exactly a group was committed."""
    return (
        status_of(record.outcomes),
        record.outcomes,
        record.facts,
        record.facts_version,
        record.terms_version,
        record.recent_event_ids,
    )


def check_run(store: Store, record: InvoiceRecord, now: Instant) -> None:
    assert record.pending == ()
    waits_for, run = WAITS_FOR[status_of(record.outcomes)], record.run
    if record.wait:
        assert record.wait.stage == waits_for
        assert record.wait.due > now, "every due alert has been raised"
    assert (record.wait is None) == (waits_for is None or record.mark == "parked")
    for number in range(1, run.number + 1):
        name = execution_name(record.invoice_id, number)
        execution, stimuli = store.execution(name), store.stimuli(name)
        assert execution is not None
        assert replay_execution(load_machine(), new_execution(name), stimuli)[0] == execution, (
            "the stimuli lead to the state"
        )
        is_open = number == run.number and run.state == "open"
        assert (execution.status == RUNNING) == is_open
        if is_open:
            assert execution.token == run.token is not None
            assert execution.due is not None
    if waits_for and waits_for != "ingestion" and record.mark is None:
        assert run.state == "open"

"""What must hold of a cell that was sent a log, however often it died: each event once, and what comes of them."""

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import MemoryStore, Store
from bems.engine import RUNNING, new_execution, replay
from bems.tracker.actions import execution_name
from bems.tracker.contract import Event
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import WAITS_FOR, status_of
from bems.tracker.transitions import Transition
from tests.tracker.samples import plain_policy

POLICY = plain_policy("2d", "1d", 2, 4)
"""What the cell ran by."""


def record_answer(answered: dict[str, str], event_id: str, result: str) -> None:
    """One that was answered is a duplicate from then on; one that was not may be either."""
    assert result == "duplicate" or (result == "accepted" and event_id not in answered)
    answered.setdefault(event_id, result)


def check_store(store: SqliteStore, log: dict[str, bytes], end: Instant) -> None:
    cell = Cell(POLICY, load_machine(), store)
    while due := store.due(end + 1, 100):
        for one in due:
            cell.fire_due(one, end)
        store.commit()
    events = [event for _, event in store.events(limit=1_000_000)]
    assert sorted(event.event_id for event in events) == sorted(log)
    assert store.dead_letters() == []
    rows = examine_transitions(store, events)
    examine_alerts(store, rows)
    reference = run_in_memory(events)
    for record in store.records():
        other = reference.record(record.invoice_id)
        assert other is not None
        assert comparable(record) == comparable(other)
        examine_run(store, record, end)
    assert len(list(store.records())) == len(list(reference.records()))


def examine_transitions(store: SqliteStore, events: list[Event]) -> list[Transition]:
    numbered = store.transitions(limit=1_000_000)
    assert [seq for seq, _ in numbered] == list(range(1, len(numbered) + 1))
    rows = [row for _, row in numbered]
    assert [row.event_id for row in rows if row.kind == "event"] == [event.event_id for event in events]
    by_invoice: dict[str, list[Transition]] = {}
    for row in rows:
        by_invoice.setdefault(row.invoice_id, []).append(row)
    for id, mine in by_invoice.items():
        instants = [row.recorded_at for row in mine]
        assert instants == sorted(set(instants)), "each at an instant of its own, and never back"
        assert len({row.transition_id for row in mine}) == len(mine)
        assert store.timeline(id) == mine[::-1]
    return rows


def examine_alerts(store: SqliteStore, rows: list[Transition]) -> None:
    alerts = [alert for _, alert in store.alerts(limit=1_000_000)]
    assert len(alerts) > 50
    assert sorted(f"alert {alert.id}" for alert in alerts) == sorted(r.transition_id for r in rows if r.kind == "alert")
    steps: dict[tuple[str, str, Instant], int] = {}
    for alert in alerts:
        assert alert.raised_at >= alert.due_at
        if alert.kind == "stuck":
            wait = alert.invoice_id, alert.stage, alert.waiting_since
            assert alert.step > steps.get(wait, 0)
            steps[wait] = alert.step


def run_in_memory(events: list[Event]) -> MemoryStore:
    """The same events in the same order, each at the instant at which the child took it in."""
    memory = MemoryStore()
    cell = Cell(POLICY, load_machine(), memory)
    for event in events:
        while cell.fire_next(event.received_at) is not None:
            pass
        cell.handle_event(event, event.received_at)
    return memory


def comparable(record: InvoiceRecord) -> object:
    """What does not depend on when exactly a turn began."""
    return (
        status_of(record.outcomes),
        record.outcomes,
        record.facts,
        record.facts_version,
        record.terms_version,
        record.recent_event_ids,
    )


def examine_run(store: Store, record: InvoiceRecord, now: Instant) -> None:
    assert record.pending == ()
    waits_for, run = WAITS_FOR[status_of(record.outcomes)], record.run
    if record.wait:
        assert record.wait.stage == waits_for
        assert record.wait.due > now, "whatever was due has been raised"
    assert (record.wait is None) == (waits_for is None or record.mark == "parked")
    for number in range(1, run.number + 1):
        name = execution_name(record.invoice_id, number)
        execution, past = store.execution(name), store.stimuli(name)
        assert execution is not None
        assert replay(load_machine(), new_execution(name), past)[0] == execution, "state and past are of one piece"
        is_open = number == run.number and run.state == "open"
        assert (execution.status == RUNNING) == is_open
        if is_open:
            assert execution.token == run.token is not None
            assert execution.due is not None
    if waits_for and waits_for != "ingestion" and record.mark is None:
        assert run.state == "open"

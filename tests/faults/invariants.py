"""Invariants that are checked after every recovery and at the end. A violation raises InvariantViolated.

1. The store opens after every crash, and SQLite's integrity check passes. 2. Every event answered `accepted` or
`duplicate` is stored once, with the content that was sent first. An event without an answer, or answered `unavailable`,
is stored at most once. An event is answered `accepted` at most once. 3. Each accepted event is either applied once or a
dead letter. 4. The store equals the result of the pure core for the same stimuli in the stored order: records,
executions with their stimuli, transitions, alerts, the audit log. A group that was not answered is stored completely or
not at all. 5. A record's status, computed independently, is that of the newest outcomes that were ever applied. Each
execution equals a replay of its stimuli. 6. Transitions are numbered without gaps. Those of an invoice form a linked
list to its first one, at distinct instants. A reader that follows the numbers reads each transition once, and no
transition that it read disappears. 7. Every open invoice has a wait and a check time, and unless it is an orphan a run
with a timer, all indexed in the store. So no crash, failure or clock jump loses a timer: at the end every wait has
ended. 8. The steps of a wait's alerts ascend, no alert is raised before it is due, and ids are unique. At the end the
last alert has parked the invoice. 9. Each alert reaches every destination of its severity, in order per invoice, unless
it was given up after a day. It is repeated only after a negative response, or if the process ended while it was being
sent. 10. The rows of an invoice form a chain of statuses, amounts and currencies. Counts and amounts by status and
currency are equal in the rows, the records and the store's index. 11. A waiting invoice with a dispute or a failed
posting has been reported. A parked invoice keeps the wait that was given up, and counts as stuck.
"""

from collections import defaultdict
from typing import Any

from bems.embedded.alerting.outbox import DATABASE as OUTBOX
from bems.embedded.storage.reader import Reader
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.engine import RUNNING, new_execution, replay_execution
from bems.tracker.actions import Alert
from bems.tracker.contract import FAILURE_STATUS, Stage
from bems.tracker.instants import LATEST, Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import DISPUTABLE_STAGES
from bems.tracker.status import WAITS_FOR, Outcome, status_of, supersedes
from bems.tracker.transitions import Transition
from tests.faults.reference_model import ALL, ReferenceModel, State, execution_names, read_state
from tests.faults.simulated_cell import MACHINE, SimulatedCell


class InvariantViolated(AssertionError):
    """An invariant does not hold. The message starts with its number."""


def require(condition: object, what: str) -> None:
    """Raise InvariantViolated if the condition is false."""
    if not condition:
        raise InvariantViolated(what)


def check_recovered(
    cell: SimulatedCell, model: ReferenceModel, answered: dict[str, str], followed: list[Transition]
) -> None:
    """Check the invariants that must hold after every recovery."""
    check_files(cell)
    state = read_state(cell.reader)
    if not model.reconcile(state):
        raise InvariantViolated(f"4: the store differs from the reference model: {difference(state, model.state())}")
    stored = {event.event_id: event for event in state.events}
    require(len(stored) == len(state.events), "2: an event is stored twice")
    missing = sorted(id for id in answered if id not in stored)
    require(not missing, f"2: answered but not stored: {missing}")
    check_rows(state, cell.reader)
    check_chain(state.transitions)
    check_totals(state, cell.reader)
    check_due_index(cell.store, model)
    check_following(state.transitions, followed)
    check_alerts(state.alerts)
    for record in state.records.values():
        check_status(record, state)
        check_run(record, state)
        check_report(record)


def check_chain(rows: list[Transition]) -> None:
    ends: dict[str, Any] = {}
    for row in rows:
        start = row.from_status, row.from_amount, row.from_currency
        before = ends.get(row.invoice_id, (None, None, None))
        require(start == before, f"10: {row.transition_id} of {row.invoice_id} begins at {start}, not at {before}")
        ends[row.invoice_id] = end = row.to_status, row.to_amount, row.to_currency
        require(row.kind in ("event", "command") or start == end, f"10: {row.transition_id} moves {row.invoice_id}")


def check_totals(state: State, reader: Reader) -> None:
    series: dict[Any, Any] = defaultdict(int)
    records: dict[Any, Any] = defaultdict(int)
    for row in state.transitions:
        series[row.to_status, row.to_currency, "count"] += 1
        series[row.to_status, row.to_currency, "amount"] += row.to_amount
        if row.from_status is not None:
            series[row.from_status, row.from_currency, "count"] -= 1
            series[row.from_status, row.from_currency, "amount"] -= row.from_amount
    for record in state.records.values():
        status, facts = status_of(record.outcomes), record.facts
        records[status, facts.currency, "count"] += 1
        records[status, facts.currency, "amount"] += facts.amount
    found = {key: value for key, value in series.items() if value}
    require(found == dict(records), f"10: the series says {found}, the records {dict(records)}")
    indexed = {
        (total.status, total.currency, name): value
        for total in reader.totals()
        for name, value in (("count", total.invoices), ("amount", total.amount))
    }
    require(indexed == dict(records), f"10: the index says {indexed}, the records {dict(records)}")
    stuck = sum(record.is_stuck for record in state.records.values())
    require(
        sum(total.stuck for total in reader.totals()) == stuck, f"10: {stuck} are stuck, and the index says otherwise"
    )


def check_report(record: InvoiceRecord) -> None:
    if record.wait is not None:
        for stage in DISPUTABLE_STAGES:
            outcome = record.outcomes.get(stage)
            bad = outcome is not None and outcome.status == FAILURE_STATUS[stage]
            is_reported = not bad or record.reported_disputes.get(stage) == (outcome and outcome.event_id)
            require(is_reported, f"11: {outcome} of {record.invoice_id} was not reported")
    require((record.mark == "parked") == (record.parked is not None), f"11: {record.invoice_id} keeps {record.parked}")
    require(record.mark != "parked" or record.is_stuck, f"11: {record.invoice_id} is parked, and not stuck")


def check_files(cell: SimulatedCell) -> None:
    for connection, name in ((cell.store._connection, DATABASE), (cell.deliveries._outbox._connection, OUTBOX)):
        found = connection.execute("PRAGMA integrity_check").fetchall()
        require(found == [("ok",)], f"1: {name}: {found}")


def difference(found: State, expected: State) -> str:
    """Describe the first difference."""
    for name in State._fields:
        one, other = getattr(found, name), getattr(expected, name)
        if one == other:
            continue
        if isinstance(one, dict):
            for key in sorted({*one, *other}):
                if one.get(key) != other.get(key):
                    return f"{name}[{key}] is {one.get(key)}, should be {other.get(key)}"
        for number, (left, right) in enumerate(zip(one, other, strict=False)):
            if left != right:
                return f"{name}[{number}] is {left}, should be {right}"
        return f"there are {len(one)} {name}, should be {len(other)}; the last one: {(one or other)[-1]}"
    return "nothing"


def check_rows(state: State, reader: Reader) -> None:
    numbered = reader.transitions(limit=ALL)
    require([seq for seq, _ in numbered] == list(range(1, len(numbered) + 1)), "6: a number is missing")
    numbers = [seq for seq, _ in reader.events(limit=ALL)]
    require(numbers == list(range(1, len(numbers) + 1)), "6: an event's number is missing")
    applied = [row.event_id for row in state.transitions if row.kind == "event"]
    require(len(set(applied)) == len(applied), "3: an event was applied twice")
    require(not set(applied) & set(state.dead_letters), "3: a dead letter was applied")
    accepted = {event.event_id for event in state.events}
    require(accepted == {*applied, *state.dead_letters}, "3: an accepted event is neither applied nor a dead letter")
    by_invoice: dict[str, list[Transition]] = {}
    for row in state.transitions:
        by_invoice.setdefault(row.invoice_id, []).append(row)
    for id, rows in by_invoice.items():
        instants = [row.recorded_at for row in rows]
        require(instants == sorted(set(instants)), f"6: {id} has two rows at an instant, or one that goes back")
        require(len({row.transition_id for row in rows}) == len(rows), f"6: {id} has a row twice")
        require(reader.timeline(id, ALL) == rows[::-1], f"6: the rows of {id} do not lead back to its first")


def check_following(rows: list[Transition], followed: list[Transition]) -> None:
    require(rows[: len(followed)] == followed, "6: a row that was read has disappeared")


def check_due_index(store: SqliteStore, model: ReferenceModel) -> None:
    """Check that every timer and check is indexed at its time, unless a failure postponed it."""
    stored = {(one.kind, one.key): one for one in store.due(LATEST + 1, ALL)}
    expected = {(one.kind, one.key): one for one in model.due()}
    message = f"7: the store indexes {sorted(stored.values())}, should be {sorted(expected.values())}"
    require(stored.keys() == expected.keys(), message)
    for key, one in expected.items():
        require(stored[key] == one or one in model.postponed, message)


def check_alerts(alerts: list[Alert]) -> None:
    require(len({alert.id for alert in alerts}) == len(alerts), "8: an alert is stored twice")
    steps: dict[tuple[str, str, Instant], int] = {}
    for alert in alerts:
        require(alert.raised_at >= alert.due_at, f"8: {alert} came too early")
        if alert.kind == "stuck":
            wait = alert.invoice_id, alert.stage, alert.waiting_since
            require(alert.step > steps.get(wait, 0), f"8: {alert} goes back")
            steps[wait] = alert.step


def check_status(record: InvoiceRecord, state: State) -> None:
    """Compute the newest outcomes from all applied events.

    Skips invoices with operator outcomes, which depend on the outcomes that they override.
    """
    own = [row for row in state.transitions if row.invoice_id == record.invoice_id]
    if any(row.kind == "command" and row.outcome in ("complete", "cancel") for row in own):
        return
    applied = {row.event_id for row in own if row.kind == "event"}
    registers: dict[Stage, Outcome] = {}
    for event in state.events:
        if event.event_id in applied:
            outcome = Outcome(
                event.status, event.event_id, event.occurred_at, event.received_at, event.actor, event.reason
            )
            if supersedes(event.stage, outcome, registers.get(event.stage)):
                registers[event.stage] = outcome
    require(record.outcomes == registers, f"5: {record.invoice_id} has {record.outcomes}, its events say {registers}")


def check_run(record: InvoiceRecord, state: State) -> None:
    id, run, waits_for = record.invoice_id, record.run, WAITS_FOR[status_of(record.outcomes)]
    require(record.pending == (), f"7: something is pending of {id}")
    waiting = waits_for is not None and record.mark != "parked"
    require(
        (record.wait is not None) == waiting, f"7: {id} is {status_of(record.outcomes)} and waits for {record.wait}"
    )
    if waiting:
        require(record.wait and record.wait.stage == waits_for, f"7: {id} waits for another stage than its status says")
        require(record.check_at is not None, f"7: {id} has no check time")
        if waits_for != "ingestion" and record.mark is None:
            require(run.state == "open", f"7: {id} waits without a run")
    for number, name in enumerate(execution_names(record), 1):
        execution = state.executions.get(name)
        if execution is None:
            raise InvariantViolated(f"5: {name} is missing")
        replayed = replay_execution(MACHINE, new_execution(name), state.stimuli[name])[0]
        require(replayed == execution, f"5: {name} differs from its replay")
        is_open = number == run.number and run.state == "open"
        require((execution.status == RUNNING) == is_open, f"5: {name} is {execution.status}, and its run {run.state}")
        if is_open:
            require(execution.token == run.token is not None, f"5: {name} waits with another token")
            require(execution.due is not None, f"7: {name} has no timer")


def check_drained(cell: SimulatedCell, now: Instant) -> None:
    """Check the invariants at the end, weeks after the last event, when every timer has expired."""
    state = read_state(cell.reader)
    require(state.dead_letters == [], f"3: dead letters are left: {state.dead_letters}")
    require(cell.next_due() is None, f"7: something is still due at {cell.next_due()}, and it is {now}")
    for record in state.records.values():
        if WAITS_FOR[status_of(record.outcomes)] and record.mark != "parked":
            raise InvariantViolated(f"7: {record.invoice_id} waits forever: {record.wait}")
        check_escalation(record, state)


def check_escalation(record: InvoiceRecord, state: State) -> None:
    """Check that an invoice that was given up has its last alert, unless an operator parked it."""
    rows = [row for row in state.transitions if row.invoice_id == record.invoice_id]
    parks = [number for number, row in enumerate(rows) if row.kind == "park"]
    if record.mark == "parked" and parks and parks[-1] == len(rows) - 1:
        last = [alert for alert in state.alerts if alert.invoice_id == record.invoice_id and alert.last]
        require(last or rows[-2].kind == "command", f"8: {record.invoice_id} is parked without its last alert")

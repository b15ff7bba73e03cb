"""Clauses about waits: when alerts are raised, how they escalate, and how a wait ends or continues.

The policy: alerts after 3 days and then daily, critical from the second, the third is the last.
"""

from typing import Any

import pytest

from bems.tracker.actions import alert_id
from bems.tracker.contract import STAGES, SUCCESS_STATUS, Stage
from bems.tracker.instants import DAY, HOUR, MILLISECOND, MINUTE, SECOND, render
from bems.tracker.record import Parked
from tests.conformance.runtime import ID, Runtime
from tests.tracker.samples import NOW

DUE = NOW + 3 * DAY
"""When the first alert of a wait that begins at NOW is due."""

DISPUTES: list[Any] = [("reconciliation", "mismatched", "dispute"), ("posting", "failed", "failed")]


def send_until(runtime: Runtime, stage: Stage) -> None:
    """Send the events of all stages before `stage`."""
    for before in STAGES[: STAGES.index(stage)]:
        runtime.send(before, SUCCESS_STATUS[before])


def steps(runtime: Runtime) -> list[tuple[str, int, str, str]]:
    return [(one["stage"], one["step"], one["severity"], one["raised_at"]) for one in runtime.alerts()]


def alert_rows(runtime: Runtime) -> list[tuple[str, str]]:
    return [(row["step"], row["severity"]) for row in runtime.rows() if row["kind"] == "alert"]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_wait_that_times_out_raises_one_alert_with_a_derived_id(runtime: Runtime, stage: Stage) -> None:
    send_until(runtime, stage)
    runtime.pass_time(3 * DAY - SECOND)
    assert runtime.alerts() == []
    runtime.pass_time(SECOND)
    runtime.pass_time(HOUR)
    (alert,) = runtime.alerts()
    assert alert["id"] == alert_id(ID, stage, NOW, 1)
    assert (alert["kind"], alert["stage"], alert["step"], alert["severity"]) == ("stuck", stage, 1, "warning")
    assert (alert["waiting_since"], alert["due_at"], alert["raised_at"]) == (render(NOW), render(DUE), render(DUE))
    assert (alert["amount"], alert["currency"], alert["event_id"]) == ("1250.00", "EUR", None)
    assert alert_rows(runtime) == [("1", "warning")]
    assert runtime.record().is_stuck


def test_an_event_in_time_raises_nothing(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(3 * DAY - SECOND)
    runtime.send("authorization", "approved")
    runtime.pass_time(3 * DAY - SECOND)
    assert runtime.alerts() == []
    runtime.pass_time(SECOND)
    assert steps(runtime) == [("reconciliation", 1, "warning", render(DUE + 3 * DAY - SECOND))]


def test_each_step_escalates_and_the_last_one_parks(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(60 * DAY)
    assert steps(runtime) == [
        ("authorization", 1, "warning", render(DUE)),
        ("authorization", 2, "critical", render(DUE + DAY)),
        ("authorization", 3, "critical", render(DUE + 2 * DAY)),
    ]
    assert [alert["last"] for alert in runtime.alerts()] == [False, False, True]
    assert len({alert["id"] for alert in runtime.alerts()}) == 3
    record = runtime.record()
    assert (record.mark, record.wait, record.check_at) == ("parked", None, None)
    assert record.parked == Parked(DUE + 2 * DAY, "authorization", NOW, 3)
    assert [row["kind"] for row in runtime.rows()] == ["event", "alert", "alert", "alert", "park"]
    (execution,) = runtime.executions()
    again = ["AuthorizationStuck", "AuthorizationEscalated"]
    assert execution.states == [*["AwaitAuthorization", *again] * 3, "Parked"]
    assert execution.status == "SUCCEEDED"


def test_an_event_revives_a_parked_invoice(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(10 * DAY)
    runtime.send("authorization", "approved")
    record = runtime.record()
    assert (record.mark, record.parked, record.run.number) == (None, None, 2)
    assert [row["kind"] for row in runtime.rows()][-2:] == ["event", "revive"]
    _, second = runtime.executions()
    assert second.states == ["AwaitAuthorization", "AwaitReconciliation"]
    runtime.pass_time(3 * DAY)
    assert steps(runtime)[3:] == [("reconciliation", 1, "warning", render(NOW + 13 * DAY))]


def test_an_event_that_changes_nothing_does_not_revive(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(10 * DAY)
    runtime.send("ingestion", "received", event_id="older", occurred_at=render(NOW - DAY))
    assert runtime.record().mark == "parked"
    assert [one.status for one in runtime.executions()] == ["SUCCEEDED"]


def test_an_event_after_an_alert_continues(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(3 * DAY + HOUR)
    runtime.send("authorization", "approved")
    assert not runtime.record().is_stuck
    (execution,) = runtime.executions()
    assert execution.states[1:] == [
        "AuthorizationStuck",
        "AuthorizationEscalated",
        "AwaitAuthorization",
        "AwaitReconciliation",
    ]
    runtime.pass_time(2 * DAY)
    assert len(runtime.alerts()) == 1


def test_an_event_between_the_deadline_and_the_timer_raises_the_alert_first(runtime: Runtime) -> None:
    """A timer counts whole seconds."""
    runtime.send("ingestion", "received")
    deadline = NOW + 4 * DAY + 500 * MILLISECOND
    runtime.command("extend", until=render(deadline))
    runtime.pass_time(deadline + 200 * MILLISECOND - NOW)
    assert runtime.alerts() == []
    runtime.send("authorization", "approved")
    (alert,) = runtime.alerts()
    assert (alert["stage"], alert["step"], alert["due_at"]) == ("authorization", 1, render(deadline))
    assert runtime.status() == "AwaitingReconciliation"
    runtime.pass_time(MINUTE)
    assert len(runtime.alerts()) == 1


def test_a_wait_of_more_than_thirty_days_raises_nothing_before_its_deadline(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    deadline = NOW + 75 * DAY
    runtime.command("extend", until=render(deadline))
    runtime.pass_time(75 * DAY - SECOND)
    assert runtime.alerts() == []
    runtime.pass_time(SECOND)
    assert steps(runtime) == [("authorization", 1, "warning", render(deadline))]
    (execution,) = runtime.executions()
    assert execution.states.count("AwaitAuthorization") == 5, "after 3, 33, 63 and 75 days"


def test_an_orphan_is_alerted_without_an_execution(runtime: Runtime) -> None:
    runtime.send("authorization", "approved")
    runtime.pass_time(10 * DAY)
    assert steps(runtime) == [
        ("ingestion", 1, "warning", render(DUE)),
        ("ingestion", 2, "critical", render(DUE + DAY)),
        ("ingestion", 3, "critical", render(DUE + 2 * DAY)),
    ]
    assert (runtime.record().mark, runtime.executions()) == ("parked", [])
    runtime.send("ingestion", "received")
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization", "AwaitReconciliation"]


# -- disputes


@pytest.mark.parametrize(("stage", "status", "kind"), DISPUTES)
def test_a_dispute_is_reported_once_and_its_wait_restarts(
    runtime: Runtime, stage: Stage, status: str, kind: str
) -> None:
    send_until(runtime, stage)
    runtime.pass_time(2 * DAY)
    for _ in range(2):
        runtime.send(stage, status, event_id="bad", occurred_at=render(NOW + 2 * DAY))
        runtime.pass_time(HOUR)
    (alert,) = runtime.alerts()
    assert alert["id"] == alert_id(ID, kind, "bad")
    assert (alert["kind"], alert["stage"], alert["step"], alert["severity"]) == (kind, stage, 0, "warning")
    assert (alert["event_id"], alert["raised_at"]) == ("bad", render(NOW + 2 * DAY))
    (execution,) = runtime.executions()
    await_state = f"Await{stage.capitalize()}"
    reported = "ReconciliationDisputed" if kind == "dispute" else "PostingFailed"
    assert execution.states[-3:] == [await_state, reported, await_state]
    runtime.send(stage, SUCCESS_STATUS[stage])
    assert len(runtime.alerts()) == 1


@pytest.mark.parametrize(("stage", "status", "kind"), DISPUTES)
def test_a_dispute_that_stands_gets_stuck_and_its_alerts_name_it(
    runtime: Runtime, stage: Stage, status: str, kind: str
) -> None:
    send_until(runtime, stage)
    runtime.pass_time(DAY)
    runtime.send(stage, status, event_id="bad")
    runtime.pass_time(20 * DAY)
    assert [(alert["kind"], alert["step"], alert["event_id"]) for alert in runtime.alerts()] == [
        (kind, 0, "bad"),
        *[("stuck", step, "bad") for step in (1, 2, 3)],
    ]
    assert runtime.alerts()[1]["raised_at"] == render(DUE + DAY)
    assert runtime.record().mark == "parked"


@pytest.mark.parametrize(("stage", "status", "kind"), DISPUTES)
def test_a_dispute_of_a_later_stage_is_reported_at_once(runtime: Runtime, stage: Stage, status: str, kind: str) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(HOUR)
    runtime.send(stage, status)
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["raised_at"]) == (kind, render(NOW + HOUR))
    wait = runtime.record().wait
    assert wait and (wait.stage, wait.since) == ("authorization", NOW), "the present wait continues"
    runtime.send("authorization", "approved")
    if stage == "posting":
        runtime.send("reconciliation", "matched")
    assert len(runtime.alerts()) == 1


def test_a_mismatch_while_posting_is_awaited_goes_back(runtime: Runtime) -> None:
    send_until(runtime, "posting")
    runtime.pass_time(HOUR)
    runtime.send("reconciliation", "mismatched")
    assert runtime.status() == "Disputed"
    (execution,) = runtime.executions()
    assert execution.states[-3:] == ["AwaitPosting", "ReconciliationDisputed", "AwaitReconciliation"]
    runtime.send("posting", "posted")
    assert runtime.status() == "Disputed"
    runtime.pass_time(HOUR)
    runtime.send("reconciliation", "matched", event_id="corrected")
    assert runtime.status() == "Posted"
    (execution,) = runtime.executions()
    assert execution.states[-2:] == ["AwaitPosting", "Posted"]
    assert [alert["kind"] for alert in runtime.alerts()] == ["dispute"]


# -- executions that end unexpectedly


def test_a_lost_execution_is_alerted_after_its_grace_and_then_replaced(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.lose_execution()
    runtime.pass_time(3 * DAY + 5 * MINUTE - SECOND)
    assert runtime.alerts() == []
    runtime.pass_time(SECOND)
    assert steps(runtime) == [("authorization", 1, "warning", render(DUE + 5 * MINUTE))]
    assert runtime.alerts()[0]["due_at"] == render(DUE)
    assert len(runtime.executions()) == 1, "it may only be late"
    runtime.pass_time(55 * MINUTE - SECOND)
    assert len(runtime.executions()) == 1
    runtime.pass_time(SECOND)
    lost, second = runtime.executions()
    assert (lost.status, second.status, second.states) == ("ABORTED", "RUNNING", ["AwaitAuthorization"])
    assert len(runtime.alerts()) == 1
    runtime.send("authorization", "approved")
    assert runtime.executions()[1].states == ["AwaitAuthorization", "AwaitReconciliation"]


def limit_history(monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    """Let executions fail that have more history events."""
    monkeypatch.setattr("bems.engine.state_runner.MAX_EXECUTION_EVENTS", events)
    monkeypatch.setattr("bems.engine.state_runner._RECORD_AFTER_EVENT", 0)


def test_an_execution_that_fails_is_replaced_at_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    send_until(runtime, "posting")
    for event_id in ("e1", "e2"):
        runtime.send("posting", "failed", event_id=event_id)
        runtime.pass_time(HOUR)
    limit_history(monkeypatch, 45)
    runtime.send("posting", "failed", event_id="e3")
    first, second = runtime.executions()
    assert (first.status, second.status) == ("FAILED", "RUNNING")
    record = runtime.record()
    assert (record.mark, record.run.number, record.run.state) == (None, 2, "open")
    assert [(alert["kind"], alert["event_id"]) for alert in runtime.alerts()] == [
        ("failed", "e1"),
        ("failed", "e2"),
        ("failed", "e3"),
    ]


def test_an_invoice_whose_executions_keep_failing_is_dormant_until_its_next_event(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_until(runtime, "reconciliation")
    with monkeypatch.context() as patch:
        limit_history(patch, 5)
        runtime.send("reconciliation", "mismatched")
    assert runtime.record().mark == "dormant"
    assert [one.status for one in runtime.executions()] == ["FAILED", "FAILED"]
    assert [alert["kind"] for alert in runtime.alerts()] == ["dispute"], "no execution could report it"
    runtime.pass_time(HOUR)
    assert len(runtime.executions()) == 2
    runtime.send("authorization", "approved", event_id="older", occurred_at=render(NOW - DAY))
    assert runtime.record().mark is None
    third = runtime.executions()[2]
    assert (third.status, third.states) == ("RUNNING", ["AwaitAuthorization", "AwaitReconciliation"])


def test_the_next_alert_of_a_dormant_invoice_starts_an_execution(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_until(runtime, "reconciliation")
    with monkeypatch.context() as patch:
        limit_history(patch, 5)
        runtime.send("reconciliation", "mismatched")
    runtime.pass_time(3 * DAY)
    assert [(alert["kind"], alert["raised_at"]) for alert in runtime.alerts()] == [
        ("dispute", render(NOW)),
        ("stuck", render(DUE)),
    ]
    assert (runtime.record().mark, len(runtime.executions())) == (None, 3)


def test_those_who_got_the_alerts_are_told_once_that_the_wait_has_ended(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(5 * DAY - HOUR)
    assert [alert["severity"] for alert in runtime.alerts()] == ["warning", "critical"]
    runtime.send("authorization", "approved")
    runtime.pass_time(HOUR)
    told = runtime.resolved()
    assert [(one["severity"], one["step"], one["detail"]) for one in told] == [
        ("warning", 2, "authorization is approved"),
        ("critical", 2, "authorization is approved"),
    ]
    assert {one["incident"] for one in told} == {alert["incident"] for alert in runtime.alerts()}


def test_an_alert_names_the_open_stages_and_the_negative_outcomes(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("reconciliation", "mismatched")
    runtime.pass_time(3 * DAY)
    dispute, stuck = runtime.alerts()
    assert (dispute["kind"], stuck["kind"]) == ("dispute", "stuck")
    for alert in (dispute, stuck):
        assert alert["open_stages"] == ["authorization", "reconciliation", "posting"]
        assert alert["negative_outcomes"] == {"reconciliation": "mismatched"}


def test_a_reconciliation_that_does_not_apply_completes_its_stage(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.send("authorization", "approved")
    runtime.send("reconciliation", "not_applicable")
    assert runtime.status() == "AwaitingPosting"
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting"]


def test_the_first_deadline_is_kept_in_the_rows(runtime: Runtime) -> None:
    runtime.send("ingestion", "received")
    runtime.pass_time(4 * DAY)
    runtime.send("authorization", "approved")
    first, *_, last = runtime.rows()
    assert first["next_first_deadline"] == last["first_deadline"]
    assert last["next_first_deadline"] > last["first_deadline"]

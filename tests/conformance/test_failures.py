"""Clauses about actions that fail: nothing is lost, and nothing is done twice."""

from typing import Any

import pytest

from bems.tracker import decisions
from bems.tracker.actions import StartExecution
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, HOUR, MINUTE, render
from tests.conformance.aws_runtime import AwsRuntime
from tests.conformance.runtime import Runtime
from tests.tracker.samples import NOW


def test_an_execution_that_cannot_be_started_is_started_later_once(runtime: Runtime) -> None:
    with runtime.refuse_starts():
        assert runtime.send("ingestion", "received").status == 202
        assert runtime.executions() == []
    runtime.pass_time(MINUTE)
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization"]
    assert runtime.record().pending == ()
    assert len(runtime.rows()) == 1
    assert runtime.dead_letters() == []


def test_the_other_actions_of_the_decision_are_carried_out_once(runtime: Runtime) -> None:
    """The ingestion starts an execution and raises an alert about its second vendor."""
    runtime.send("authorization", "approved")
    with runtime.refuse_starts():
        runtime.send("ingestion", "received", vendor={"id": "V-77"})
    runtime.pass_time(MINUTE)
    assert [alert["kind"] for alert in runtime.alerts()] == ["identity"]
    assert [row["kind"] for row in runtime.rows()] == ["event", "event", "alert"]
    (execution,) = runtime.executions()
    assert execution.states == ["AwaitAuthorization", "AwaitReconciliation"]
    assert runtime.record().pending == ()


def test_on_aws_only_the_action_that_fails_stays_pending(aws: AwsRuntime) -> None:
    """The embedded cell undoes the whole event instead, because all that it does is one transaction."""
    aws.send("authorization", "approved")
    with aws.refuse_starts():
        aws.send("ingestion", "received", vendor={"id": "V-77"})
        assert [alert["kind"] for alert in aws.alerts()] == ["identity"]
        assert [type(action) for action in aws.record().pending] == [StartExecution]
        assert aws.record().check_at == NOW + 5 * MINUTE
        aws.pass_time(6 * MINUTE)
        assert len(aws.alerts()) == 1
        assert [type(action) for action in aws.record().pending] == [StartExecution]
    aws.pass_time(5 * MINUTE)
    assert aws.record().pending == ()
    assert len(aws.executions()) == 1
    assert len(aws.alerts()) == 1


def test_an_alert_that_cannot_be_published_is_published_later_once(runtime: Runtime) -> None:
    with runtime.refuse_alerts():
        runtime.send("authorization", "approved")
        runtime.send("ingestion", "received", vendor={"id": "V-77"})
        assert runtime.alerts() == []
        (execution,) = runtime.executions()
        assert execution.states == ["AwaitAuthorization", "AwaitReconciliation"]
    runtime.pass_time(MINUTE)
    (alert,) = runtime.alerts()
    assert (alert["kind"], alert["raised_at"]) == ("identity", render(NOW))
    assert runtime.record().pending == ()


def test_the_alert_of_a_timeout_that_cannot_be_published_is_published_later_once(runtime: Runtime) -> None:
    runtime.send("authorization", "approved")
    with runtime.refuse_alerts():
        runtime.pass_time(3 * DAY + MINUTE)
        assert runtime.alerts() == []
    runtime.pass_time(10 * MINUTE)
    (alert,) = runtime.alerts()
    assert (alert["stage"], alert["step"], alert["raised_at"]) == ("ingestion", 1, render(NOW + 3 * DAY))
    assert len([row for row in runtime.rows() if row["kind"] == "alert"]) == 1


def break_events(patch: pytest.MonkeyPatch, invoice_id: str) -> None:
    """Make every decision about an event of this invoice raise, as a bug would."""

    def decide(record: Any, event: Event, *rest: Any) -> Any:
        if event.invoice_id == invoice_id:
            raise ZeroDivisionError
        return decisions.on_event(record, event, *rest)

    for module in ("bems.embedded.cell", "handlers.processor"):
        patch.setattr(f"{module}.on_event", decide)


def test_an_event_whose_handling_fails_is_set_aside_and_redriven(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_events(patch, "BROKEN")
        assert runtime.send("ingestion", "received", "BROKEN", "e1").status == 202
        runtime.send("ingestion", "received")
        runtime.pass_time(2 * HOUR)
        assert runtime.dead_letters() == ["e1"]
        assert runtime.find_record("BROKEN") is None
        assert runtime.status() == "AwaitingAuthorization", "other invoices are not affected"
    for _ in range(2):
        runtime.redrive()
        assert runtime.dead_letters() == []
        assert runtime.status("BROKEN") == "AwaitingAuthorization"
        assert [row["event_id"] for row in runtime.rows("BROKEN")] == ["e1"]
        assert len(runtime.executions("BROKEN")) == 1

"""RegisterWait and Escalate: called by the state machine, with its payloads."""

from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from bems.tracker.actions import execution_name
from bems.tracker.instants import DAY, HOUR
from handlers import escalate, register_wait
from tests.aws.cloud import Cloud
from tests.aws.wire import Context, Refused
from tests.handlers.emf import printed

WAIT = {
    "invoice_id": "A",
    "run": 1,
    "stage": "authorization",
    "token": "T",
    "entered_at": "2026-03-02T09:00:00.123Z",
    "retry_count": 0,
}
ASK = {"invoice_id": "A", "run": 1, "stage": "authorization", "reason": "timeout"}


def test_a_wait_is_registered(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    assert register_wait.handler({**WAIT, "entered_at": "2026-03-02T09:05:00.123Z", "retry_count": 2}, Context()) == {}
    run = cloud.record("A").run
    assert (run.token, run.stage, run.stamp) == ("T", "authorization", (1772442300123000, 2))


def test_a_wait_of_an_invoice_that_nobody_knows_is_superseded(cloud: Cloud) -> None:
    register_wait.handler(WAIT, Context())
    asked, told = cloud.wire.calls
    assert (asked.operation, told.operation) == ("GetItem", "SendTaskFailure")
    assert (told.params["taskToken"], told.params["error"]) == ("T", "Superseded")


@pytest.mark.parametrize("change", [{"run": "1"}, {"stage": "payment"}, {"token": None}, {"entered_at": "now"}])
def test_a_payload_that_is_not_the_machines_is_named(cloud: Cloud, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\$\.(run|stage|token)|now"):
        register_wait.handler({**WAIT, **change}, Context())
    assert cloud.wire.calls == []


def test_who_asks_too_early_is_told_the_rest(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += HOUR
    answer = escalate.handler(ASK, Context())
    assert answer == {"next": "Await", "deadline_seconds": 3 * 86400 - 3660}
    assert cloud.alerts == []


def test_who_asks_in_time_raises_the_alert_once(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += 3 * DAY
    printed(capsys)
    answers = [escalate.handler(ASK, Context()) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["next"] == "Await" and 80_000 < int(answers[0]["deadline_seconds"]) < 86_400
    (alert,) = cloud.alerts
    assert (alert["kind"], alert["step"], alert["severity"]) == ("stuck", 1, "warning")
    shown = printed(capsys)
    assert shown.metrics == {("AlertsRaised", "test", "authorization", "warning"): [1.0]}
    assert [(line["level"], line["invoice_id"], line["run"]) for line in shown.logs] == [("INFO", "A", 1)] * 2


def test_the_last_alert_parks(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += 30 * DAY
    assert escalate.handler(ASK, Context()) == {"next": "Parked", "deadline_seconds": 1}
    assert cloud.record("A").mark == "parked"


def test_another_run_is_superseded(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    assert escalate.handler({**ASK, "run": 0}, Context()) == {"next": "Superseded", "deadline_seconds": 1}


def test_a_dispute_is_reported_once(cloud: Cloud) -> None:
    for stage, status in (("ingestion", "received"), ("authorization", "approved"), ("reconciliation", "mismatched")):
        cloud.send("A", stage, status)
    states = ["AwaitAuthorization", "AwaitReconciliation", "ReconciliationDisputed", "AwaitReconciliation"]
    assert cloud.states("A") == states
    answer = escalate.handler({**ASK, "stage": "reconciliation", "reason": "dispute"}, Context())
    assert (answer["next"], len(cloud.alerts)) == ("Await", 1)
    assert 1 <= int(answer["deadline_seconds"]) <= 99_999_999


@pytest.mark.parametrize("handler", [register_wait.handler, escalate.handler])
def test_what_a_service_refuses_is_raised_for_the_machine_to_see(cloud: Cloud, handler: Any) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise Refused("ProvisionedThroughputExceededException")

    cloud.wire.fakes["GetItem"] = refuse
    with pytest.raises(ClientError, match="ProvisionedThroughputExceeded"):
        handler({**WAIT, **ASK}, Context())


def test_both_results_are_what_the_definition_reads(cloud: Cloud) -> None:
    """The definition's ResultSelector takes both fields of Escalate's; a missing one would fail the execution."""
    cloud.send("A", "ingestion", "received")
    cloud.pass_time(4 * DAY + HOUR)
    assert cloud.states("A").count("AuthorizationStuck") == 2
    assert cloud.machine.executions[execution_name("A", 1)].status == "RUNNING"
    assert msgspec.json.encode(escalate.handler(ASK, Context()))

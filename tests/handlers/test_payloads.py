"""RegisterWait and Escalate with the payloads of the state machine."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from bems.aws.errors import Unavailable
from bems.embedded.definition import ESCALATE, REGISTER_WAIT, read_definition
from bems.tracker.actions import execution_name
from bems.tracker.instants import DAY, HOUR, MINUTE, Instant
from handlers import escalate, register_wait
from tests.aws.cloud import Cloud
from tests.aws.recorded_calls import Context, Fake, ServiceError
from tests.handlers.emf import read_output

DEFINITION: dict[str, Any] = json.loads(read_definition())
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
    assert register_wait.handler({**WAIT, "entered_at": "2026-03-02T09:04:00.123Z", "retry_count": 2}, Context()) == {}
    run = cloud.record("A").run
    assert (run.token, run.stage, run.stamp) == ("T", "authorization", (1772442240123000, 2))


def test_a_wait_with_a_time_in_the_future_does_not_block_later_ones(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    register_wait.handler({**WAIT, "token": "hostile", "entered_at": "9999-12-30T00:00:00Z"}, Context())
    cloud.now += 6 * MINUTE
    register_wait.handler({**WAIT, "entered_at": "2026-03-02T09:06:00Z"}, Context())
    assert cloud.record("A").run.token == "T"


def test_a_wait_of_an_unknown_invoice_is_superseded(cloud: Cloud) -> None:
    register_wait.handler(WAIT, Context())
    load, answer = cloud.aws.calls
    assert (load.operation, answer.operation) == ("GetItem", "SendTaskFailure")
    assert (answer.params["taskToken"], answer.params["error"]) == ("T", "Superseded")


@pytest.mark.parametrize("change", [{"run": "1"}, {"stage": "payment"}, {"token": None}, {"entered_at": "now"}])
def test_an_invalid_payload_is_rejected_with_its_field(cloud: Cloud, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\$\.(run|stage|token)|now"):
        register_wait.handler({**WAIT, **change}, Context())
    assert cloud.aws.calls == []


def test_an_early_call_returns_the_rest_of_the_wait(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += HOUR
    answer = escalate.handler(ASK, Context())
    assert answer == {"next": "Await", "deadline_seconds": 3 * 86400 - 3660}
    assert cloud.alerts == []


def test_a_due_alert_is_raised_once(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += 3 * DAY
    read_output(capsys)
    answers = [escalate.handler(ASK, Context()) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["next"] == "Await" and 80_000 < int(answers[0]["deadline_seconds"]) < 86_400
    (alert,) = cloud.alerts
    assert (alert["kind"], alert["step"], alert["severity"]) == ("stuck", 1, "warning")
    shown = read_output(capsys)
    assert shown.metrics == {("AlertsRaised", "test", "authorization", "warning"): [1.0]}
    assert [line["message"] for line in shown.logs] == ["alert raised", "escalated", "escalated"]
    assert [(line["level"], line["invoice_id"], line["run"]) for line in shown.logs] == [("INFO", "A", 1)] * 3


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


def refusing(code: str) -> Fake:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError(code)

    return refuse


@pytest.mark.parametrize("handler", [register_wait.handler, escalate.handler])
@pytest.mark.parametrize("operation", ["GetItem", "PutItem"])
def test_a_transient_error_has_the_name_that_the_definition_retries(cloud: Cloud, handler: Any, operation: str) -> None:
    cloud.send("A", "ingestion", "received")
    cloud.now += 3 * DAY
    cloud.aws.fakes[operation] = refusing("ProvisionedThroughputExceededException")
    with pytest.raises(Exception, match="ProvisionedThroughputExceeded") as raised:
        handler({**WAIT, **ASK}, Context())
    # Lambda reports the class name of an exception.
    name = type(raised.value).__name__
    retried = [one["ErrorEquals"] for state in DEFINITION["States"].values() for one in state.get("Retry", ())]
    assert len(retried) == 8 and all(name in names for names in retried)


@pytest.mark.parametrize("handler", [register_wait.handler, escalate.handler])
def test_a_connection_error_is_transient(cloud: Cloud, handler: Any) -> None:
    def cut(_: dict[str, Any]) -> dict[str, Any]:
        raise ConnectTimeoutError(endpoint_url="https://dynamodb.eu-west-1.amazonaws.com")

    cloud.aws.fakes["GetItem"] = cut
    with pytest.raises(Unavailable, match="ConnectTimeoutError"):
        handler({**WAIT, **ASK}, Context())


@pytest.mark.parametrize("handler", [register_wait.handler, escalate.handler])
@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException", "ResourceNotFoundException"])
def test_a_permanent_error_is_raised_unchanged(cloud: Cloud, handler: Any, code: str) -> None:
    cloud.aws.fakes["GetItem"] = refusing(code)
    with pytest.raises(ClientError, match=code) as raised:
        handler({**WAIT, **ASK}, Context())
    assert type(raised.value).__name__ not in str(DEFINITION)


def throttled_until(cloud: Cloud, function: str, end: Instant) -> list[Instant]:
    """Throttle DynamoDB for one function until `end`. Returns the list of instants at which it is called."""
    handler, called = cloud.machine.functions[function], []

    def call(payload: dict[str, Any], context: Any) -> Any:
        called.append(cloud.now)
        fakes = dict(cloud.aws.fakes)
        if cloud.now < end:
            cloud.aws.fakes["GetItem"] = refusing("ThrottlingException")
        try:
            return handler(payload, context)
        finally:
            cloud.aws.fakes = fakes

    cloud.machine.functions[function] = call
    return called


def test_an_hour_without_the_table_ends_no_execution(cloud: Cloud) -> None:
    called = throttled_until(cloud, REGISTER_WAIT, cloud.now + HOUR)
    start = cloud.now
    cloud.send("A", "ingestion", "received")
    cloud.pass_time(HOUR + 3 * MINUTE)
    assert len(called) > 20 and start + HOUR <= called[-1] <= start + HOUR + 3 * MINUTE
    assert cloud.record("A").run.token is not None
    cloud.send("A", "authorization", "approved")
    assert cloud.states("A") == ["AwaitAuthorization", "AwaitReconciliation"]
    assert (cloud.record("A").run.number, cloud.record("A").mark, cloud.alerts) == (1, None, [])


def test_an_alert_is_raised_after_an_outage_of_the_table(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    due = cloud.now + 3 * DAY
    called = throttled_until(cloud, ESCALATE, due + 3 * MINUTE)
    cloud.pass_time(3 * DAY + 6 * MINUTE, sweeping=False)
    assert len(called) > 3
    (alert,) = cloud.alerts
    assert (alert["kind"], alert["step"]) == ("stuck", 1)
    assert cloud.states("A") == [
        "AwaitAuthorization",
        "AuthorizationStuck",
        "AuthorizationEscalated",
        "AwaitAuthorization",
    ]


def test_the_result_has_the_fields_that_the_definition_reads(cloud: Cloud) -> None:
    """The ResultSelector reads both fields; a missing one would fail the execution."""
    cloud.send("A", "ingestion", "received")
    cloud.pass_time(4 * DAY + HOUR)
    assert cloud.states("A").count("AuthorizationStuck") == 2
    assert cloud.machine.executions[execution_name("A", 1)].status == "RUNNING"
    assert escalate.handler(ASK, Context()) == {"next": "Await", "deadline_seconds": 86400 - 3660}

"""Executions on Step Functions: which errors count as success, by the API reference and moto."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from bems.aws.clients import client
from bems.aws.errors import is_transient
from bems.aws.executions import StepFunctionsExecutions
from bems.tracker.actions import SendTaskAnswer, StartExecution, TaskAnswer
from bems.tracker.instants import HOUR
from tests.aws.cloud import MACHINE_ARN, Cloud
from tests.aws.recorded_calls import ServiceError
from tests.tracker.samples import NOW

START = StartExecution("INV/1", 1, 60)


@pytest.fixture
def executions(cloud: Cloud) -> StepFunctionsExecutions:  # noqa: ARG001
    return StepFunctionsExecutions(client("stepfunctions"), MACHINE_ARN)


def refusing(error: str, status: int = 400) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError(error, status)

    return refuse


@pytest.mark.parametrize("answer", ["ok", "Rejected"])
@pytest.mark.parametrize("error", ["TaskDoesNotExist", "TaskTimedOut", "InvalidToken"])
def test_a_used_or_expired_token_counts_as_answered(
    cloud: Cloud, executions: StepFunctionsExecutions, error: str, answer: TaskAnswer
) -> None:
    cloud.aws.fakes |= {"SendTaskSuccess": refusing(error), "SendTaskFailure": refusing(error)}
    executions.answer(SendTaskAnswer("T", answer, NOW), NOW)
    assert [call.operation for call in cloud.aws.calls] == ["SendTaskSuccess" if answer == "ok" else "SendTaskFailure"]


def test_an_execution_that_exists_counts_as_started(cloud: Cloud, executions: StepFunctionsExecutions) -> None:
    cloud.aws.fakes["StartExecution"] = refusing("ExecutionAlreadyExists")
    executions.start(START, NOW)


@pytest.mark.parametrize(
    ("error", "status", "transient"),
    [
        ("ThrottlingException", 400, True),
        ("ExecutionLimitExceeded", 400, True),
        ("KmsThrottlingException", 400, True),
        ("KMSThrottling", 400, True),
        ("Throttled", 429, True),
        ("InternalFailure", 500, True),
        ("SomethingNew", 503, True),
        ("StateMachineDoesNotExist", 400, False),
        ("AccessDeniedException", 400, False),
    ],
)
def test_any_other_error_is_raised(
    cloud: Cloud, executions: StepFunctionsExecutions, error: str, status: int, transient: bool
) -> None:
    for operation in ("StartExecution", "SendTaskSuccess", "SendTaskFailure"):
        cloud.aws.fakes[operation] = refusing(error, status)
    calls: list[Callable[[], None]] = [
        lambda: executions.start(START, NOW),
        lambda: executions.answer(SendTaskAnswer("T", "ok", NOW), NOW),
        lambda: executions.answer(SendTaskAnswer("T", "Parked", NOW), NOW),
    ]
    for call in calls:
        with pytest.raises(ClientError) as raised:
            call()
        assert is_transient(raised.value) == transient


def test_a_broken_connection_is_transient() -> None:
    assert is_transient(ConnectTimeoutError(endpoint_url="https://states.eu-west-1.amazonaws.com"))
    assert is_transient(TimeoutError())
    assert not is_transient(ValueError())


def test_repeated_starts_have_identical_input(cloud: Cloud, executions: StepFunctionsExecutions) -> None:
    """StartExecution is idempotent only for identical input."""
    executions.start(START, NOW)
    executions.start(START, NOW + HOUR)
    one, two = cloud.aws.calls
    assert one == two
    assert one.params["input"] == '{"invoice_id":"INV/1","run":1,"deadline_seconds":60}'


def test_an_answer_has_an_output_or_an_error_and_cause(cloud: Cloud, executions: StepFunctionsExecutions) -> None:
    cloud.aws.fakes |= {"SendTaskSuccess": lambda _: {}, "SendTaskFailure": lambda _: {}}
    executions.answer(SendTaskAnswer("T", "ok", NOW + HOUR), NOW)
    executions.answer(SendTaskAnswer("T", "Rejected", NOW + HOUR), NOW)
    success, failure = cloud.aws.calls
    assert success.params == {"taskToken": "T", "output": '{"deadline_seconds":3600}'}
    assert failure.params == {"taskToken": "T", "error": "Rejected", "cause": "the invoice was rejected"}


def test_starts_agree_with_moto(cloud: Cloud) -> None:
    """Names and inputs on an independent implementation. moto accepts any token, so tokens are not tested."""
    cloud.aws.fakes = {}
    states = client("stepfunctions")
    machine = states.create_state_machine(
        name="m",
        definition='{"StartAt": "S", "States": {"S": {"Type": "Succeed"}}}',
        roleArn="arn:aws:iam::123456789012:role/m",
    )
    executions = StepFunctionsExecutions(states, machine["stateMachineArn"])
    executions.start(START, NOW)
    executions.start(START, NOW)
    executions.start(StartExecution("INV/1", 1, 61), NOW)
    (execution,) = states.list_executions(stateMachineArn=machine["stateMachineArn"])["executions"]
    assert execution["name"] == START.name

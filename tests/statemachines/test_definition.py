"""Properties of the state machine definition that do not depend on the interpreter."""

import json
from pathlib import Path
from typing import Any

import pytest
from statelint.linter import Linter

from bems.aws.errors import Unavailable
from bems.embedded import definition
from bems.embedded.definition import ESCALATE, REGISTER_WAIT, load_machine, read_definition
from bems.engine.machine import Task
from bems.engine.retries import retry_delay
from bems.engine.timestamps import SECOND

DEFINITION: dict[str, Any] = json.loads(read_definition())
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]
AWAITS = {"authorization": "AwaitAuthorization", "reconciliation": "AwaitReconciliation", "posting": "AwaitPosting"}
TASKS = [name for name, state in STATES.items() if state["Type"] == "Task"]
TRANSIENT_LAMBDA_ERRORS = {
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
}
"""Step Functions developer guide, "Handle transient Lambda service exceptions"."""

FUNCTION_TIMEOUT_ERRORS = {"Lambda.Unknown", "Sandbox.Timedout"}
"""Errors of a function that timed out because a service hangs (the same guide, and Lambda's runtime)."""

END_STATES = {"Posted", "Rejected", "Cancelled", "Parked", "Superseded"}


def caught(state: str) -> dict[str, str]:
    return {error: catcher["Next"] for catcher in STATES[state]["Catch"] for error in catcher["ErrorEquals"]}


def test_statelint_passes() -> None:
    assert Linter.validate(read_definition()) == []


def test_it_is_jsonpath() -> None:
    assert DEFINITION.get("QueryLanguage", "JSONPath") == "JSONPath"
    assert not any("QueryLanguage" in state for state in STATES.values())


def test_the_happy_path_enters_four_states() -> None:
    path, name = [], DEFINITION["StartAt"]
    while name:
        path.append(name)
        name = STATES[name].get("Next")
    assert path == [*AWAITS.values(), "Posted"]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_bounded(name: str) -> None:
    assert ("TimeoutSeconds" in STATES[name]) != ("TimeoutSecondsPath" in STATES[name])


def test_the_machine_is_bounded_by_the_year_that_aws_allows() -> None:
    assert DEFINITION["TimeoutSeconds"] == 365 * 86400


@pytest.mark.parametrize("name", TASKS)
def test_only_transient_errors_are_retried(name: str) -> None:
    (retrier,) = STATES[name]["Retry"]
    # In an Await state, States.Timeout is the deadline; elsewhere it is a function that does not respond.
    late = set() if name in AWAITS.values() else {"States.Timeout"}
    assert (
        set(retrier["ErrorEquals"]) == TRANSIENT_LAMBDA_ERRORS | FUNCTION_TIMEOUT_ERRORS | {Unavailable.__name__} | late
    )


@pytest.mark.parametrize("name", TASKS)
def test_an_hour_of_outage_fails_no_execution(name: str) -> None:
    task = load_machine().states[name]
    assert isinstance(task, Task)
    (retrier,) = task.retry
    delays = [
        [retry_delay(retrier, attempt, seed, event=attempt) / SECOND for attempt in range(retrier.max_attempts)]
        for seed in range(500)
    ]
    assert min(map(sum, delays)) > 3600
    # After the outage, executions continue within the documented two minutes.
    assert max(map(max, delays)) <= 120
    # Jitter spreads the retries of executions that failed together.
    assert len({each[0] for each in delays}) > 400


@pytest.mark.parametrize(("stage", "name"), AWAITS.items())
def test_an_await_registers_and_catches_every_answer(stage: str, name: str) -> None:
    state = STATES[name]
    assert state["Resource"] == "arn:aws:states:::lambda:invoke.waitForTaskToken"
    assert state["Parameters"]["FunctionName"] == f"${{{REGISTER_WAIT}}}"
    assert state["Parameters"]["Payload"] == {
        "invoice_id.$": "$$.Execution.Input.invoice_id",
        "run.$": "$$.Execution.Input.run",
        "stage": stage,
        "token.$": "$$.Task.Token",
        "entered_at.$": "$$.State.EnteredTime",
        "retry_count.$": "$$.State.RetryCount",
    }
    stuck = f"{stage.capitalize()}Stuck"
    expected = {"States.Timeout": stuck} | {error: error for error in END_STATES - {"Posted"}}
    if stage != "authorization":
        expected["Mismatched"] = "ReconciliationDisputed"
    if stage == "posting":
        expected["PostingFailed"] = "PostingFailed"
    assert caught(name) == expected


@pytest.mark.parametrize(("stage", "name"), AWAITS.items())
def test_a_timeout_escalates_then_waits_or_ends(stage: str, name: str) -> None:
    stuck = STATES[f"{stage.capitalize()}Stuck"]
    assert stuck["Resource"] == "arn:aws:states:::lambda:invoke"
    assert stuck["Parameters"]["FunctionName"] == f"${{{ESCALATE}}}"
    assert stuck["Parameters"]["Payload"]["reason"] == "timeout"
    choice = STATES[stuck["Next"]]
    assert {rule["StringEquals"]: rule["Next"] for rule in choice["Choices"]} == {
        "Parked": "Parked",
        "Superseded": "Superseded",
    }
    assert choice["Default"] == name


def test_end_states_succeed() -> None:
    assert {name for name, state in STATES.items() if state["Type"] == "Succeed"} == END_STATES
    assert not any(state["Type"] == "Fail" for state in STATES.values())


def test_every_state_has_a_comment() -> None:
    assert all(state["Comment"].endswith(".") for state in STATES.values())
    assert all(name.isidentifier() and name[0].isupper() for name in STATES)


def test_the_engine_runs_it_as_it_is() -> None:
    assert load_machine().start_at == "AwaitAuthorization"


def test_an_installed_package_contains_the_definition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = tmp_path / "bems" / "embedded" / "definition.py"
    monkeypatch.setattr(definition, "__file__", str(installed))
    with pytest.raises(FileNotFoundError, match="statemachines"):
        read_definition()

"""The definition: what must hold of the file whatever runs it."""

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
LAMBDA_PASSES = {
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
}
"""Step Functions developer guide, "Handle transient Lambda service exceptions"."""

FUNCTION_RAN_OUT_OF_TIME = {"Lambda.Unknown", "Sandbox.Timedout"}
"""By the guide and by Lambda's runtime: what a service that hangs does to a function that waits for it."""

ENDS = {"Posted", "Rejected", "Cancelled", "Parked", "Superseded"}


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
def test_only_what_may_pass_is_retried(name: str) -> None:
    (retrier,) = STATES[name]["Retry"]
    # In an Await, States.Timeout is the deadline; elsewhere it is a function that does not come back.
    late = set() if name in AWAITS.values() else {"States.Timeout"}
    assert set(retrier["ErrorEquals"]) == LAMBDA_PASSES | FUNCTION_RAN_OUT_OF_TIME | {Unavailable.__name__} | late


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
    # When it is over, who waits is on the way again within the two minutes that are promised.
    assert max(map(max, delays)) <= 120
    # Those who failed together do not come back together.
    assert len({each[0] for each in delays}) > 400


@pytest.mark.parametrize(("stage", "name"), AWAITS.items())
def test_an_await_registers_and_catches_all_that_it_may_be_told(stage: str, name: str) -> None:
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
    told = {"States.Timeout": stuck} | {error: error for error in ENDS - {"Posted"}}
    if stage != "authorization":
        told["Mismatched"] = "ReconciliationDisputed"
    if stage == "posting":
        told["PostingFailed"] = "PostingFailed"
    assert caught(name) == told


@pytest.mark.parametrize(("stage", "name"), AWAITS.items())
def test_a_timeout_asks_and_waits_on_or_ends(stage: str, name: str) -> None:
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
    assert {name for name, state in STATES.items() if state["Type"] == "Succeed"} == ENDS
    assert not any(state["Type"] == "Fail" for state in STATES.values())


def test_every_state_says_for_people_what_it_is() -> None:
    assert all(state["Comment"].endswith(".") for state in STATES.values())
    assert all(name.isidentifier() and name[0].isupper() for name in STATES)


def test_the_engine_runs_it_as_it_is() -> None:
    assert load_machine().start_at == "AwaitAuthorization"


def test_an_installed_package_brings_it_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = tmp_path / "bems" / "embedded" / "definition.py"
    monkeypatch.setattr(definition, "__file__", str(installed))
    with pytest.raises(FileNotFoundError, match="statemachines"):
        read_definition()

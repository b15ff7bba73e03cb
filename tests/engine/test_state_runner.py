import json
import math
from typing import Any

import pytest

from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Invoke,
    Rejected,
    Start,
    Stimulus,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    new_execution,
    render_event,
    step,
)
from bems.engine.state_runner import MAX_EXECUTION_EVENTS
from tests.engine.definitions import INVOKE, caught_by, invoke, lifecycle, machine, wait_for_token
from tests.engine.engine_harness import ARN, FUNCTION, MACHINE_ARN, RESULT, START, EngineHarness, compiled

# Context object


def test_the_context_object_is_complete() -> None:
    harness = EngineHarness(machine({"Type": "Pass", "Parameters": {"all.$": "$$"}}), {"x": 1})
    assert harness.execution.output["all"] == {
        "Execution": {"Id": ARN, "Input": {"x": 1}, "Name": "INV-1", "StartTime": "2026-01-01T00:00:00.000Z"},
        "State": {"EnteredTime": "2026-01-01T00:00:00.000Z", "Name": "First", "RetryCount": 0},
        "StateMachine": {"Id": MACHINE_ARN, "Name": "invoices"},
    }


def test_instants_have_milliseconds() -> None:
    second = {"Type": "Pass", "Parameters": {"at.$": "$$.State.EnteredTime", "start.$": "$$.Execution.StartTime"}}
    harness = EngineHarness(machine(invoke(), second)).answer(at=90.1239)
    assert harness.execution.output == {"at": "2026-01-01T00:01:30.123Z", "start": "2026-01-01T00:00:00.000Z"}


def test_token_is_in_the_context_of_its_task() -> None:
    harness = EngineHarness(machine(wait_for_token(Parameters={"Payload": {"task.$": "$$.Task"}})))
    assert harness.invoke.arguments == {"Payload": {"task": {"Token": harness.token}}}


# Tasks


def test_invoke_names_the_resource_and_carries_the_arguments() -> None:
    harness = EngineHarness(machine(invoke()), {"x": 1})
    assert harness.effects == [Invoke(3, "lambda:invoke", {"FunctionName": "F", "Payload": {"x": 1}}, None)]
    assert (harness.execution.state, harness.execution.invocation) == ("First", 3)


def test_function_takes_its_input_and_gives_its_payload() -> None:
    harness = EngineHarness(machine({"Type": "Task", "Resource": FUNCTION}), {"x": 1})
    assert harness.effects == [Invoke(3, FUNCTION, {"x": 1}, None)]
    harness.apply(TaskSucceeded(3, {"y": 2}))
    assert harness.execution.output == {"y": 2}


@pytest.mark.parametrize("stimulus", [TaskSucceeded(3, {}), TaskFailed(3, "Late"), TaskSucceeded(99, {})])
def test_stale_result_is_ignored(stimulus: Stimulus) -> None:
    harness = EngineHarness(machine(invoke(), invoke())).answer()
    before = harness.execution
    harness.apply(stimulus, 1)
    assert harness.execution is before


def test_result_after_the_end_is_ignored() -> None:
    harness = EngineHarness(machine(invoke())).answer()
    before = harness.execution
    assert harness.apply(TaskSucceeded(3, {"again": True})).execution is before


def test_result_after_a_timeout_is_ignored() -> None:
    harness = EngineHarness(caught_by(invoke(TimeoutSeconds=5), {"ErrorEquals": ["States.Timeout"]}))
    harness.apply(TimerFired(), 5).apply(TaskSucceeded(3, {"late": True}), 6)
    assert harness.execution.output == {"Error": "States.Timeout", "Cause": ""}


@pytest.mark.parametrize(("seconds", "reason"), [(0, "non-positive"), (-3, "non-positive"), (10**8, "too large")])
def test_timeout_out_of_range_fails_the_execution(seconds: int, reason: str) -> None:
    # moto leaves such an execution running; Step Functions requires positive integers.
    task = wait_for_token(TimeoutSecondsPath="$.s", Retry=[{"ErrorEquals": ["States.ALL"]}])
    harness = EngineHarness(caught_by(task, {"ErrorEquals": ["States.ALL"]}), {"s": seconds})
    assert harness.types == ["ExecutionStarted", "TaskStateEntered", "ExecutionFailed"]
    assert (harness.execution.status, harness.execution.error) == ("FAILED", "States.Runtime")
    assert reason in (harness.execution.cause or "")
    assert not harness.effects


@pytest.mark.parametrize("seconds", [1.5, "5", True, None])
def test_timeout_of_another_type_fails_the_execution(seconds: Any) -> None:
    harness = EngineHarness(machine(wait_for_token(HeartbeatSecondsPath="$.s")), {"s": seconds})
    assert harness.execution.error == "States.Runtime"


def test_a_timeout_path_without_a_value_fails_the_execution() -> None:
    # As recorded on AWS; moto adds a TaskFailed event.
    harness = EngineHarness(machine(invoke(TimeoutSecondsPath="$.nowhere")))
    assert harness.types == ["ExecutionStarted", "TaskStateEntered", "ExecutionFailed"]
    assert harness.execution.cause == (
        "An error occurred while executing the state 'First' (entered at the event id #2). "
        "Invalid path '$.nowhere' : No results for path: $['nowhere']"
    )


def test_runtime_error_after_a_result_is_neither_retried_nor_caught() -> None:
    # As recorded on AWS; moto adds a TaskFailed event and catches it.
    task = invoke(OutputPath="$.no.such.path", Retry=[{"ErrorEquals": ["States.ALL"]}])
    harness = EngineHarness(caught_by(task, {"ErrorEquals": ["States.ALL"]})).answer()
    assert harness.types[-2:] == ["TaskSucceeded", "ExecutionFailed"]
    assert (harness.execution.cause or "").endswith("Invalid path '$.no.such.path' : Missing property in path $['no']")


@pytest.mark.parametrize("name", ["States.Runtime", "States.TaskFailed", "States.ParameterPathFailure"])
def test_runtime_error_is_not_caught_by_any_name(name: str) -> None:
    # Errors in Parameters are reported as States.Runtime; States.ParameterPathFailure is reserved for future use.
    harness = EngineHarness(caught_by(invoke(Parameters={"x.$": "$.x"}), {"ErrorEquals": [name]}))
    assert harness.types == ["ExecutionStarted", "TaskStateEntered", "ExecutionFailed"]
    assert (harness.execution.cause or "").endswith(
        "The JSONPath '$.x' specified for the field 'x.$' could not be found in the input '{}'"
    )


def test_result_path_that_does_not_match_is_an_error_of_its_own() -> None:
    task = invoke(ResultPath="$.x.y")
    harness = EngineHarness(caught_by(task, {"ErrorEquals": ["States.ResultPathMatchFailure"]}), {"x": "text"}).answer()
    assert harness.execution.output == {
        "Error": "States.ResultPathMatchFailure",
        "Cause": 'Unable to apply step "y" to input "text"',
    }
    assert EngineHarness(machine(task), {"x": "text"}).answer().execution.error == "States.ResultPathMatchFailure"


def test_catcher_whose_result_path_does_not_match_fails_the_execution() -> None:
    harness = EngineHarness(caught_by(invoke(), {"ErrorEquals": ["Broken"], "ResultPath": "$.x"}), [])
    harness.apply(TaskFailed(3, "Broken"))
    assert (harness.execution.status, harness.execution.error) == ("FAILED", "States.ResultPathMatchFailure")


def test_error_without_a_name_is_caught_by_all() -> None:
    harness = EngineHarness(caught_by(wait_for_token(), {"ErrorEquals": ["States.ALL"]}))
    harness.apply(CallbackFailed(harness.token))
    assert harness.execution.output == {"Error": None, "Cause": None}


# 256 KiB


@pytest.mark.parametrize(("name", "status"), [("States.DataLimitExceeded", "SUCCEEDED"), ("States.ALL", "FAILED")])
def test_large_result_is_caught_by_its_name_only(name: str, status: str) -> None:
    # The Developer Guide: a terminal error that States.ALL does not catch. moto's States.ALL does.
    harness = EngineHarness(caught_by(invoke(), {"ErrorEquals": [name]})).answer("x" * 262_144)
    assert harness.types[4:6] == ["TaskFailed", "TaskStateExited" if status == "SUCCEEDED" else "ExecutionFailed"]
    assert harness.execution.status == status


def test_large_result_of_a_function() -> None:
    harness = EngineHarness(machine({"Type": "Task", "Resource": FUNCTION})).apply(TaskSucceeded(3, "x" * 262_143))
    assert harness.types[-2:] == ["LambdaFunctionFailed", "ExecutionFailed"]
    assert FUNCTION in (harness.execution.cause or "")


def test_result_of_the_limit_fits() -> None:
    harness = EngineHarness(machine({"Type": "Task", "Resource": FUNCTION})).apply(TaskSucceeded(3, "x" * 262_142))
    assert harness.execution.status == "SUCCEEDED"


def test_result_and_input_together_are_too_large() -> None:
    harness = EngineHarness(machine(invoke(ResultPath="$.r")), {"x": "x" * 140_000}).answer("y" * 140_000)
    assert harness.types[-2:] == ["TaskSucceeded", "ExecutionFailed"]
    assert harness.execution.error == "States.DataLimitExceeded"


def test_large_arguments_fail_the_task() -> None:
    harness = EngineHarness(machine(invoke(Parameters={"a.$": "$.x", "b.$": "$.x"})), {"x": "x" * 140_000})
    assert harness.execution.error == "States.DataLimitExceeded"
    assert not harness.effects


def test_large_callback_is_refused_and_the_task_waits_on() -> None:
    harness = EngineHarness(machine(wait_for_token()))
    before = harness.execution
    harness.apply(CallbackSucceeded(harness.token, "x" * 262_144))
    assert harness.effects[-1] == Rejected(harness.token, "ValidationException")
    assert harness.execution is before


def test_large_result_of_a_task_that_waits_for_its_token() -> None:
    harness = EngineHarness(machine(wait_for_token())).answer("x" * 262_144)
    assert harness.types[-2:] == ["TaskFailed", "ExecutionFailed"]


# Choice


def test_no_choice_matched() -> None:
    # moto writes the name of a Python exception as the cause.
    choice = {"Type": "Choice", "Choices": [{"Variable": "$.x", "NumericEquals": 1, "Next": "Second"}]}
    harness = EngineHarness(machine(choice, {"Type": "Succeed"}), {"x": 2})
    assert harness.execution.error == "States.Runtime"
    assert harness.execution.cause == (
        "An error occurred while executing the state 'First' (entered at the event id #2). "
        "Failed to transition out of the state. The state does not point to a next state."
    )


@pytest.mark.parametrize("operator", ["IsNull", "IsString", "IsTimestamp"])
def test_a_missing_variable_fails_the_execution(operator: str) -> None:
    # moto treats it as a comparison that is false.
    choice = {"Type": "Choice", "Choices": [{"Variable": "$.x", operator: True, "Next": "Second"}], "Default": "Second"}
    harness = EngineHarness(machine(choice, {"Type": "Succeed"}))
    assert harness.execution.error == "States.Runtime"
    assert (harness.execution.cause or "").endswith(
        "Invalid path '$.x': The choice state's condition path references an invalid value."
    )


# Fail


@pytest.mark.parametrize("value", [None, 5, {}])
def test_an_error_path_to_a_value_that_is_not_a_string(value: Any) -> None:
    harness = EngineHarness(machine({"Type": "Fail", "ErrorPath": "$.e"}), {"e": value})
    assert harness.execution.error == "States.Runtime"


# Retry


def test_jitter_comes_from_the_seed() -> None:
    retry = [{"ErrorEquals": ["Broken"], "IntervalSeconds": 100, "JitterStrategy": "FULL"}]
    definition = machine(invoke(Retry=retry))
    delays = [EngineHarness(definition, seed=seed).apply(TaskFailed(3, "Broken")).due for seed in range(200)]
    assert delays == [EngineHarness(definition, seed=seed).apply(TaskFailed(3, "Broken")).due for seed in range(200)]
    assert all(delay is not None and 0 <= delay < 100 for delay in delays)
    assert len(set(delays)) == 200
    assert math.isclose(sum(delay or 0 for delay in delays) / 200, 50, abs_tol=10)


def test_retry_counts_restart_in_the_next_state() -> None:
    retry = [{"ErrorEquals": ["Broken"], "MaxAttempts": 1}]
    harness = (
        EngineHarness(machine(invoke(Retry=retry), invoke(Retry=retry)))
        .apply(TaskFailed(3, "Broken"))
        .apply(TimerFired(), 1)
    )
    assert (harness.execution.retries, harness.execution.retry_count) == ([1], 1)
    harness.answer()
    assert (harness.execution.retries, harness.execution.retry_count) == (None, 0)


# History


def test_history_ends_at_its_limit() -> None:
    # As measured on AWS: event 25,000 is the failure itself.
    loop = {"Type": "Choice", "Choices": [{"Variable": "$", "IsPresent": True, "Next": "First"}]}
    harness = EngineHarness(machine(loop))
    assert (harness.execution.status, harness.execution.error) == ("FAILED", "States.Runtime")
    assert harness.execution.cause == "The execution reached the maximum number of history events (25000)."
    assert (harness.events[-1].id, harness.events[-1].type, len(harness.events)) == (
        MAX_EXECUTION_EVENTS,
        "ExecutionFailed",
        MAX_EXECUTION_EVENTS,
    )


def test_history_ends_at_its_limit_when_a_result_arrives() -> None:
    retry = [{"ErrorEquals": ["Broken"], "MaxAttempts": 99_999_999, "BackoffRate": 1.0}]
    harness = EngineHarness(machine(invoke(Retry=retry)))
    at = 0
    while harness.execution.status == "RUNNING":
        at += 1
        harness.apply(TimerFired(), at).apply(TaskFailed(harness.invoke.invocation, "Broken"), at)
    assert harness.execution.last_event == MAX_EXECUTION_EVENTS


@pytest.mark.parametrize("left", range(1, 25))
def test_limit_is_the_same_without_a_record(left: int) -> None:
    compiled_machine = compiled(lifecycle())
    blank = new_execution(ARN)
    blank.last_event = MAX_EXECUTION_EVENTS - left
    plain, recorded, now = blank, blank, START
    stimulus: Stimulus = Start({"invoice_id": "INV-1", "run": 1, "deadline_seconds": 5})
    while not recorded.is_finished:
        plain, effects, none = step(compiled_machine, plain, stimulus, now)
        recorded, same_effects, _ = step(compiled_machine, recorded, stimulus, now, record=True)
        assert (plain, effects, none) == (recorded, same_effects, ())
        if effects:
            assert isinstance(effects[0], Invoke)
            payload = {"deadline_seconds": 5, "next": "Await"}
            stimulus = TaskSucceeded(effects[0].invocation, {**RESULT, "Payload": payload})
        else:
            stimulus, now = TimerFired(), recorded.due or now
    assert (recorded.last_event, recorded.status) == (MAX_EXECUTION_EVENTS, "FAILED")


def test_loop_ends_at_the_limit_without_a_record() -> None:
    loop = {"Type": "Choice", "Choices": [{"Variable": "$", "IsPresent": True, "Next": "First"}]}
    compiled_machine = compiled(machine(loop))
    plain, _, none = step(compiled_machine, new_execution(ARN), Start({}), START)
    assert (plain, none) == (EngineHarness(machine(loop)).execution, ())


def test_ids_are_the_same_without_a_record() -> None:
    compiled_machine = compiled(machine(wait_for_token(), invoke()))
    plain = recorded = new_execution(ARN)
    stimuli: list[Stimulus] = [Start({}), TaskSucceeded(3, RESULT), CallbackSucceeded(f"{ARN}#3", {})]
    for stimulus in stimuli:
        plain, effects, none = step(compiled_machine, plain, stimulus, START)
        recorded, same_effects, events = step(compiled_machine, recorded, stimulus, START, record=True)
        assert (plain, effects, none) == (recorded, same_effects, ())
        assert events[-1].id == plain.last_event


def test_the_region_is_that_of_the_machine() -> None:
    harness = EngineHarness(machine(invoke()))
    assert render_event(harness.events[2])["taskScheduledEventDetails"] == {
        "resourceType": "lambda",
        "resource": "invoke",
        "region": "eu-west-1",
        "parameters": json.dumps({"FunctionName": "F", "Payload": {}}, separators=(",", ":")),
    }


def test_resource_without_callback_has_no_token() -> None:
    assert (
        EngineHarness(machine({"Type": "Task", "Resource": INVOKE, "Parameters": {"FunctionName": "F"}})).invoke.token
        is None
    )

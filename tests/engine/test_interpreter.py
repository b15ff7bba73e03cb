from typing import Any

import pytest

from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Heartbeat,
    Rejected,
    Start,
    Stimulus,
    Stop,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    new_execution,
    render,
    step,
)
from tests.engine.definitions import caught_by, invoke, machine, wait_for_token
from tests.engine.engine_harness import ARN, RESULT, START, EngineHarness, compiled

YEAR = 31_536_000


# Start


def test_start_runs_to_the_end_at_once() -> None:
    shell = EngineHarness(machine({"Type": "Pass", "Result": 1}), {"x": 1})
    assert (shell.execution.status, shell.execution.output) == ("SUCCEEDED", 1)
    assert (shell.execution.started_at, shell.execution.stopped_at) == (START, START)
    assert shell.execution.due is None


def test_start_happens_once() -> None:
    shell = EngineHarness(machine(invoke()), {"x": 1})
    before = shell.execution
    shell.take(Start({"x": 2}), 5)
    assert shell.execution is before
    assert len(shell.effects) == 1


def test_before_start_every_stimulus_is_ignored() -> None:
    compiled_machine = compiled(machine(invoke()))
    execution = new_execution(ARN)
    ignored: list[Stimulus] = [TimerFired(), TaskSucceeded(3, 1), TaskFailed(3, "E"), Stop()]
    for stimulus in ignored:
        assert step(compiled_machine, execution, stimulus, START, record=True) == (execution, [], ())


def test_large_input_fails_the_first_state() -> None:
    shell = EngineHarness(machine({"Type": "Wait", "Seconds": 5}), {"x": "é" * 140_000})
    assert shell.types == ["ExecutionStarted", "WaitStateEntered", "ExecutionFailed"]
    assert shell.execution.error == "States.DataLimitExceeded"


# Callbacks


def test_callback_ends_the_task() -> None:
    shell = EngineHarness(machine(wait_for_token(), invoke())).answer()
    shell.take(CallbackSucceeded(shell.token, {"y": 1}))
    assert shell.invoke.arguments["Payload"] == {"y": 1}


@pytest.mark.parametrize("late", [CallbackSucceeded, CallbackFailed, Heartbeat])
def test_token_is_good_once(late: Any) -> None:
    # moto takes late callbacks without a word.
    shell = EngineHarness(machine(wait_for_token(), wait_for_token())).answer()
    used = shell.token
    shell.take(CallbackSucceeded(used, 1)).answer()
    before = shell.execution
    shell.take(late(used) if late is not CallbackSucceeded else late(used, 2))
    assert shell.effects[-1] == Rejected(used, "TaskTimedOut")
    assert shell.execution is before


def test_token_expires_with_its_task() -> None:
    shell = EngineHarness(caught_by(wait_for_token(TimeoutSeconds=5), {"ErrorEquals": ["States.Timeout"]}))
    token = shell.token
    shell.take(TimerFired(), 5).take(CallbackSucceeded(token, 1), 6)
    assert shell.effects[-1] == Rejected(token, "TaskTimedOut")
    assert shell.execution.output == {"Error": "States.Timeout", "Cause": ""}


def test_unknown_token_is_rejected() -> None:
    shell = EngineHarness(machine(wait_for_token()))
    assert shell.take(CallbackSucceeded("nonsense", 1)).effects[-1] == Rejected("nonsense", "TaskTimedOut")


def test_token_of_a_request_response_task_does_not_exist() -> None:
    shell = EngineHarness(machine(invoke()))
    assert shell.take(CallbackFailed(f"{ARN}#3")).effects[-1] == Rejected(f"{ARN}#3", "TaskTimedOut")


def test_callback_can_come_before_the_result_of_its_invocation() -> None:
    shell = EngineHarness(machine(wait_for_token(), invoke()))
    early = shell.invoke
    shell.take(CallbackSucceeded(shell.token, {"y": 1}))
    assert shell.types[3:6] == ["TaskStarted", "TaskSucceeded", "TaskStateExited"]
    before = shell.execution
    assert shell.take(TaskSucceeded(early.invocation, RESULT)).execution is before
    assert shell.take(TaskFailed(early.invocation, "Broken")).execution is before


def test_failing_callback_can_come_before_the_result_of_its_invocation() -> None:
    shell = EngineHarness(caught_by(wait_for_token(), {"ErrorEquals": ["Rejected"]}))
    shell.take(CallbackFailed(shell.token, "Rejected", "no")).take(TaskSucceeded(3, RESULT))
    assert shell.execution.output == {"Error": "Rejected", "Cause": "no"}


def test_task_times_out_though_its_invocation_never_answered() -> None:
    shell = EngineHarness(machine(wait_for_token(TimeoutSeconds=5))).take(TimerFired(), 5)
    assert shell.types[-3:] == ["TaskStarted", "TaskTimedOut", "ExecutionFailed"]


def test_repeated_result_is_submitted_once() -> None:
    shell = EngineHarness(machine(wait_for_token())).answer()
    before = shell.execution
    shell.answer()
    assert shell.execution is before
    assert shell.types.count("TaskSubmitted") == 1


def test_failed_invocation_kills_its_token() -> None:
    shell = EngineHarness(caught_by(wait_for_token(), {"ErrorEquals": ["Broken"]}))
    token = shell.token
    shell.take(TaskFailed(3, "Broken")).take(CallbackSucceeded(token, 1))
    assert shell.effects[-1] == Rejected(token, "TaskTimedOut")


def test_callback_wins_until_the_timer_has_fired() -> None:
    shell = EngineHarness(machine(wait_for_token(TimeoutSeconds=5))).answer()
    shell.take(CallbackSucceeded(shell.token, 1), 99)
    assert shell.execution.status == "SUCCEEDED"


def test_each_attempt_has_a_token_and_an_invocation_of_its_own() -> None:
    # moto uses one token for all attempts, so its second attempt to wait ends at once.
    retry = [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 10}]
    shell = EngineHarness(machine(wait_for_token(TimeoutSeconds=5, Retry=retry))).answer()
    first = shell.invoke
    shell.take(TimerFired(), 5)
    assert shell.due == 15
    shell.take(CallbackSucceeded(first.token or "", 1), 7)
    assert shell.effects[-1] == Rejected(first.token or "", "TaskTimedOut")
    shell.take(TimerFired(), 15)
    assert (shell.invoke.invocation != first.invocation, shell.token != first.token) == (True, True)
    assert shell.due == 20
    assert shell.take(CallbackSucceeded(shell.token, 1), 16).execution.status == "SUCCEEDED"


# Heartbeats


def test_heartbeat_moves_its_deadline_only() -> None:
    shell = EngineHarness(machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=12)))
    assert shell.due == 5
    assert shell.take(Heartbeat(shell.token), 4).due == 9
    assert shell.take(Heartbeat(shell.token), 8).due == 12
    assert shell.take(TimerFired(), 12).types[-2:] == ["TaskTimedOut", "ExecutionFailed"]


@pytest.mark.parametrize("name", ["States.HeartbeatTimeout", "States.Timeout", "States.ALL"])
def test_missed_heartbeat_is_caught(name: str) -> None:
    # moto does not match States.HeartbeatTimeout. It is reported as States.Timeout, as recorded on AWS.
    shell = EngineHarness(caught_by(wait_for_token(HeartbeatSeconds=5), {"ErrorEquals": [name]})).answer()
    shell.take(TimerFired(), 5)
    assert shell.execution.output == {"Error": "States.Timeout", "Cause": ""}


def test_missed_heartbeat_comes_before_the_timeout() -> None:
    definition = caught_by(
        wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6), {"ErrorEquals": ["States.HeartbeatTimeout"]}
    )
    assert EngineHarness(definition).take(TimerFired(), 60).execution.status == "SUCCEEDED"


def test_timeout_is_no_missed_heartbeat() -> None:
    definition = caught_by(
        wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6), {"ErrorEquals": ["States.HeartbeatTimeout"]}
    )
    shell = EngineHarness(definition)
    assert shell.take(Heartbeat(shell.token), 4).take(TimerFired(), 6).execution.error == "States.Timeout"


def test_timers_end_with_their_task() -> None:
    task = wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6)
    shell = EngineHarness(machine(task, {"Type": "Wait", "Seconds": 60}))
    assert shell.take(CallbackSucceeded(shell.token, {}), 1).due == 61
    assert (shell.execution.heartbeat_at, shell.execution.heartbeat_seconds) == (None, None)
    shell = EngineHarness(machine(task, wait_for_token()))
    assert shell.take(CallbackSucceeded(shell.token, {}), 1).due == YEAR


def test_nothing_is_left_to_wait_for_at_the_end() -> None:
    shell = EngineHarness(machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6))).take(Stop())
    left = shell.execution.to_json().keys()
    assert not left & {"phase", "timer_at", "heartbeat_at", "heartbeat_seconds", "expires_at", "invocation", "token"}


def test_heartbeat_of_a_task_without_a_heartbeat_changes_nothing() -> None:
    shell = EngineHarness(machine(wait_for_token()))
    before = shell.execution
    shell.take(Heartbeat(shell.token), 4)
    assert shell.execution is before
    assert len(shell.effects) == 1


# Timers


def test_early_timer_is_ignored() -> None:
    shell = EngineHarness(machine({"Type": "Wait", "Seconds": 5}))
    before = shell.execution
    assert shell.take(TimerFired(), 4.999999).execution is before
    assert shell.take(TimerFired(), 5).execution.status == "SUCCEEDED"


def test_late_timers_fire_one_by_one() -> None:
    shell = EngineHarness(machine({"Type": "Wait", "Seconds": 5}, {"Type": "Wait", "Seconds": 5}))
    assert shell.take(TimerFired(), 1000).execution.state == "Second"
    assert shell.due == 1005


def test_timer_without_anything_due_is_ignored() -> None:
    shell = EngineHarness(machine({"Type": "Succeed"}))
    before = shell.execution
    assert shell.take(TimerFired(), 10**6).execution is before


def test_wait_ends_at_its_timestamp_to_the_microsecond() -> None:
    shell = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": "2026-01-01T01:00:00.25+01:00"})
    assert shell.due == 0.25


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("2026-01-01", "does not reference a valid ISO-8601"),
        (5, "does not reference a valid ISO-8601"),
        ("2099-01-01T00:00:00Z", "Wait state delay is too long."),
    ],
)
def test_wait_for_a_timestamp_that_is_none(value: Any, cause: str) -> None:
    shell = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": value})
    assert cause in (shell.execution.cause or "")


def test_wait_for_a_timestamp_that_is_not_there() -> None:
    shell = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}))
    assert "does not reference an input value" in (shell.execution.cause or "")


# The machine's own timeout, and stop


def test_machine_times_out() -> None:
    # moto never writes ExecutionTimedOut. Shape as measured on AWS: no predecessor, and no error on the execution.
    shell = EngineHarness(machine(wait_for_token(TimeoutSeconds=60), TimeoutSeconds=30))
    token = shell.token
    assert shell.due == 30
    shell.take(TimerFired(), 30)
    assert (shell.execution.status, shell.execution.error, shell.execution.due) == ("TIMED_OUT", None, None)
    event = render(shell.events[-1])
    assert (event["type"], event["id"], event["previousEventId"]) == ("ExecutionTimedOut", 5, 0)
    assert event["executionTimedOutEventDetails"] == {"error": "States.Timeout"}
    assert shell.take(CallbackSucceeded(token, 1), 31).effects[-1] == Rejected(token, "TaskTimedOut")


def test_machine_timeout_is_not_caught() -> None:
    definition = caught_by(wait_for_token(), {"ErrorEquals": ["States.ALL"]}) | {"TimeoutSeconds": 30}
    assert EngineHarness(definition).take(TimerFired(), 30).execution.status == "TIMED_OUT"


def test_execution_lasts_a_year_at_most() -> None:
    assert EngineHarness(machine(wait_for_token())).due == YEAR


def test_machine_timeout_ends_a_retry_delay() -> None:
    task = invoke(Retry=[{"ErrorEquals": ["Broken"], "IntervalSeconds": 60}])
    shell = EngineHarness(machine(task, TimeoutSeconds=30)).take(TaskFailed(3, "Broken"))
    assert shell.due == 30
    assert shell.take(TimerFired(), 30).execution.status == "TIMED_OUT"


def test_stop_aborts() -> None:
    # moto leaves a stopped execution that waits RUNNING. previousEventId 0 is as recorded on AWS.
    shell = EngineHarness(machine(wait_for_token()))
    token = shell.token
    shell.take(Stop("Enough", "because"), 5)
    assert (shell.execution.status, shell.execution.error, shell.execution.cause) == ("ABORTED", "Enough", "because")
    assert shell.execution.stopped_at == START + 5_000_000
    event = render(shell.events[-1])
    assert (event["type"], event["previousEventId"]) == ("ExecutionAborted", 0)
    assert event["executionAbortedEventDetails"] == {"error": "Enough", "cause": "because"}
    assert shell.take(CallbackSucceeded(token, 1)).effects[-1] == Rejected(token, "TaskTimedOut")
    before = shell.execution
    assert shell.take(Stop()).execution is before

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
    render_event,
    step,
)
from tests.engine.definitions import caught_by, invoke, machine, wait_for_token
from tests.engine.engine_harness import ARN, RESULT, START, EngineHarness, compiled

YEAR = 31_536_000


# Start


def test_start_runs_to_the_end_at_once() -> None:
    harness = EngineHarness(machine({"Type": "Pass", "Result": 1}), {"x": 1})
    assert (harness.execution.status, harness.execution.output) == ("SUCCEEDED", 1)
    assert (harness.execution.started_at, harness.execution.stopped_at) == (START, START)
    assert harness.execution.due is None


def test_start_happens_once() -> None:
    harness = EngineHarness(machine(invoke()), {"x": 1})
    before = harness.execution
    harness.apply(Start({"x": 2}), 5)
    assert harness.execution is before
    assert len(harness.effects) == 1


def test_before_start_every_stimulus_is_ignored() -> None:
    compiled_machine = compiled(machine(invoke()))
    execution = new_execution(ARN)
    ignored: list[Stimulus] = [TimerFired(), TaskSucceeded(3, 1), TaskFailed(3, "E"), Stop()]
    for stimulus in ignored:
        assert step(compiled_machine, execution, stimulus, START, record=True) == (execution, [], ())


def test_large_input_fails_the_first_state() -> None:
    harness = EngineHarness(machine({"Type": "Wait", "Seconds": 5}), {"x": "é" * 140_000})
    assert harness.types == ["ExecutionStarted", "WaitStateEntered", "ExecutionFailed"]
    assert harness.execution.error == "States.DataLimitExceeded"


# Callbacks


def test_callback_ends_the_task() -> None:
    harness = EngineHarness(machine(wait_for_token(), invoke())).answer()
    harness.apply(CallbackSucceeded(harness.token, {"y": 1}))
    assert harness.invoke.arguments["Payload"] == {"y": 1}


@pytest.mark.parametrize("late", [CallbackSucceeded, CallbackFailed, Heartbeat])
def test_a_token_is_valid_once(late: Any) -> None:
    # moto accepts late callbacks silently.
    harness = EngineHarness(machine(wait_for_token(), wait_for_token())).answer()
    used = harness.token
    harness.apply(CallbackSucceeded(used, 1)).answer()
    before = harness.execution
    harness.apply(late(used) if late is not CallbackSucceeded else late(used, 2))
    assert harness.effects[-1] == Rejected(used, "TaskTimedOut")
    assert harness.execution is before


def test_token_expires_with_its_task() -> None:
    harness = EngineHarness(caught_by(wait_for_token(TimeoutSeconds=5), {"ErrorEquals": ["States.Timeout"]}))
    token = harness.token
    harness.apply(TimerFired(), 5).apply(CallbackSucceeded(token, 1), 6)
    assert harness.effects[-1] == Rejected(token, "TaskTimedOut")
    assert harness.execution.output == {"Error": "States.Timeout", "Cause": ""}


def test_unknown_token_is_rejected() -> None:
    harness = EngineHarness(machine(wait_for_token()))
    assert harness.apply(CallbackSucceeded("nonsense", 1)).effects[-1] == Rejected("nonsense", "TaskTimedOut")


def test_token_of_a_request_response_task_does_not_exist() -> None:
    harness = EngineHarness(machine(invoke()))
    assert harness.apply(CallbackFailed(f"{ARN}#3")).effects[-1] == Rejected(f"{ARN}#3", "TaskTimedOut")


def test_callback_can_come_before_the_result_of_its_invocation() -> None:
    harness = EngineHarness(machine(wait_for_token(), invoke()))
    early = harness.invoke
    harness.apply(CallbackSucceeded(harness.token, {"y": 1}))
    assert harness.types[3:6] == ["TaskStarted", "TaskSucceeded", "TaskStateExited"]
    before = harness.execution
    assert harness.apply(TaskSucceeded(early.invocation, RESULT)).execution is before
    assert harness.apply(TaskFailed(early.invocation, "Broken")).execution is before


def test_failing_callback_can_come_before_the_result_of_its_invocation() -> None:
    harness = EngineHarness(caught_by(wait_for_token(), {"ErrorEquals": ["Rejected"]}))
    harness.apply(CallbackFailed(harness.token, "Rejected", "no")).apply(TaskSucceeded(3, RESULT))
    assert harness.execution.output == {"Error": "Rejected", "Cause": "no"}


def test_task_times_out_though_its_invocation_never_answered() -> None:
    harness = EngineHarness(machine(wait_for_token(TimeoutSeconds=5))).apply(TimerFired(), 5)
    assert harness.types[-3:] == ["TaskStarted", "TaskTimedOut", "ExecutionFailed"]


def test_repeated_result_is_submitted_once() -> None:
    harness = EngineHarness(machine(wait_for_token())).answer()
    before = harness.execution
    harness.answer()
    assert harness.execution is before
    assert harness.types.count("TaskSubmitted") == 1


def test_a_failed_invocation_invalidates_its_token() -> None:
    harness = EngineHarness(caught_by(wait_for_token(), {"ErrorEquals": ["Broken"]}))
    token = harness.token
    harness.apply(TaskFailed(3, "Broken")).apply(CallbackSucceeded(token, 1))
    assert harness.effects[-1] == Rejected(token, "TaskTimedOut")


def test_callback_wins_until_the_timer_has_fired() -> None:
    harness = EngineHarness(machine(wait_for_token(TimeoutSeconds=5))).answer()
    harness.apply(CallbackSucceeded(harness.token, 1), 99)
    assert harness.execution.status == "SUCCEEDED"


def test_each_attempt_has_a_token_and_an_invocation_of_its_own() -> None:
    # moto uses one token for all attempts, so its second attempt to wait ends at once.
    retry = [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 10}]
    harness = EngineHarness(machine(wait_for_token(TimeoutSeconds=5, Retry=retry))).answer()
    first = harness.invoke
    harness.apply(TimerFired(), 5)
    assert harness.due == 15
    harness.apply(CallbackSucceeded(first.token or "", 1), 7)
    assert harness.effects[-1] == Rejected(first.token or "", "TaskTimedOut")
    harness.apply(TimerFired(), 15)
    assert (harness.invoke.invocation != first.invocation, harness.token != first.token) == (True, True)
    assert harness.due == 20
    assert harness.apply(CallbackSucceeded(harness.token, 1), 16).execution.status == "SUCCEEDED"


# Heartbeats


def test_heartbeat_moves_its_deadline_only() -> None:
    harness = EngineHarness(machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=12)))
    assert harness.due == 5
    assert harness.apply(Heartbeat(harness.token), 4).due == 9
    assert harness.apply(Heartbeat(harness.token), 8).due == 12
    assert harness.apply(TimerFired(), 12).types[-2:] == ["TaskTimedOut", "ExecutionFailed"]


@pytest.mark.parametrize("name", ["States.HeartbeatTimeout", "States.Timeout", "States.ALL"])
def test_missed_heartbeat_is_caught(name: str) -> None:
    # moto does not match States.HeartbeatTimeout. It is reported as States.Timeout, as recorded on AWS.
    harness = EngineHarness(caught_by(wait_for_token(HeartbeatSeconds=5), {"ErrorEquals": [name]})).answer()
    harness.apply(TimerFired(), 5)
    assert harness.execution.output == {"Error": "States.Timeout", "Cause": ""}


def test_missed_heartbeat_comes_before_the_timeout() -> None:
    definition = caught_by(
        wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6), {"ErrorEquals": ["States.HeartbeatTimeout"]}
    )
    assert EngineHarness(definition).apply(TimerFired(), 60).execution.status == "SUCCEEDED"


def test_a_timeout_is_not_a_missed_heartbeat() -> None:
    definition = caught_by(
        wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6), {"ErrorEquals": ["States.HeartbeatTimeout"]}
    )
    harness = EngineHarness(definition)
    assert harness.apply(Heartbeat(harness.token), 4).apply(TimerFired(), 6).execution.error == "States.Timeout"


def test_timers_end_with_their_task() -> None:
    task = wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6)
    harness = EngineHarness(machine(task, {"Type": "Wait", "Seconds": 60}))
    assert harness.apply(CallbackSucceeded(harness.token, {}), 1).due == 61
    assert (harness.execution.heartbeat_at, harness.execution.heartbeat_seconds) == (None, None)
    harness = EngineHarness(machine(task, wait_for_token()))
    assert harness.apply(CallbackSucceeded(harness.token, {}), 1).due == YEAR


def test_the_end_clears_all_timers_and_tokens() -> None:
    harness = EngineHarness(machine(wait_for_token(HeartbeatSeconds=5, TimeoutSeconds=6))).apply(Stop())
    left = harness.execution.to_json().keys()
    assert not left & {"phase", "timer_at", "heartbeat_at", "heartbeat_seconds", "expires_at", "invocation", "token"}


def test_heartbeat_of_a_task_without_a_heartbeat_changes_nothing() -> None:
    harness = EngineHarness(machine(wait_for_token()))
    before = harness.execution
    harness.apply(Heartbeat(harness.token), 4)
    assert harness.execution is before
    assert len(harness.effects) == 1


# Timers


def test_early_timer_is_ignored() -> None:
    harness = EngineHarness(machine({"Type": "Wait", "Seconds": 5}))
    before = harness.execution
    assert harness.apply(TimerFired(), 4.999999).execution is before
    assert harness.apply(TimerFired(), 5).execution.status == "SUCCEEDED"


def test_late_timers_fire_one_by_one() -> None:
    harness = EngineHarness(machine({"Type": "Wait", "Seconds": 5}, {"Type": "Wait", "Seconds": 5}))
    assert harness.apply(TimerFired(), 1000).execution.state == "Second"
    assert harness.due == 1005


def test_timer_without_anything_due_is_ignored() -> None:
    harness = EngineHarness(machine({"Type": "Succeed"}))
    before = harness.execution
    assert harness.apply(TimerFired(), 10**6).execution is before


def test_wait_ends_at_its_timestamp_to_the_microsecond() -> None:
    harness = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": "2026-01-01T01:00:00.25+01:00"})
    assert harness.due == 0.25


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("2026-01-01", "does not reference a valid ISO-8601"),
        (5, "does not reference a valid ISO-8601"),
        ("2099-01-01T00:00:00Z", "Wait state delay is too long."),
    ],
)
def test_wait_for_an_invalid_timestamp(value: Any, cause: str) -> None:
    harness = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}), {"t": value})
    assert cause in (harness.execution.cause or "")


def test_wait_for_a_missing_timestamp() -> None:
    harness = EngineHarness(machine({"Type": "Wait", "TimestampPath": "$.t"}))
    assert "does not reference an input value" in (harness.execution.cause or "")


# The machine's own timeout, and stop


def test_machine_times_out() -> None:
    # moto never writes ExecutionTimedOut. Shape as measured on AWS: no predecessor, and no error on the execution.
    harness = EngineHarness(machine(wait_for_token(TimeoutSeconds=60), TimeoutSeconds=30))
    token = harness.token
    assert harness.due == 30
    harness.apply(TimerFired(), 30)
    assert (harness.execution.status, harness.execution.error, harness.execution.due) == ("TIMED_OUT", None, None)
    event = render_event(harness.events[-1])
    assert (event["type"], event["id"], event["previousEventId"]) == ("ExecutionTimedOut", 5, 0)
    assert event["executionTimedOutEventDetails"] == {"error": "States.Timeout"}
    assert harness.apply(CallbackSucceeded(token, 1), 31).effects[-1] == Rejected(token, "TaskTimedOut")


def test_machine_timeout_is_not_caught() -> None:
    definition = caught_by(wait_for_token(), {"ErrorEquals": ["States.ALL"]}) | {"TimeoutSeconds": 30}
    assert EngineHarness(definition).apply(TimerFired(), 30).execution.status == "TIMED_OUT"


def test_execution_lasts_a_year_at_most() -> None:
    assert EngineHarness(machine(wait_for_token())).due == YEAR


def test_machine_timeout_ends_a_retry_delay() -> None:
    task = invoke(Retry=[{"ErrorEquals": ["Broken"], "IntervalSeconds": 60}])
    harness = EngineHarness(machine(task, TimeoutSeconds=30)).apply(TaskFailed(3, "Broken"))
    assert harness.due == 30
    assert harness.apply(TimerFired(), 30).execution.status == "TIMED_OUT"


def test_stop_aborts() -> None:
    # moto leaves a stopped execution that waits RUNNING. previousEventId 0 is as recorded on AWS.
    harness = EngineHarness(machine(wait_for_token()))
    token = harness.token
    harness.apply(Stop("Enough", "because"), 5)
    assert (harness.execution.status, harness.execution.error, harness.execution.cause) == (
        "ABORTED",
        "Enough",
        "because",
    )
    assert harness.execution.stopped_at == START + 5_000_000
    event = render_event(harness.events[-1])
    assert (event["type"], event["previousEventId"]) == ("ExecutionAborted", 0)
    assert event["executionAbortedEventDetails"] == {"error": "Enough", "cause": "because"}
    assert harness.apply(CallbackSucceeded(token, 1)).effects[-1] == Rejected(token, "TaskTimedOut")
    before = harness.execution
    assert harness.apply(Stop()).execution is before

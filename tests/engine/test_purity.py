"""`step` is a pure and total function, and an execution consists of JSON values only."""

import copy
import json
import time
from datetime import datetime
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Execution,
    Heartbeat,
    Invoke,
    Machine,
    Start,
    Stimulus,
    Stop,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    new_execution,
    replay_execution,
    step,
)
from tests.engine.definitions import invoke, lifecycle, machine, wait_for_token
from tests.engine.engine_harness import ARN, RESULT, START, EngineHarness, compiled

INPUT = {"invoice_id": "INV-1", "run": 1, "deadline_seconds": 100}
BUSY = "Lambda.TooManyRequestsException"


def everything() -> dict[str, Any]:
    """Return a definition with every type of state, whose paths may or may not select a value."""
    return {
        "StartAt": "Shape",
        "TimeoutSeconds": 1000,
        "States": {
            "Shape": {"Type": "Pass", "Parameters": {"d.$": "$$.Execution.Input"}, "ResultPath": "$.p", "Next": "Ask"},
            "Ask": {
                **wait_for_token(HeartbeatSeconds=10, TimeoutSecondsPath="$.deadline_seconds", ResultPath="$.answer"),
                "Retry": [{"ErrorEquals": [BUSY, "States.Timeout"], "JitterStrategy": "FULL", "MaxAttempts": 2}],
                "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Pause"}],
                "Next": "Call",
            },
            "Call": {**invoke(ResultSelector={"x.$": "$.Payload.next"}, ResultPath="$.answer"), "Next": "Choose"},
            "Choose": {
                "Type": "Choice",
                "Choices": [
                    {"Variable": "$.answer.x", "StringEquals": "Parked", "Next": "Broken"},
                    {"Variable": "$.answer.x", "IsNull": True, "Next": "Done"},
                ],
                "Default": "Pause",
            },
            "Pause": {"Type": "Wait", "SecondsPath": "$.deadline_seconds", "OutputPath": "$.p.d", "Next": "Shape"},
            "Broken": {"Type": "Fail", "ErrorPath": "$.answer.x", "Cause": "c"},
            "Done": {"Type": "Succeed", "OutputPath": "$.p"},
        },
    }


MACHINES = {"lifecycle": compiled(lifecycle()), "everything": compiled(everything())}

OUTPUTS = st.sampled_from(
    [
        None,
        {"deadline_seconds": 50},
        {"deadline_seconds": 0},
        {**RESULT, "Payload": {"deadline_seconds": 5, "next": "Parked"}},
        {**RESULT, "Payload": {"deadline_seconds": 5, "next": "AwaitPosting"}},
        {**RESULT, "Payload": {"deadline_seconds": 5, "next": None}},
        "x" * 262_144,
    ]
)
ERRORS = st.sampled_from(["Mismatched", "PostingFailed", "Parked", BUSY, "States.Timeout", "States.Runtime", None])
MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["timer", "timer", "succeeded", "succeeded", "failed", "callback", "callback", "refusal", "beat", "stop"]
        ),
        st.integers(0, 40),
        st.integers(0, 1),
        OUTPUTS,
        ERRORS,
    ),
    max_size=25,
)


def stimulus(kind: str, which: int, invokes: list[Invoke], output: Any, error: str | None) -> Stimulus:
    """Return a stimulus for the newest invocation, or for the previous one if `which` is 1."""
    target = invokes[-1 - which] if len(invokes) > which else Invoke(99, "", None, None)
    token = target.token or "nonsense"
    match kind:
        case "succeeded":
            return TaskSucceeded(target.invocation, output)
        case "failed":
            return TaskFailed(target.invocation, error, "cause")
        case "callback":
            return CallbackSucceeded(token, output)
        case "refusal":
            return CallbackFailed(token, error)
        case "beat":
            return Heartbeat(token)
        case "stop" if which:
            return Stop("Stopped")
        case _:
            return TimerFired()


def checked_step(
    compiled_machine: Machine, execution: Execution, what: Stimulus, now: int
) -> tuple[Execution, list[Invoke]]:
    """Run a step and check all its guarantees."""
    before = copy.deepcopy((execution, what))
    after, effects, events = step(compiled_machine, execution, what, now, record=True)
    assert (execution, what) == before
    assert step(compiled_machine, execution, what, now, record=True) == (after, effects, events)
    again = Execution.from_json(json.loads(json.dumps(execution.to_json())))
    assert again == execution
    assert step(compiled_machine, again, what, now, record=True) == (after, effects, events)
    assert [event.id for event in events] == list(range(execution.last_event + 1, after.last_event + 1))
    assert after is not execution or not events
    assert after is execution or after != execution or isinstance(what, Heartbeat)
    assert (after.due is not None) == (after.status == "RUNNING")
    assert after.is_finished == (after.stopped_at is not None)
    return after, [effect for effect in effects if isinstance(effect, Invoke)]


@pytest.mark.parametrize("name", MACHINES)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(moves=MOVES, seed=st.integers(0, 3))
def test_step_is_pure_and_total(name: str, moves: list[tuple[str, int, int, Any, str | None]], seed: int) -> None:
    compiled_machine = MACHINES[name]
    now = START
    blank = new_execution(ARN, seed=seed)
    execution, invokes = checked_step(compiled_machine, blank, Start(INPUT), now)
    taken: list[tuple[Stimulus, int]] = [(Start(INPUT), now)]
    for kind, seconds, which, output, error in moves:
        now += seconds * 1_000_000
        what = stimulus(kind, which, invokes, output, error)
        execution, fresh = checked_step(compiled_machine, execution, what, now)
        invokes += fresh
        taken.append((what, now))
    assert len({invocation.invocation for invocation in invokes}) == len(invokes)
    replayed, events = replay_execution(compiled_machine, blank, taken)
    assert replayed == execution
    assert [event.id for event in events] == list(range(1, execution.last_event + 1))


def test_effects_and_outputs_survive_json() -> None:
    harness = EngineHarness(lifecycle(), INPUT)
    assert json.loads(json.dumps(harness.invoke.arguments)) == harness.invoke.arguments


def test_thirty_days_pass_in_less_than_a_second() -> None:
    started = time.perf_counter()
    with freeze_time("2026-01-01T00:00:00Z", ignore=["_pytest"]) as frozen:
        compiled_machine = compiled(machine(wait_for_token(TimeoutSeconds=30 * 86_400)))
        execution, _, _ = step(compiled_machine, new_execution(ARN), Start({}), _now())
        frozen.tick(30 * 86_400 - 1)
        assert step(compiled_machine, execution, TimerFired(), _now())[0] is execution
        frozen.tick(1)
        execution, _, events = step(compiled_machine, execution, TimerFired(), _now(), record=True)
    assert [event.type for event in events] == ["TaskTimedOut", "ExecutionFailed"]
    assert execution.stopped_at == START + 30 * 86_400 * 1_000_000
    assert time.perf_counter() - started < 1


def _now() -> int:
    return round(datetime.now().timestamp() * 1_000_000)

from datetime import UTC, datetime

from bems.engine import (
    CallbackSucceeded,
    Start,
    Stimulus,
    TaskSucceeded,
    TimerFired,
    new_execution,
    render_event,
    replay_execution,
    replay_history,
)
from tests.engine.definitions import machine, wait_for_token
from tests.engine.engine_harness import ARN, RESULT, START, compiled

MACHINE = compiled(machine({"Type": "Wait", "Seconds": 60}, wait_for_token()))
TOKEN = f"{ARN}#4"
SECOND = 1_000_000
SCRIPT: list[tuple[Stimulus, int]] = [
    (Start({"é": 1}), START),
    (TimerFired(), START + 60 * SECOND),
    (TaskSucceeded(5, RESULT), START + 61 * SECOND),
    (CallbackSucceeded(f"{ARN}#5", [1]), START + 62 * SECOND),
]


def test_history_is_that_of_get_execution_history() -> None:
    history = replay_history(MACHINE, new_execution(ARN), SCRIPT)
    assert [event["id"] for event in history] == list(range(1, 11))
    assert [event["previousEventId"] for event in history] == [0, 0, *range(2, 10)]
    assert history[1] == {
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "type": "WaitStateEntered",
        "id": 2,
        "previousEventId": 0,
        "stateEnteredEventDetails": {"name": "First", "input": '{"é":1}', "inputDetails": {"truncated": False}},
    }
    assert history[-1]["executionSucceededEventDetails"] == {"output": "[1]", "outputDetails": {"truncated": False}}
    assert history[-1]["timestamp"] == datetime(2026, 1, 1, 0, 1, 2, tzinfo=UTC)


def test_ignored_stimuli_can_be_left_out() -> None:
    noise: list[tuple[Stimulus, int]] = [
        (TimerFired(), START + SECOND),
        (TaskSucceeded(99, {}), START + SECOND),
        (CallbackSucceeded("nonsense", 1), START + SECOND),
        (Start({"again": True}), START + SECOND),
    ]
    expected = replay_execution(MACHINE, new_execution(ARN), SCRIPT)
    assert replay_execution(MACHINE, new_execution(ARN), [SCRIPT[0], *noise, *SCRIPT[1:], *noise]) == expected
    assert expected[0].status == "SUCCEEDED"


def test_event_without_details() -> None:
    function = {"Type": "Task", "Resource": "arn:aws:lambda:eu-west-1:123456789012:function:F"}
    _, events = replay_execution(compiled(machine(function)), new_execution(ARN), [(Start({}), START)])
    assert render_event(events[-1]) == {
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "type": "LambdaFunctionStarted",
        "id": 4,
        "previousEventId": 3,
    }

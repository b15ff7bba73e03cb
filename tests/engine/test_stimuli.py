import json

import pytest

from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Heartbeat,
    Start,
    Stimulus,
    Stop,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    stimulus_from_json,
    stimulus_to_json,
)


@pytest.mark.parametrize(
    ("stimulus", "document"),
    [
        (Start({"x": [1]}), ["Start", {"x": [1]}]),
        (TimerFired(), ["TimerFired"]),
        (TaskSucceeded(3, {"y": None}), ["TaskSucceeded", 3, {"y": None}]),
        (TaskFailed(3, "E", "c"), ["TaskFailed", 3, "E", "c"]),
        (CallbackSucceeded("t", 1), ["CallbackSucceeded", "t", 1]),
        (CallbackFailed("t"), ["CallbackFailed", "t", None, None]),
        (Heartbeat("t"), ["Heartbeat", "t"]),
        (Stop("E"), ["Stop", "E", None]),
    ],
)
def test_round_trip(stimulus: Stimulus, document: list[object]) -> None:
    assert stimulus_to_json(stimulus) == document
    assert stimulus_from_json(json.loads(json.dumps(document))) == stimulus


def test_unknown_name() -> None:
    with pytest.raises(KeyError):
        stimulus_from_json(["Wonder"])

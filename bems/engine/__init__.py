"""A pure interpreter of the Amazon States Language: time and results are passed in."""

from bems.engine.definition import load
from bems.engine.effects import Effect, Invoke, Rejected
from bems.engine.errors import InvalidDefinition, UnsupportedDefinition
from bems.engine.execution import (
    ABORTED,
    FAILED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TIMED_OUT,
    Execution,
    execution_id,
    new_execution,
)
from bems.engine.history import HistoryEvent, render
from bems.engine.interpreter import step
from bems.engine.machine import Machine
from bems.engine.replay import replay, replay_history
from bems.engine.stimuli import (
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

__all__ = [
    "ABORTED",
    "FAILED",
    "PENDING",
    "RUNNING",
    "SUCCEEDED",
    "TIMED_OUT",
    "CallbackFailed",
    "CallbackSucceeded",
    "Effect",
    "Execution",
    "Heartbeat",
    "HistoryEvent",
    "InvalidDefinition",
    "Invoke",
    "Machine",
    "Rejected",
    "Start",
    "Stimulus",
    "Stop",
    "TaskFailed",
    "TaskSucceeded",
    "TimerFired",
    "UnsupportedDefinition",
    "execution_id",
    "load",
    "new_execution",
    "render",
    "replay",
    "replay_history",
    "step",
    "stimulus_from_json",
    "stimulus_to_json",
]

"""Interpreter of the Amazon States Language: a pure function of an execution, a stimulus and the time.

    machine = load(definition, resources={"lambda:invoke"})
    execution = new_execution("arn:aws:states:eu-west-1:123456789012:execution:invoices:INV-1-1", seed=7)
    execution, effects, _ = step(machine, execution, Start({"deadline_seconds": 60}), now)

The caller stores the execution, carries out its effects and calls `step` again with the next stimulus: the result of an
Invoke, a callback, or TimerFired when `execution.due` is reached. Instants are microseconds since the epoch.
"""

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
from bems.engine.history import HistoryEvent, render_event
from bems.engine.interpreter import step
from bems.engine.machine import Machine
from bems.engine.replay import replay_execution, replay_history
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
    "render_event",
    "replay_execution",
    "replay_history",
    "step",
    "stimulus_from_json",
    "stimulus_to_json",
]

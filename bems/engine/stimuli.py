"""Stimuli: what can happen to an execution."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Start:
    """StartExecution. Ignored once the execution has started."""

    input: Any


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The clock has reached the execution's `due`. Ignored before that instant."""


@dataclass(frozen=True, slots=True)
class TaskSucceeded:
    """An Invoke succeeded; `output` is the resource's response.

    For `lambda:invoke` it is `{"ExecutedVersion": ..., "Payload": ..., "StatusCode": 200}`, for a function's
    ARN only the payload. Ignored unless the invocation is outstanding.
    """

    invocation: int
    output: Any


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An Invoke failed, with an error name for Retry and Catch. Ignored unless the invocation is outstanding."""

    invocation: int
    error: str | None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackSucceeded:
    """SendTaskSuccess."""

    token: str
    output: Any


@dataclass(frozen=True, slots=True)
class CallbackFailed:
    """SendTaskFailure."""

    token: str
    error: str | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """SendTaskHeartbeat."""

    token: str


@dataclass(frozen=True, slots=True)
class Stop:
    """StopExecution. Ignored once the execution is closed."""

    error: str | None = None
    cause: str | None = None


Stimulus = Start | TimerFired | TaskSucceeded | TaskFailed | CallbackSucceeded | CallbackFailed | Heartbeat | Stop

_BY_NAME: dict[str, type[Stimulus]] = {
    kind.__name__: kind
    for kind in (Start, TimerFired, TaskSucceeded, TaskFailed, CallbackSucceeded, CallbackFailed, Heartbeat, Stop)
}


def stimulus_to_json(stimulus: Stimulus) -> list[Any]:
    """Return a list of the stimulus's class name and its fields, such as `["TaskSucceeded", 3, {...}]`, for storage."""
    kind = type(stimulus)
    return [kind.__name__, *(getattr(stimulus, name) for name in kind.__slots__)]


def stimulus_from_json(document: list[Any]) -> Stimulus:
    """Return the stimulus whose stimulus_to_json() is `document`. Raises KeyError for an unknown class name."""
    name, *values = document
    return _BY_NAME[name](*values)

"""What can happen to an execution."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Start:
    """StartExecution. Ignored by an execution that has started."""

    input: Any


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The clock reached the execution's `due`. Ignored before it."""


@dataclass(frozen=True, slots=True)
class TaskSucceeded:
    """An Invoke was carried out; `output` is what the resource answered.

    For `lambda:invoke` that is `{"ExecutedVersion": ..., "Payload": ..., "StatusCode": 200}`, for a plain function
    the payload alone. Ignored unless the invocation is outstanding.
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
    """StopExecution. Ignored by an execution that is over."""

    error: str | None = None
    cause: str | None = None


Stimulus = Start | TimerFired | TaskSucceeded | TaskFailed | CallbackSucceeded | CallbackFailed | Heartbeat | Stop

_BY_NAME: dict[str, type[Stimulus]] = {
    kind.__name__: kind
    for kind in (Start, TimerFired, TaskSucceeded, TaskFailed, CallbackSucceeded, CallbackFailed, Heartbeat, Stop)
}


def stimulus_to_json(stimulus: Stimulus) -> list[Any]:
    """`["TaskSucceeded", 3, {...}]`: the stimulus's name and its fields in order, to be stored for a replay."""
    kind = type(stimulus)
    return [kind.__name__, *(getattr(stimulus, name) for name in kind.__slots__)]


def stimulus_from_json(document: list[Any]) -> Stimulus:
    """The stimulus of which `document` is the stimulus_to_json(). KeyError for a name that is none."""
    name, *values = document
    return _BY_NAME[name](*values)

"""The state of one execution, between two stimuli."""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
TIMED_OUT: Final = "TIMED_OUT"
ABORTED: Final = "ABORTED"


@dataclass(slots=True)
class Execution:
    """Everything that is known of an execution; each field holds a JSON value, so a shell can store it as it likes.

    Instants are microseconds since the epoch. Treat it, and the JSON values in it, as immutable: they are shared with
    earlier and later versions, with effects and with history.
    """

    id: str
    """The execution's ARN, or any other unique string: `$$.Execution.Id`, and the head of its task tokens."""
    name: str
    seed: int = 0
    """What jitter is drawn from."""
    status: str = PENDING
    """PENDING until Start, then RUNNING, then SUCCEEDED, FAILED, TIMED_OUT or ABORTED."""
    input: Any = None
    started_at: int = 0
    stopped_at: int | None = None
    expires_at: int | None = None
    """When the machine's own TimeoutSeconds runs out."""
    last_event: int = 0
    """The id of the newest history event."""

    state: str | None = None
    """The name of the current, or last, state."""
    entered_at: int = 0
    entered_event: int = 0
    data: Any = None
    """The current state's raw input."""
    phase: str | None = None
    """What the state waits for: a `task`, the end of a `wait`, a `retry`."""
    timer_at: int | None = None
    """When the task times out, the wait ends or the retry is due."""
    heartbeat_at: int | None = None
    heartbeat_seconds: int | None = None
    invocation: int | None = None
    """The invocation whose result is outstanding: the id of its TaskScheduled event."""
    token: str | None = None
    """The task token that a callback may use now."""
    retries: list[int] | None = None
    """Attempts used, by retrier of the current state."""
    retry_count: int = 0

    output: Any = None
    error: str | None = None
    cause: str | None = None

    @property
    def due(self) -> int | None:
        """The next instant at which TimerFired has an effect, or None. There is one timer: the earliest."""
        if self.status != RUNNING:
            return None
        due, timer, heartbeat = self.expires_at, self.timer_at, self.heartbeat_at
        if timer is not None and (due is None or timer < due):
            due = timer
        if heartbeat is not None and (due is None or heartbeat < due):
            due = heartbeat
        return due

    @property
    def is_finished(self) -> bool:
        return self.status not in (PENDING, RUNNING)

    def copy(self) -> "Execution":
        # Every step starts with it, and written out it takes half the time.
        new = object.__new__(Execution)
        new.id = self.id
        new.name = self.name
        new.seed = self.seed
        new.status = self.status
        new.input = self.input
        new.started_at = self.started_at
        new.stopped_at = self.stopped_at
        new.expires_at = self.expires_at
        new.last_event = self.last_event
        new.state = self.state
        new.entered_at = self.entered_at
        new.entered_event = self.entered_event
        new.data = self.data
        new.phase = self.phase
        new.timer_at = self.timer_at
        new.heartbeat_at = self.heartbeat_at
        new.heartbeat_seconds = self.heartbeat_seconds
        new.invocation = self.invocation
        new.token = self.token
        new.retries = self.retries
        new.retry_count = self.retry_count
        new.output = self.output
        new.error = self.error
        new.cause = self.cause
        return new

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from a new execution's, by name."""
        values = zip(_NAMES, _values(self), _DEFAULTS, strict=True)
        return {name: value for name, value, blank in values if value != blank}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Execution":
        """The execution of which `document` is the to_json()."""
        return cls(**document)


_NAMES: Final = tuple(field.name for field in fields(Execution))
_DEFAULTS: Final = tuple(... if field.name in ("id", "name") else field.default for field in fields(Execution))
_values = attrgetter(*_NAMES)


def new_execution(id: str, *, name: str | None = None, seed: int = 0) -> Execution:
    """An execution that waits for Start. Without a name, the last part of its ARN is taken."""
    return Execution(id, id.rsplit(":", 1)[-1] if name is None else name, seed)


def execution_id(token: str) -> str:
    """The id of the execution that issued a task token; any other string is given back, or its head."""
    return token.rpartition("#")[0] or token

"""State of one execution between two steps."""

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
    """Complete state of an execution. Every field is a JSON value, so it can be stored in any format.

    Instants are microseconds since the epoch. Treat the object and the JSON values in it as immutable: other versions
    of the execution, effects and history events share them.
    """

    id: str
    """The execution's ARN or another unique string: `$$.Execution.Id`, and the prefix of its task tokens."""
    name: str
    seed: int = 0
    """Seed of the retry jitter."""
    status: str = PENDING
    """PENDING until Start, then RUNNING, then SUCCEEDED, FAILED, TIMED_OUT or ABORTED."""
    input: Any = None
    started_at: int = 0
    stopped_at: int | None = None
    expires_at: int | None = None
    """When the TimeoutSeconds of the whole machine expires."""
    last_event: int = 0
    """Id of the newest history event."""

    state: str | None = None
    """Name of the current state, or of the last one once the execution is closed."""
    entered_at: int = 0
    entered_event: int = 0
    """Id of the StateEntered event of the current state."""
    data: Any = None
    """The current state's raw input."""
    phase: str | None = None
    """What the state waits for: `task` (a result), `wait` (its end) or `retry` (the next attempt)."""
    timer_at: int | None = None
    """When the task times out, the wait ends or the next attempt starts."""
    heartbeat_at: int | None = None
    heartbeat_seconds: int | None = None
    invocation: int | None = None
    """Invocation whose result is outstanding: the id of its TaskScheduled event."""
    token: str | None = None
    """Task token that a callback may use now."""
    retries: list[int] | None = None
    """Retries used so far in the current state, one count per retrier."""
    retry_count: int = 0

    output: Any = None
    error: str | None = None
    cause: str | None = None

    @property
    def due(self) -> int | None:
        """The earliest instant at which TimerFired has an effect, or None."""
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
        # Every step copies the execution; assigning each field takes half the time of a generic copy.
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
        """Return the fields that differ from a new execution, by name."""
        values = zip(_NAMES, _values(self), _DEFAULTS, strict=True)
        return {name: value for name, value, blank in values if value != blank}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Execution":
        """Return the execution whose to_json() is `document`."""
        return cls(**document)


_NAMES: Final = tuple(field.name for field in fields(Execution))
_DEFAULTS: Final = tuple(... if field.name in ("id", "name") else field.default for field in fields(Execution))
_values = attrgetter(*_NAMES)


def new_execution(id: str, *, name: str | None = None, seed: int = 0) -> Execution:
    """Return an execution in status PENDING. The default name is the last part of the ARN."""
    return Execution(id, id.rsplit(":", 1)[-1] if name is None else name, seed)


def execution_id(token: str) -> str:
    """Return the id of the execution that issued a task token.

    Returns a string that is not a task token unchanged, or up to its last `#`.
    """
    return token.rpartition("#")[0] or token

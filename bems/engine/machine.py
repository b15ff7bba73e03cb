"""Compiled definition that the interpreter runs; `definition.load` returns it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bems.engine.choices import Predicate
from bems.engine.execution import Execution
from bems.engine.paths import PathReader, PathWriter

Seconds = Callable[[Any, Execution], int]
"""Returns a number of seconds. Raises StatesError when it is missing or out of range."""


@dataclass(frozen=True, slots=True)
class Retrier:
    """One entry of Retry. Delays are in seconds."""

    error_equals: frozenset[str]
    interval: int
    max_attempts: int
    backoff_rate: float
    max_delay: int
    jitter: bool


@dataclass(frozen=True, slots=True)
class Catcher:
    """One entry of Catch."""

    error_equals: frozenset[str]
    next: str
    result_path: PathWriter | None
    """None discards the error output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Fields that all states have. A reader of None selects the whole value; `next` of None ends the execution."""

    type: ClassVar[str]
    name: str
    next: str | None = None
    input_path: PathReader | None = None
    output_path: PathReader | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(State):
    type: ClassVar[str] = "Task"
    resource: str
    """Name in the registry: `lambda:invoke`, or a function's ARN."""
    service: tuple[str, str] | None
    """resourceType and resource in history events: `("lambda", "invoke.waitForTaskToken")`. None for a function."""
    waits_for_token: bool
    parameters: PathReader | None
    result_selector: PathReader | None
    result_path: PathWriter | None
    timeout: Seconds | None
    heartbeat: Seconds | None
    retry: tuple[Retrier, ...]
    catch: tuple[Catcher, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(State):
    type: ClassVar[str] = "Choice"
    choices: tuple[tuple[Predicate, str], ...]
    default: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass(State):
    type: ClassVar[str] = "Pass"
    result: PathReader | None
    result_path: PathWriter | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(State):
    type: ClassVar[str] = "Wait"
    until: Callable[[Any, Execution, int], int]
    """until(data, execution, now) returns the instant at which the wait ends. Raises StatesError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed(State):
    type: ClassVar[str] = "Succeed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(State):
    type: ClassVar[str] = "Fail"
    error: PathReader | None
    cause: PathReader | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A compiled state machine. It is immutable, so executions and threads can share it."""

    start_at: str
    states: dict[str, State]
    timeout_seconds: int
    id: str
    name: str
    region: str
    digest: str
    """SHA-256 of the definition's canonical JSON, by which a stored execution refers to its definition."""

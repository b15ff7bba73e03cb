"""Error names of the States Language, and this package's exceptions."""

from collections.abc import Sequence
from typing import Final

ALL: Final = "States.ALL"
DATA_LIMIT_EXCEEDED: Final = "States.DataLimitExceeded"
HEARTBEAT_TIMEOUT: Final = "States.HeartbeatTimeout"
RESULT_PATH_MATCH_FAILURE: Final = "States.ResultPathMatchFailure"
RUNTIME: Final = "States.Runtime"
TASK_FAILED: Final = "States.TaskFailed"
TIMEOUT: Final = "States.Timeout"

RESERVED_NAMES: Final = frozenset(
    {
        ALL,
        DATA_LIMIT_EXCEEDED,
        HEARTBEAT_TIMEOUT,
        RESULT_PATH_MATCH_FAILURE,
        RUNTIME,
        TASK_FAILED,
        TIMEOUT,
        "States.BranchFailed",
        "States.IntrinsicFailure",
        "States.NoChoiceMatched",
        "States.ParameterPathFailure",
        "States.Permissions",
    }
)


class InvalidDefinition(ValueError):
    """An invalid definition. `problems` lists every problem as `path: description`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnsupportedDefinition(InvalidDefinition):
    """A definition whose only problems are features of the States Language that this engine does not implement."""


class StatesError(Exception):
    """An error raised by a state: a name, which Retry and Catch match, and a readable cause. Either may be None."""

    def __init__(self, error: str | None, cause: str | None = None) -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


def matches(error_equals: frozenset[str], error: str | None) -> bool:
    """Return whether the ErrorEquals of a retrier or catcher matches an error.

    Nothing matches States.Runtime. States.ALL does not match States.DataLimitExceeded. States.TaskFailed matches every
    error except timeouts. States.Timeout also matches a missed heartbeat.
    Source: Step Functions Developer Guide, "Handling errors in Step Functions workflows", Error names.
    """
    if error == RUNTIME:
        return False
    if error in error_equals:
        return True
    if error == DATA_LIMIT_EXCEEDED:
        return False
    if ALL in error_equals:
        return True
    if error == HEARTBEAT_TIMEOUT:
        return TIMEOUT in error_equals
    return TASK_FAILED in error_equals and error != TIMEOUT

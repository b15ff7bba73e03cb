"""Error names of the States Language, and the exceptions of this package."""

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
    """A definition that cannot run. `problems` holds every fault found, each as `path: what is wrong`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnsupportedDefinition(InvalidDefinition):
    """A definition whose only faults are features of the States Language that this engine does not implement."""


class StatesError(Exception):
    """A state reports an error: a name for Retry and Catch, and a cause for people; either may be None."""

    def __init__(self, error: str | None, cause: str | None = None) -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


def matches(error_equals: frozenset[str], error: str | None) -> bool:
    """Whether the ErrorEquals of a retrier or catcher names this error.

    States.Runtime always fails the execution; States.ALL does not match States.DataLimitExceeded; States.TaskFailed
    matches all but the timeouts; a missed heartbeat is a States.Timeout too.
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

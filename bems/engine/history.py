"""History events, as GetExecutionHistory returns them.

A step records events as tuples, which are cheap; `render` converts one to a document on demand.
Source of the document format: Step Functions API Reference, HistoryEvent.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from bems.engine.payloads import dumps


class HistoryEvent(NamedTuple):
    """A history event. `at` is microseconds since the epoch; `details` are the values of the fields in `_DETAILS`."""

    id: int
    previous: int
    type: str
    at: int
    details: tuple[Any, ...]


_STATE_ENTERED: Final = ("stateEnteredEventDetails", ("name", "input"))
_STATE_EXITED: Final = ("stateExitedEventDetails", ("name", "output"))

_DETAILS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "ExecutionStarted": ("executionStartedEventDetails", ("input",)),
    "ExecutionSucceeded": ("executionSucceededEventDetails", ("output",)),
    "ExecutionFailed": ("executionFailedEventDetails", ("error", "cause")),
    "ExecutionTimedOut": ("executionTimedOutEventDetails", ("error", "cause")),
    "ExecutionAborted": ("executionAbortedEventDetails", ("error", "cause")),
    "TaskScheduled": (
        "taskScheduledEventDetails",
        ("resourceType", "resource", "region", "parameters", "timeoutInSeconds", "heartbeatInSeconds"),
    ),
    "TaskStarted": ("taskStartedEventDetails", ("resourceType", "resource")),
    "TaskSubmitted": ("taskSubmittedEventDetails", ("resourceType", "resource", "output")),
    "TaskSucceeded": ("taskSucceededEventDetails", ("resourceType", "resource", "output")),
    "TaskFailed": ("taskFailedEventDetails", ("resourceType", "resource", "error", "cause")),
    "TaskTimedOut": ("taskTimedOutEventDetails", ("resourceType", "resource", "error")),
    "LambdaFunctionScheduled": ("lambdaFunctionScheduledEventDetails", ("resource", "input", "timeoutInSeconds")),
    "LambdaFunctionStarted": ("", ()),
    "LambdaFunctionSucceeded": ("lambdaFunctionSucceededEventDetails", ("output",)),
    "LambdaFunctionFailed": ("lambdaFunctionFailedEventDetails", ("error", "cause")),
    "LambdaFunctionTimedOut": ("lambdaFunctionTimedOutEventDetails", ("error",)),
    **{f"{kind}StateEntered": _STATE_ENTERED for kind in ("Choice", "Fail", "Pass", "Succeed", "Task", "Wait")},
    **{f"{kind}StateExited": _STATE_EXITED for kind in ("Choice", "Pass", "Succeed", "Task", "Wait")},
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def render_event(event: HistoryEvent) -> dict[str, Any]:
    """Return the event as boto3's `get_execution_history` does: `timestamp` is an aware datetime in UTC."""
    document: dict[str, Any] = {
        "timestamp": _EPOCH + timedelta(microseconds=event.at),
        "type": event.type,
        "id": event.id,
        "previousEventId": event.previous,
    }
    member, names = _DETAILS[event.type]
    if member:
        details: dict[str, Any] = {}
        for name, value in zip(names, event.details, strict=True):
            if name in ("input", "output"):
                details[name] = dumps(value)
                details[f"{name}Details"] = {"truncated": False}
            elif name == "parameters":
                details[name] = dumps(value)
            elif value is not None:
                details[name] = value
        document[member] = details
    return document

"""Effects: what `step` asks its caller to do."""

from typing import Any, NamedTuple


class Invoke(NamedTuple):
    """Call a resource, then pass the result to `step` as TaskSucceeded or TaskFailed with this invocation number.

    The execution and the number identify an invocation, so the caller may repeat it after a crash. If there is a token,
    a callback ends the task, and the result only confirms that the request was delivered.
    """

    invocation: int
    resource: str
    """`lambda:invoke`, or a function's ARN."""
    arguments: Any
    token: str | None


class Rejected(NamedTuple):
    """Reject a callback with the exception that Step Functions would raise.

    `TaskTimedOut`: the token has expired, was used, or belongs to a closed execution. `ValidationException`: the output
    exceeds 256 KiB.
    """

    token: str
    error: str


Effect = Invoke | Rejected

"""What an execution asks of its shell."""

from typing import Any, NamedTuple


class Invoke(NamedTuple):
    """Call a resource, and answer with TaskSucceeded or TaskFailed of this invocation.

    An invocation repeated with the same execution and number is the same one: a shell may carry it out again after a
    crash. With a token, the task ends by a callback, and the result only says that the request was delivered.
    """

    invocation: int
    resource: str
    """`lambda:invoke`, or the ARN of a function."""
    arguments: Any
    token: str | None


class Rejected(NamedTuple):
    """A callback was refused: the exception that its sender gets from Step Functions, `TaskTimedOut` for a token that
    is expired, used or of a closed execution, `ValidationException` for an output over 256 KiB."""

    token: str
    error: str


Effect = Invoke | Rejected

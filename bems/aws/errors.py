"""Errors: which of AWS's are worth another try, told from their codes."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

# Those that botocore itself tries again (user guide, "Retries", standard mode), and those of the services used here.
_TRANSIENT = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "ExecutionLimitExceeded",
        "InternalError",
        "InternalException",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "KMSThrottling",
        "KMSThrottlingException",
        "KmsThrottled",
        "KmsThrottlingException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


class Unavailable(Exception):
    """A service did not take a call that it may take later.

    Lambda tells Step Functions the name of this class, and the definition's Retry names it: the one cannot be renamed
    without the other.
    """


def error_code(error: BaseException) -> str:
    """The service's code of an error, such as `ThrottlingException`; the class's name where it has none."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or "Unknown")
    return type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Whether the same call may go through later: throttling, a fault of the server, a broken or slow connection.

    Step Functions' ExecutionLimitExceeded is among them, because executions end.
    """
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _TRANSIENT or status >= 500
    return isinstance(error, ConnectionError | HTTPClientError | TimeoutError)


@contextmanager
def retryable() -> Iterator[None]:
    """What is transient is raised as Unavailable; whatever would be no different next time, as it is."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise Unavailable(f"{error_code(error)}: {error}") from error
        raise


__all__ = ["BotoCoreError", "ClientError", "Unavailable", "error_code", "is_transient", "retryable"]

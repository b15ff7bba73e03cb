"""Classification of AWS errors: which ones are transient, by error code."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

# Codes that botocore retries (user guide, "Retries", standard mode), and codes of the services used here.
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
    """A call failed with a transient error.

    Lambda reports the name of this class to Step Functions, and the state machine's Retry matches it: rename both
    together.
    """


def error_code(error: BaseException) -> str:
    """Return the service's error code, such as `ThrottlingException`, or the name of the exception class."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or "Unknown")
    return type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Return whether a later attempt may succeed: throttling, a server error, a connection error or a timeout.

    Includes Step Functions' ExecutionLimitExceeded, because executions end.
    """
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _TRANSIENT or status >= 500
    return isinstance(error, ConnectionError | HTTPClientError | TimeoutError)


@contextmanager
def retryable() -> Iterator[None]:
    """Raise transient errors as Unavailable; raise other errors unchanged."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise Unavailable(f"{error_code(error)}: {error}") from error
        raise


__all__ = ["BotoCoreError", "ClientError", "Unavailable", "error_code", "is_transient", "retryable"]

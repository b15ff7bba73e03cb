"""Errors: which of AWS's are worth another try, told from their codes."""

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
        "KMSThrottlingException",
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
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


def code(error: BaseException) -> str:
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
        return code(error) in _TRANSIENT or status >= 500
    return isinstance(error, ConnectionError | HTTPClientError | TimeoutError)


__all__ = ["BotoCoreError", "ClientError", "code", "is_transient"]

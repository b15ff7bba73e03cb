"""boto3 clients: one per service and process, created on first use."""

from functools import cache
from importlib import import_module
from typing import Any

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 8
MAX_ATTEMPTS = 5


@cache
def client(service: str) -> Any:
    """Return the client of a service, such as `dynamodb`, in the function's Region.

    Only boto3's environment variables can override endpoints. boto3 makes up to five attempts per call, with backoff
    and jitter, on throttling, server errors and connection errors. After that, the caller's queue retries the message.
    """
    # Imported here because boto3 takes longer to import than everything else: callers that need no client avoid it.
    boto3: Any = import_module("boto3")
    config = import_module("botocore.config").Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        tcp_keepalive=True,
    )
    return boto3.client(service, config=config)

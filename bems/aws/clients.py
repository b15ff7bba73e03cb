"""Clients: one boto3 client per service and process, made when it is first asked for."""

from functools import cache
from importlib import import_module
from typing import Any

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 8
MAX_ATTEMPTS = 5


@cache
def client(service: str) -> Any:
    """The client of a service, such as `dynamodb`, in the function's own Region; endpoints only by boto3's variables.

    boto3 itself tries a call up to five times, with backoff and jitter, on throttling, server errors and broken
    connections. What still fails then is for the caller's queue to try again.
    """
    # Loading boto3 takes longer than all else that a function imports: whoever only wants a name need not wait.
    boto3: Any = import_module("boto3")
    config = import_module("botocore.config").Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        tcp_keepalive=True,
    )
    return boto3.client(service, config=config)

"""Polling for the effects of other processes, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.2


def wait_until(description: str, check: Callable[[], T | None], seconds: float = 60) -> T:
    """Call `check` until it returns a truthy value, and return that. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {description}; last result: {result!r}"
        time.sleep(POLL_SECONDS)
    return result

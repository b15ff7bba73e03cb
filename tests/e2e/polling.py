"""Polling: what another process does is waited for, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.2


def wait_until(what: str, look: Callable[[], T | None], seconds: float = 60) -> T:
    """What `look` sees once it is anything. AssertionError after so many seconds without."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last seen: {seen!r}"
        time.sleep(POLL_SECONDS)
    return seen

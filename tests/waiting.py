"""Waiting for the work of another thread or process that sends no notification."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON = 20.0
"""Maximum seconds that a test waits."""


def until(condition: Callable[[], T | None], seconds: float = SOON) -> T:
    """Poll the condition, and return its value as soon as it is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.002)
    raise AssertionError(f"the condition was not met within {seconds:g} seconds")

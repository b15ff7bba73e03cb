"""Waiting for what another thread or process does, where no answer tells of it."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON = 20.0
"""Seconds after which a test gives up waiting."""


def until(condition: Callable[[], T | None], seconds: float = SOON) -> T:
    """What the condition is, as soon as it is anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.002)
    raise AssertionError("it did not happen")

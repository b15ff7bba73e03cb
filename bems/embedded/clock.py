"""Clocks: the one place of this home that knows what time it is."""

import time

from bems.tracker.instants import Instant


class SystemClock:
    """The machine's clock."""

    def now(self) -> Instant:
        return time.time_ns() // 1000


class VirtualClock:
    """A clock that stands still until it is moved, and never goes back: replay moves it from due time to due time."""

    def __init__(self, start: Instant = 0) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def move_to(self, instant: Instant) -> None:
        """Go on to `instant`; an earlier one changes nothing."""
        self._now = max(self._now, instant)

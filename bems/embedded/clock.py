"""Clocks: the one place of this home that knows what time it is."""

import threading
import time
from typing import Protocol

from bems.tracker.instants import LATEST, SECOND, Instant
from bems.tracker.ports import Clock


class CellClock(Clock, Protocol):
    """A clock that a cell lives by. `speed`: so many seconds of it pass in one of ours."""

    @property
    def speed(self) -> float: ...


class VirtualClock:
    """A clock that stands still until it is moved, and never goes back: replay moves it from due time to due time."""

    speed = 1.0

    def __init__(self, start: Instant = 0) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def move_to(self, instant: Instant) -> None:
        """Go on to `instant`; an earlier one changes nothing."""
        self._now = max(self._now, instant)


class AcceleratedClock:
    """A clock that goes `speed` times as fast as the machine's, from `start` on, and never back. For any thread.

    It stops at `until` until that is moved on, and then goes on from there: who drives it by events keeps it from
    running ahead of what is still on its way.
    """

    def __init__(self, start: Instant, speed: float, until: Instant = LATEST) -> None:
        self._lock = threading.RLock()
        self._now, self._speed, self._until = start, speed, until
        self._looked = time.perf_counter()

    def now(self) -> Instant:
        with self._lock:
            looked = time.perf_counter()
            self._now = min(
                self._now + round((looked - self._looked) * SECOND * self._speed), max(self._until, self._now)
            )
            self._looked = looked
            return self._now

    @property
    def speed(self) -> float:
        """So many seconds of it pass in one of ours."""
        return self._speed

    def advance_to(self, instant: Instant) -> None:
        """Be at `instant`, unless it is later already."""
        with self._lock:
            self._now = max(self.now(), instant)

    def set_speed(self, speed: float) -> None:
        """Go on at another speed."""
        with self._lock:
            self.now()
            self._speed = speed

    def run_until(self, until: Instant) -> None:
        """Stop there at the latest. An instant that has passed already stops it where it is."""
        with self._lock:
            self.now()
            self._until = until

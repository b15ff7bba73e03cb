"""Clocks of the embedded runtime. No other module of it reads the system time."""

import threading
import time
from typing import Protocol

from bems.tracker.instants import LATEST, SECOND, Instant
from bems.tracker.ports import Clock


class CellClock(Clock, Protocol):
    """Clock of a cell. `speed` is the number of its seconds that pass per second of real time."""

    @property
    def speed(self) -> float: ...


class VirtualClock:
    """Clock that stands still until it is moved, and never goes back. Replay moves it from due time to due time."""

    speed = 1.0

    def __init__(self, start: Instant = 0) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def move_to(self, instant: Instant) -> None:
        """Move to `instant`. An earlier instant changes nothing."""
        self._now = max(self._now, instant)


class AcceleratedClock:
    """Clock that starts at `start`, runs `speed` times as fast as the machine's, and never goes back. Thread-safe.

    It stops at `until` and continues from there when `run_until` moves that limit. A caller that feeds events sets the
    limit so that the clock does not run ahead of events that are still to come.
    """

    def __init__(self, start: Instant, speed: float, until: Instant = LATEST) -> None:
        self._lock = threading.RLock()
        self._now, self._speed, self._until = start, speed, until
        self._read_at = time.perf_counter()

    def now(self) -> Instant:
        with self._lock:
            read_at = time.perf_counter()
            elapsed = round((read_at - self._read_at) * SECOND * self._speed)
            self._now = min(self._now + elapsed, max(self._until, self._now))
            self._read_at = read_at
            return self._now

    @property
    def speed(self) -> float:
        """Seconds of this clock that pass per second of real time."""
        return self._speed

    def advance_to(self, instant: Instant) -> None:
        """Move to `instant`, unless the clock is later already."""
        with self._lock:
            self._now = max(self.now(), instant)

    def set_speed(self, speed: float) -> None:
        """Continue at another speed."""
        with self._lock:
            self.now()
            self._speed = speed

    def run_until(self, until: Instant) -> None:
        """Set the instant at which the clock stops. An instant in the past stops it where it is."""
        with self._lock:
            self.now()
            self._until = until

"""Paces a replayed log: each event is sent when an accelerated clock reaches its time.

The clock never runs far ahead of the events in flight. A slow machine therefore takes longer but produces the same
result: no invoice counts as late because its event was delayed on the way.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bems.embedded.clock import AcceleratedClock
from bems.tracker.contract import Event
from bems.tracker.instants import HOUR, SECOND, Instant
from bems.tracker.parsing import InvalidEvent, parse_line

MAX_CLOCK_LEAD = 2 * HOUR
"""Maximum lead of the clock over the earliest event in flight, which lets several be in flight at once."""

MAX_SLEEP_SECONDS = 0.05
"""Maximum number of seconds to sleep between two looks at the clock."""


class ScheduledLine(NamedTuple):
    """A line whose time has come: its number, counted from 1, its text and the event in it."""

    number: int
    line: bytes
    event: Event | InvalidEvent


class ReplayPacer:
    """Yields lines when `clock` reaches their time. The clock stands still until the first line.

    An event dated more than a day after `today` is invalid and is not waited for.
    """

    def __init__(self, clock: AcceleratedClock, today: Instant) -> None:
        self._clock, self._today = clock, today
        self._lock = threading.Lock()
        self._in_flight: dict[int, Instant] = {}
        self._next = clock.now()
        clock.run_until(self._next)

    def schedule(self, lines: Iterable[bytes]) -> Iterator[ScheduledLine]:
        """Yield each line at the latest time of all events up to it."""
        for number, line in enumerate(lines, 1):
            event = parse_line(line, self._today)
            if isinstance(event, Event):
                self._wait_until(max(self._next, event.occurred_at))
            with self._lock:
                self._in_flight[number] = self._next
            yield ScheduledLine(number, line, event)

    def acknowledge(self, number: int) -> None:
        """Mark a line as answered. Thread-safe."""
        with self._lock:
            del self._in_flight[number]
            self._update_clock_limit()

    def _wait_until(self, at: Instant) -> None:
        with self._lock:
            self._next = at
            self._update_clock_limit()
        while (remaining := at - self._clock.now()) > 0:
            time.sleep(min(remaining / SECOND / self._clock.speed, MAX_SLEEP_SECONDS))

    def _update_clock_limit(self) -> None:
        """Let the clock run to the next line, but not far ahead of the earliest one in flight."""
        # Lines are sent in the order of their times, so the first in flight is the earliest.
        earliest = next(iter(self._in_flight.values()), None)
        self._clock.run_until(self._next if earliest is None else min(self._next, earliest + MAX_CLOCK_LEAD))

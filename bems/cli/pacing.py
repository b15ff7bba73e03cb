"""Pacing: a log is sent at the times it tells of, on a clock that runs fast, but hardly ahead of what is on its way.

So a slow machine takes longer, and comes to the same: no invoice counts as late because its event was held up.
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
"""So far the clock may run ahead of the earliest event under way, so that several can be."""

MAX_SLEEP_SECONDS = 0.05
"""Seconds that a wait takes at the most before the clock is looked at again."""


class ScheduledLine(NamedTuple):
    """A line whose time has come: its number, from 1, and what it holds."""

    number: int
    line: bytes
    event: Event | InvalidEvent


class ReplayPacer:
    """Lets lines depart when their time has come. `clock` stands still until the first one does.

    What occurred more than a day after `today` is a mistake in the log, for which nobody waits.
    """

    def __init__(self, clock: AcceleratedClock, today: Instant) -> None:
        self._clock, self._today = clock, today
        self._lock = threading.Lock()
        self._under_way: dict[int, Instant] = {}
        self._next = clock.now()
        clock.run_until(self._next)

    def schedule(self, lines: Iterable[bytes]) -> Iterator[ScheduledLine]:
        """The lines, each at the latest time that any so far tells of."""
        for number, line in enumerate(lines, 1):
            event = parse_line(line, self._today)
            if isinstance(event, Event):
                self._wait_until(max(self._next, event.occurred_at))
            with self._lock:
                self._under_way[number] = self._next
            yield ScheduledLine(number, line, event)

    def acknowledge(self, number: int) -> None:
        """The line was answered. For any thread."""
        with self._lock:
            del self._under_way[number]
            self._let_run()

    def _wait_until(self, at: Instant) -> None:
        with self._lock:
            self._next = at
            self._let_run()
        while (missing := at - self._clock.now()) > 0:
            time.sleep(min(missing / SECOND / self._clock.speed, MAX_SLEEP_SECONDS))

    def _let_run(self) -> None:
        # Lines depart in the order of their times, so the first that is under way is the earliest.
        earliest = next(iter(self._under_way.values()), None)
        self._clock.run_until(self._next if earliest is None else min(self._next, earliest + MAX_CLOCK_LEAD))

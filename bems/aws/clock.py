"""The clock of the AWS home: the function's own."""

import time

from bems.tracker.instants import Instant


class SystemClock:
    """The Clock port. Clocks of different functions differ by some milliseconds; the core does not mind."""

    def now(self) -> Instant:
        return time.time_ns() // 1000

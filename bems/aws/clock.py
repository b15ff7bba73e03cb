"""System clock of a Lambda function."""

import time

from bems.tracker.instants import Instant


class SystemClock:
    """The Clock port. Clocks of different functions differ by milliseconds, which the tracker tolerates."""

    def now(self) -> Instant:
        return time.time_ns() // 1000

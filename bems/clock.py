"""The machine's clock."""

import time

from bems.tracker.instants import Instant


class SystemClock:
    """Implement the Clock port with the machine's own clock.

    Clocks of different machines may differ by some milliseconds; decisions do not depend on their agreement.
    """

    speed = 1.0

    def now(self) -> Instant:
        """Return the present instant in microseconds since 1970."""
        return time.time_ns() // 1000

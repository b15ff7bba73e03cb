"""Token-bucket rate limiter."""

from bems.tracker.cells import Rate


class TokenBucket:
    """Token bucket that holds at most `rate.burst` tokens and gains `rate.requests_per_second`. It starts full.

    `now` is the time in seconds of a clock that never goes back.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate, self._burst = rate.requests_per_second, rate.burst
        self._tokens: float = rate.burst
        self._updated_at = now

    def acquire(self, now: float) -> float:
        """Take a token and return 0. If there is none, return the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def acquire_batch(self, now: float, count: int) -> float:
        """Take `count` tokens, one of which `acquire` has taken already, and return 0.

        If there are too few, take none and return the seconds until there are enough. If `count` exceeds the burst, a
        full bucket suffices: the number of tokens becomes negative, and further requests wait until it is positive.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        needed = min(count, self._burst)
        if self._tokens < needed - 1:
            return (needed - self._tokens) / self._rate
        self._tokens -= count - 1
        return 0.0

    def refund(self, count: int = 1) -> None:
        """Put back `count` tokens that were taken and not used."""
        self._tokens += count

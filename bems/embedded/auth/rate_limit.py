"""The throttle: token buckets, which let through so many requests a second on average, and so many at once."""

from bems.tracker.cells import Rate


class TokenBucket:
    """A token bucket, full at first. `now` is in seconds, of any clock that does not go back."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate, self._burst = rate.requests_per_second, rate.burst
        self._tokens: float = rate.burst
        self._updated_at = now

    def acquire(self, now: float) -> float:
        """Take a token: 0. If there is none, the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def acquire_batch(self, now: float, count: int) -> float:
        """Take `count` tokens, of which one was taken before: 0. If they are not there, the seconds until they are.

        A bucket may hold fewer than `count` at the most: then a full one is enough, and what it lacks has to come
        before anything else is let through.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        needed = min(count, self._burst)
        if self._tokens < needed - 1:
            return (needed - self._tokens) / self._rate
        self._tokens -= count - 1
        return 0.0

    def refund(self, count: int = 1) -> None:
        """What was taken is not needed after all."""
        self._tokens += count

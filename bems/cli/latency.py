"""Timings: how long things took, as percentiles, in little memory however many there are."""

import math
from collections import Counter

_GROWTH = 1.02
"""Each bucket ends so many times as far out as the one before: what is told is right within two percent."""

_LEAST = 1e-6


class LatencyHistogram:
    """A histogram of seconds."""

    def __init__(self) -> None:
        self._buckets = Counter[int]()
        self.count = 0

    def add(self, seconds: float) -> None:
        self._buckets[math.ceil(math.log(max(seconds, _LEAST) / _LEAST, _GROWTH))] += 1
        self.count += 1

    def percentile(self, percent: float) -> float | None:
        """The seconds within which so many of a hundred were done; None if there were none."""
        left = math.ceil(self.count * percent / 100)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return _LEAST * _GROWTH**bucket
        return None

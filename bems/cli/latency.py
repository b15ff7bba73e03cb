"""Percentiles of latencies in constant memory."""

import math
from collections import Counter

_GROWTH = 1.02
"""Ratio of the upper bounds of neighbouring buckets, which makes percentiles accurate to two percent."""

_MIN_SECONDS = 1e-6


class LatencyHistogram:
    """A histogram of durations in seconds, with logarithmic buckets."""

    def __init__(self) -> None:
        self._buckets = Counter[int]()
        self.count = 0

    def add(self, seconds: float) -> None:
        self._buckets[math.ceil(math.log(max(seconds, _MIN_SECONDS) / _MIN_SECONDS, _GROWTH))] += 1
        self.count += 1

    def percentile(self, percent: float) -> float | None:
        """Return the seconds within which `percent` of the durations lie; None without any."""
        left = math.ceil(self.count * percent / 100)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return _MIN_SECONDS * _GROWTH**bucket
        return None

"""Access: whether a request may be answered: its key, the key's role, how often it has asked."""

import math
import time
from collections.abc import Callable, Set

from bems.embedded.keys import Key, Keys
from bems.embedded.throttle import Bucket
from bems.tracker.answers import HttpAnswer, forbidden, throttled
from bems.tracker.cells import Limits
from bems.tracker.contract import Stage
from bems.tracker.requests import Role

Roles = Set[Role]

SEND: Roles = frozenset(("sender", "admin"))
LOOK: Roles = frozenset(("viewer", "operator", "admin"))
ACT: Roles = frozenset(("operator", "admin"))
ADMINISTER: Roles = frozenset(("admin",))


class Access:
    """Admits requests by the key in their header x-api-key. It belongs to the event loop's thread."""

    def __init__(self, keys: Keys, limits: Limits, seconds: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._limits, self._seconds = keys, limits, seconds
        self._buckets: dict[tuple[str, Stage | None], Bucket] = {}

    def admit(self, text: bytes | None, may: Roles, stage: Stage | None = None) -> Key | HttpAnswer:
        """The key, or the answer to give. `text` is the header; `stage` the one that is sent to."""
        key = self._keys.check(text.decode("latin-1")) if text is not None else None
        if key is None or key.role not in may:
            return forbidden()
        now = self._seconds()
        bucket = self._bucket(key, None, now)
        wait = bucket.take(now)
        if not wait and stage is not None:
            wait = self._bucket(key, stage, now).take(now)
            if wait:
                bucket.give_back()
        return throttled(math.ceil(wait)) if wait else key

    def _bucket(self, key: Key, stage: Stage | None, now: float) -> Bucket:
        bucket = self._buckets.get((key.id, stage))
        if bucket is None:
            rate = self._limits.key if stage is None else getattr(self._limits.stages, stage)
            bucket = self._buckets[key.id, stage] = Bucket(rate, now)
        return bucket

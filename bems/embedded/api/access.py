"""Access: whether a request may be answered: its key, the key's role, how often it has asked."""

import math
import time
from collections.abc import Callable, Mapping, Set

from bems.embedded.auth.keys import Key, Keys
from bems.embedded.auth.rate_limit import TokenBucket
from bems.tracker.cells import Limits
from bems.tracker.contract import Stage
from bems.tracker.requests import Role
from bems.tracker.responses import HttpResponse, forbidden, too_many_requests

Roles = Set[Role]

SENDERS: Roles = frozenset(("sender", "admin"))
VIEWERS: Roles = frozenset(("viewer", "operator", "admin"))
OPERATORS: Roles = frozenset(("operator", "admin"))
ADMINS: Roles = frozenset(("admin",))


def find_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key that the headers present, in x-api-key or as `Authorization: Bearer`; None where there is none.

    Where both are sent, they have to be the same: of two different keys none is chosen, and b"" is no key.
    An Authorization of another scheme, which a proxy may have asked for, is not looked at.
    """
    text = headers.get(b"x-api-key")
    authorization = headers.get(b"authorization")
    if authorization is None:
        return text
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return text
    token = token.strip()
    return token if text is None or text == token else b""


class Access:
    """Admits requests by the key that they present. It belongs to the event loop's thread."""

    def __init__(self, keys: Keys, limits: Limits, seconds: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._limits, self._seconds = keys, limits, seconds
        self._buckets: dict[tuple[str, Stage | None], TokenBucket] = {}

    def authorize(
        self, text: bytes | None, allowed_roles: Roles, stage: Stage | None = None, batch: int | None = None
    ) -> Key | HttpResponse:
        """The key, or the answer to give. `text` is what `find_key` found; `stage` the one that is sent to.

        A batch is admitted twice: as a request before it is read, and then as the `batch` of so many events that it has
        turned out to be, each of which costs what an event alone does. That is for all of it or for nothing; the
        request has been paid for either way.
        """
        key = self._keys.verify(text.decode("latin-1")) if text is not None else None
        if key is None or key.role not in allowed_roles:
            return forbidden()
        now = self._seconds()
        if batch is not None and stage is not None:
            return self._charge(key, stage, batch, now)
        bucket = self._bucket(key, None, now)
        wait = bucket.acquire(now)
        if not wait and stage is not None:
            wait = self._bucket(key, stage, now).acquire(now)
            if wait:
                bucket.refund()
        return too_many_requests(math.ceil(wait)) if wait else key

    def _charge(self, key: Key, stage: Stage, count: int, now: float) -> Key | HttpResponse:
        of_key = self._bucket(key, None, now)
        wait = of_key.acquire_batch(now, count)
        if not wait:
            wait = self._bucket(key, stage, now).acquire_batch(now, count)
            if wait:
                of_key.refund(count - 1)
        return (
            too_many_requests(math.ceil(wait), f"{count} events are more than this key may send now") if wait else key
        )

    def is_in_force(self, key: Key) -> bool:
        """Whether a key that was admitted still is one."""
        return self._keys.is_in_force(key.id)

    def _bucket(self, key: Key, stage: Stage | None, now: float) -> TokenBucket:
        bucket = self._buckets.get((key.id, stage))
        if bucket is None:
            rate = self._limits.key if stage is None else getattr(self._limits.stages, stage)
            bucket = self._buckets[key.id, stage] = TokenBucket(rate, now)
        return bucket

"""Access control: the key of a request, the role of the key, and its rate limits."""

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
CONTROL_TOTAL_SENDERS: Roles = frozenset(("sender", "operator", "admin"))
VIEWERS: Roles = frozenset(("viewer", "operator", "admin"))
OPERATORS: Roles = frozenset(("operator", "admin"))
ADMINS: Roles = frozenset(("admin",))


def find_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the key in the headers, from `x-api-key` or `Authorization: Bearer`; None if they contain no key.

    If both headers are present, their keys must be equal; otherwise return b"", which is never a valid key.
    An Authorization header of another scheme is ignored, because it may be meant for a proxy.
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
    """Authorizes requests by key, role and rate limit. Not thread-safe: use it in the event loop's thread only.

    `monotonic` returns seconds of a clock that never goes back.
    """

    def __init__(self, keys: Keys, limits: Limits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._limits, self._monotonic = keys, limits, monotonic
        self._buckets: dict[tuple[str, Stage | None], TokenBucket] = {}

    def authorize(
        self, key_text: bytes | None, allowed_roles: Roles, stage: Stage | None = None, batch_size: int | None = None
    ) -> Key | HttpResponse:
        """Return the key of an authorized request, or the response that refuses it (403 or 429).

        `key_text` is the result of `find_key`, and `stage` the stage that the request sends events to.

        A batch is authorized twice: as one request before its body is read, and again with `batch_size`, the number of
        its events, after the body is parsed. Each event costs one token, and the first call has paid for one. The
        second call takes the other tokens, all or none; the token of the first call is not refunded.
        """
        key = self._keys.verify(key_text.decode("latin-1")) if key_text is not None else None
        if key is None or key.role not in allowed_roles:
            return forbidden()
        now = self._monotonic()
        if batch_size is not None and stage is not None:
            return self._acquire_batch(key, stage, batch_size, now)
        bucket = self._find_bucket(key, None, now)
        wait = bucket.acquire(now)
        if not wait and stage is not None:
            wait = self._find_bucket(key, stage, now).acquire(now)
            if wait:
                bucket.refund()
        return too_many_requests(math.ceil(wait)) if wait else key

    def _acquire_batch(self, key: Key, stage: Stage, count: int, now: float) -> Key | HttpResponse:
        key_bucket = self._find_bucket(key, None, now)
        wait = key_bucket.acquire_batch(now, count)
        if not wait:
            wait = self._find_bucket(key, stage, now).acquire_batch(now, count)
            if wait:
                key_bucket.refund(count - 1)
        return (
            too_many_requests(math.ceil(wait), f"{count} events are more than this key may send now") if wait else key
        )

    def is_in_force(self, key: Key) -> bool:
        """Return whether the key has not been revoked."""
        return self._keys.is_in_force(key.id)

    def _find_bucket(self, key: Key, stage: Stage | None, now: float) -> TokenBucket:
        bucket = self._buckets.get((key.id, stage))
        if bucket is None:
            rate = self._limits.key if stage is None else getattr(self._limits.stages, stage)
            bucket = self._buckets[key.id, stage] = TokenBucket(rate, now)
        return bucket

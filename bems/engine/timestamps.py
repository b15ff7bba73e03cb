"""Conversion between instants (integer microseconds since the epoch) and RFC 3339 text."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

SECOND: Final = 1_000_000
"""A second in microseconds."""

_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def render_timestamp(instant: int) -> str:
    """Return text such as `2026-11-23T10:15:00.000Z`, rounded down to milliseconds, as in the context object."""
    hour, rest = divmod(instant // 1000, 3_600_000)
    return "%s%02d:%02d.%03dZ" % (  # noqa: UP031 - faster than an f-string
        _render_hour(hour),
        rest // 60_000,
        rest // 1000 % 60,
        rest % 1000,
    )


@lru_cache(1024)
def _render_hour(hour: int) -> str:
    """Return the prefix `2026-11-23T10:` for a number of hours since the epoch."""
    return (_EPOCH + timedelta(hours=hour)).isoformat()[:14]


def parse_timestamp(value: object) -> int | None:
    """Return the microseconds since the epoch of an RFC 3339 timestamp, or None if the value is not one.

    The States Language requires an uppercase T, and an uppercase Z if there is no offset.
    """
    if not isinstance(value, str) or not _TIMESTAMP.fullmatch(value):
        return None
    try:
        return (datetime.fromisoformat(value) - _EPOCH_UTC) // _MICROSECOND
    except (ValueError, OverflowError):
        return None

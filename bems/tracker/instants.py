"""Instants: points in time as integer microseconds since 1970-01-01T00:00:00Z.

An integer compares, hashes and stores the same everywhere; a datetime depends on its offset.
"""

import re
from datetime import UTC, datetime, time, timedelta

Instant = int

MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

EARLIEST: Instant = 0
LATEST: Instant = 32_503_680_000 * SECOND
"""3000-01-01T00:00:00Z: upper bound of every instant in a decision, so that nothing overflows."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND_60 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:)60((?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))", re.ASCII
)


def from_datetime(moment: datetime) -> Instant:
    """Convert an aware datetime, whatever its offset."""
    return (moment - _EPOCH) // _MICROSECOND


def clamp(instant: Instant, latest: Instant = LATEST) -> Instant:
    """Clamp an instant to EARLIEST to `latest`: near years 1 and 9999 a datetime with an offset has no UTC datetime."""
    return min(max(instant, EARLIEST), latest)


def to_datetime(instant: Instant) -> datetime:
    """Convert to an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=instant)


def render(instant: Instant) -> str:
    """Format as RFC 3339 in UTC, ending in Z; with a fraction only if it is not zero."""
    return to_datetime(instant).isoformat().replace("+00:00", "Z")


def without_leap_second(text: str) -> str:
    """Replace second 60 of a leap second by 59, because datetime has no second 60. Return other texts unchanged.

    RFC 3339, section 5.7, allows second 60 only at the end of a month in UTC; any other second 60 stays invalid.
    """
    found = _SECOND_60.fullmatch(text)
    if found is None:
        return text
    before = f"{found[1]}59{found[2]}"
    try:
        # Drop the fraction: it may have more digits than fromisoformat reads.
        moment = datetime.fromisoformat(re.sub(r"\.[0-9]+", "", before).upper()).astimezone(UTC)
        following = moment + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return text
    return before if (following.day, following.time()) == (1, time()) else text


def parse(text: str) -> Instant:
    """Parse RFC 3339 with offset; a leap second counts as the second before it. Raise ValueError for any other text."""
    moment = datetime.fromisoformat(without_leap_second(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return from_datetime(moment)

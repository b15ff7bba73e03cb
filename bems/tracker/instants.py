"""Instants: points in time as integer microseconds since 1970-01-01T00:00:00Z.

One integer compares, hashes and stores the same everywhere, which a datetime with its offset does not.
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
"""3000-01-01T00:00:00Z: no date that takes part in a decision lies beyond it, so that none can overflow."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND_60 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:)60((?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))", re.ASCII
)


def from_datetime(moment: datetime) -> Instant:
    """The instant of an aware datetime, whatever its offset."""
    return (moment - _EPOCH) // _MICROSECOND


def clamp(instant: Instant, latest: Instant = LATEST) -> Instant:
    """The nearest one from EARLIEST to `latest`: whatever offset a time is given with, it can be shown in UTC."""
    return min(max(instant, EARLIEST), latest)


def to_datetime(instant: Instant) -> datetime:
    """The same instant as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=instant)


def render(instant: Instant) -> str:
    """RFC 3339 in UTC, ending in Z, with a fraction only where there is one."""
    return to_datetime(instant).isoformat().replace("+00:00", "Z")


def without_leap_second(text: str) -> str:
    """The text, with second 59 in the place of a leap second, which no datetime has; any other text as it is.

    RFC 3339 has a second 60 at the end of a month in UTC only (section 5.7), so any other one stays what it is: wrong.
    """
    found = _SECOND_60.fullmatch(text)
    if found is None:
        return text
    before = f"{found[1]}59{found[2]}"
    try:
        # Without the fraction, of which other parsers take more digits.
        moment = datetime.fromisoformat(re.sub(r"\.[0-9]+", "", before).upper()).astimezone(UTC)
        following = moment + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return text
    return before if (following.day, following.time()) == (1, time()) else text


def parse(text: str) -> Instant:
    """The instant of an RFC 3339 text with offset; a leap second is the second before. ValueError for anything else."""
    moment = datetime.fromisoformat(without_leap_second(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return from_datetime(moment)

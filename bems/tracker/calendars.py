"""Business calendars: which local days are business days, and arithmetic on instants in business days.

Local times follow PEP 495 with fold=0, as java.time does: a time that the clocks skip moves forward by the gap, and a
time that they repeat means its first occurrence.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo

from bems.tracker.instants import EARLIEST, LATEST, SECOND, Instant
from bems.validation.error_messages import format_value

SATURDAY_AND_SUNDAY = frozenset({5, 6})
"""Weekdays as `date.weekday` numbers them: Monday is 0."""

# The bounds of the arithmetic lie outside the local dates of EARLIEST to LATEST in every time zone.
_FIRST_DAY = date(1969, 12, 1).toordinal()
_LAST_DAY = date(3000, 1, 31).toordinal()
_MAX_CLOSURE_DAYS = 366
_MAX_CACHED_RESULTS = 1 << 16
_EXCLUDED_ZONES = ("localtime", "posixrules", "Factory", "posix/", "right/")


class BusinessCalendar:
    """Business days of one place.

    `timezone` is an IANA name; `weekend` holds weekdays (Monday is 0). `days_off` and `days_on` are local dates.
    `days_on` takes precedence over `days_off` and `weekend`: it holds, for example, a Saturday that is worked in
    exchange for a Friday.

    Raises ValueError when the time zone is unknown, a weekday is out of range, or more than 366 consecutive days are
    off. Arguments and results are clamped to EARLIEST and LATEST, so nothing overflows.
    """

    __slots__ = (
        "_cache",
        "_exceptions",
        "_hash",
        "_is_on",
        "_offsets",
        "_positions",
        "_ranks",
        "_to_weekday",
        "_zone",
        "days_off",
        "days_on",
        "timezone",
        "weekend",
    )

    def __init__(
        self,
        timezone: str,
        days_off: Iterable[date] = (),
        weekend: Iterable[int] = SATURDAY_AND_SUNDAY,
        days_on: Iterable[date] = (),
    ) -> None:
        self.timezone = timezone
        self.days_off = frozenset(days_off)
        self.days_on = frozenset(days_on)
        self.weekend = frozenset(weekend)
        self._zone = load_zone(timezone)
        if not self.weekend <= frozenset(range(7)):
            raise ValueError("weekdays are numbered 0 (Monday) to 6")
        self._positions = [weekday for weekday in range(7) if weekday not in self.weekend]
        if not self._positions:
            raise ValueError("every day of the week is off: leave at least one business day")
        self._to_weekday = [bisect_right(self._positions, weekday) for weekday in range(7)]
        off = {day.toordinal() for day in self.days_off - self.days_on if day.weekday() not in self.weekend}
        on = {day.toordinal() for day in self.days_on if day.weekday() in self.weekend}
        # Days that differ from the weekly pattern; before each of them, by how much the count of business days differs
        # from the pattern's; and the count up to each. With these, `_nth` finds a day without iterating over days.
        self._exceptions = sorted(off | on)
        self._is_on = [day in on for day in self._exceptions]
        self._offsets = [0, *accumulate(1 if is_on else -1 for is_on in self._is_on)]
        self._ranks = [self._count(day) for day in self._exceptions]
        self._cache: dict[tuple[int, int], tuple[int, bool]] = {}
        self._hash = hash((self.timezone, self.days_off, self.weekend, self.days_on))
        self._check_not_always_closed()

    def add(self, instant: Instant, days: int) -> Instant:
        """Return the instant `days` (0 or more) business days later, at the same local time of day.

        A start on a day off first moves to 00:00 of the next business day. Adding 0 to a start on a business day
        returns the start. A later start never gives an earlier result, except within an hour that the clocks repeat or
        skip.
        """
        instant = min(max(instant, EARLIEST), LATEST)
        local = datetime.fromtimestamp(instant // SECOND, self._zone)
        today = local.toordinal()
        day, from_midnight = self._cache.get((today, days)) or self._look_up(today, days)
        if from_midnight:
            return self._midnight(day)
        if days == 0:
            return instant
        if day > _LAST_DAY:
            return LATEST
        moved = local + timedelta(days=day - today)  # fold is 0, even if the start's is 1
        return min(max(int(moved.timestamp()) * SECOND + instant % SECOND, EARLIEST), LATEST)

    def _look_up(self, today: int, days: int) -> tuple[int, bool]:
        """Return the day `days` business days after `today`, and whether `today` is off. Cached, as few pairs occur."""
        index = self._count(today)
        off = self._count(today - 1) == index
        found = self._nth(index + days + off), off
        if len(self._cache) >= _MAX_CACHED_RESULTS:
            self._cache.clear()
        self._cache[today, days] = found
        return found

    def subtract(self, day: date, days: int) -> Instant:
        """Return 00:00 of the `days`-th business day before a local date (which may be off); for 0, of that date."""
        ordinal = day.toordinal()
        return self._midnight(ordinal if days == 0 else self._nth(self._count(ordinal - 1) + 1 - days))

    def business_days_between(self, start: Instant, end: Instant) -> int:
        """Count the business days between two instants' local dates; a day off counts as the business day before it."""
        return self._count(self.local_date(end).toordinal()) - self._count(self.local_date(start).toordinal())

    def local_date(self, instant: Instant) -> date:
        return datetime.fromtimestamp(min(max(instant, EARLIEST), LATEST) // SECOND, self._zone).date()

    def is_business_day(self, day: date) -> bool:
        return day in self.days_on or (day.weekday() not in self.weekend and day not in self.days_off)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BusinessCalendar):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        days = f"{len(self.days_off)} days off, {len(self.days_on)} days on"
        return f"BusinessCalendar({self.timezone!r}, {days}, weekend {sorted(self.weekend)})"

    def __reduce__(self) -> tuple[type["BusinessCalendar"], tuple[object, ...]]:
        return BusinessCalendar, self._parts()

    def _parts(self) -> tuple[str, frozenset[date], frozenset[int], frozenset[date]]:
        return self.timezone, self.days_off, self.weekend, self.days_on

    def _workdays(self, day: int) -> int:
        """Count the days from ordinal 1 (a Monday) up to this one that are not in a weekend."""
        weeks, weekday = divmod(day - 1, 7)
        return weeks * len(self._positions) + self._to_weekday[weekday]

    def _count(self, day: int) -> int:
        """Count the business days from ordinal 1 up to this one."""
        return self._workdays(day) + self._offsets[bisect_right(self._exceptions, day)]

    def _nth(self, index: int) -> int:
        """Return the ordinal of business day number `index`: the inverse of `_count`."""
        before = bisect_left(self._ranks, index)
        if before < len(self._ranks) and self._ranks[before] == index and self._is_on[before]:
            return self._exceptions[before]
        weeks, position = divmod(index - self._offsets[before] - 1, len(self._positions))
        return weeks * 7 + self._positions[position] + 1

    def _midnight(self, day: int) -> Instant:
        if day < _FIRST_DAY:
            return EARLIEST
        if day > _LAST_DAY:
            return LATEST
        start = datetime.fromordinal(day).replace(tzinfo=self._zone)
        return min(max(int(start.timestamp()) * SECOND, EARLIEST), LATEST)

    def _check_not_always_closed(self) -> None:
        off = [day for day, is_on in zip(self._exceptions, self._is_on, strict=True) if not is_on]
        ranks = [self._count(day) for day in off]
        for rank in set(ranks):
            if self._nth(rank + 1) - self._nth(rank) > _MAX_CLOSURE_DAYS:
                first = date.fromordinal(off[bisect_left(ranks, rank)])
                last = date.fromordinal(off[bisect_right(ranks, rank) - 1])
                raise ValueError(f"every day from {first} to {last} is off: leave at least one business day a year")


def load_zone(timezone: str) -> ZoneInfo:
    """Return the zone of an IANA name such as `Europe/Amsterdam`. Raise ValueError for any other text."""
    try:
        if timezone.startswith(_EXCLUDED_ZONES):
            raise ValueError(timezone)
        return ZoneInfo(timezone)
    except (ValueError, OSError, LookupError):
        raise ValueError(
            f"{format_value(timezone)} is not a time zone: use a name of the IANA database, such as Europe/Amsterdam"
        ) from None

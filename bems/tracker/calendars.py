"""Business calendars: which local days count, and the arithmetic of instants in business days.

Local times follow PEP 495 with fold=0, as java.time does: a time that the clocks skip moves forward by the gap, a time
that they repeat is its first occurrence.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from bems.tracker.instants import EARLIEST, LATEST, SECOND, Instant
from bems.tracker.wording import show

SATURDAY_AND_SUNDAY = frozenset({5, 6})
"""Weekdays as `date.weekday` numbers them: Monday is 0."""

# Days that no instant between EARLIEST and LATEST can have as its local date, in any time zone, bound the arithmetic.
_FIRST_DAY = date(1969, 12, 1).toordinal()
_LAST_DAY = date(3000, 1, 31).toordinal()
_LONGEST_CLOSURE = 366
_REMEMBERED = 1 << 16
_NOT_A_PLACE = ("localtime", "posixrules", "Factory", "posix/", "right/")


class BusinessCalendar:
    """The business days of one place.

    `timezone` is an IANA name; `days_off` are local dates; `weekend` holds weekdays (Monday is 0). ValueError when the
    time zone is unknown, a weekday is out of range, or more than 366 days on end are off.

    Instants outside EARLIEST to LATEST are taken as those, and so are results: nothing overflows.
    """

    __slots__ = (
        "_hash",
        "_known",
        "_off",
        "_positions",
        "_ranks",
        "_to_weekday",
        "_zone",
        "days_off",
        "timezone",
        "weekend",
    )

    def __init__(
        self, timezone: str, days_off: Iterable[date] = (), weekend: Iterable[int] = SATURDAY_AND_SUNDAY
    ) -> None:
        self.timezone = timezone
        self.days_off = frozenset(days_off)
        self.weekend = frozenset(weekend)
        self._zone = load_zone(timezone)
        if not self.weekend <= frozenset(range(7)):
            raise ValueError("weekdays are numbered 0 (Monday) to 6")
        self._positions = [weekday for weekday in range(7) if weekday not in self.weekend]
        if not self._positions:
            raise ValueError("every day of the week is off: leave at least one business day")
        self._to_weekday = [bisect_right(self._positions, weekday) for weekday in range(7)]
        self._off = sorted(day.toordinal() for day in self.days_off if day.weekday() not in self.weekend)
        # The number of business days before each day off, by which the nth business day is found without walking.
        self._ranks = [self._workdays(day) - 1 - index for index, day in enumerate(self._off)]
        self._known: dict[tuple[int, int], tuple[int, bool]] = {}
        self._hash = hash((self.timezone, self.days_off, self.weekend))
        self._refuse_closure()

    def add(self, instant: Instant, days: int) -> Instant:
        """The instant `days` (0 or more) business days later, at the same local time of day.

        A start on a day off first moves to 00:00 of the next business day; adding 0 to a start on a business day is
        that start. Later starts give later results, but for starts within the hour that clocks repeat or skip.
        """
        instant = min(max(instant, EARLIEST), LATEST)
        local = datetime.fromtimestamp(instant // SECOND, self._zone)
        today = local.toordinal()
        day, from_midnight = self._known.get((today, days)) or self._look_up(today, days)
        if from_midnight:
            return self._midnight(day)
        if days == 0:
            return instant
        if day > _LAST_DAY:
            return LATEST
        moved = local + timedelta(days=day - today)  # its fold is 0, whatever the start's
        return min(max(int(moved.timestamp()) * SECOND + instant % SECOND, EARLIEST), LATEST)

    def _look_up(self, today: int, days: int) -> tuple[int, bool]:
        """The day `days` business days after a day, and whether that one is off; remembered, for few are asked for."""
        index = self._count(today)
        off = self._count(today - 1) == index
        found = self._nth(index + days + off), off
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[today, days] = found
        return found

    def back(self, day: date, days: int) -> Instant:
        """00:00 of the `days`-th business day before a local date, which may itself be off; 0 is 00:00 of that date."""
        ordinal = day.toordinal()
        return self._midnight(ordinal if days == 0 else self._nth(self._count(ordinal - 1) + 1 - days))

    def between(self, start: Instant, end: Instant) -> int:
        """How many business days the local dates of two instants lie apart; a day off counts as the one before it."""
        return self._count(self.local_date(end).toordinal()) - self._count(self.local_date(start).toordinal())

    def local_date(self, instant: Instant) -> date:
        return datetime.fromtimestamp(min(max(instant, EARLIEST), LATEST) // SECOND, self._zone).date()

    def is_business_day(self, day: date) -> bool:
        return day.weekday() not in self.weekend and day not in self.days_off

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BusinessCalendar):
            return NotImplemented
        mine, theirs = (self.timezone, self.weekend, self.days_off), (other.timezone, other.weekend, other.days_off)
        return mine == theirs

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"BusinessCalendar({self.timezone!r}, {len(self.days_off)} days off, weekend {sorted(self.weekend)})"

    def __reduce__(self) -> tuple[type["BusinessCalendar"], tuple[str, frozenset[date], frozenset[int]]]:
        return BusinessCalendar, (self.timezone, self.days_off, self.weekend)

    def _workdays(self, day: int) -> int:
        """How many days up to this one, from a fixed origin, are outside weekends. Day 1 of all is a Monday."""
        weeks, weekday = divmod(day - 1, 7)
        return weeks * len(self._positions) + self._to_weekday[weekday]

    def _count(self, day: int) -> int:
        """How many business days lie up to this one, from the same origin."""
        return self._workdays(day) - bisect_right(self._off, day)

    def _nth(self, index: int) -> int:
        """The day that is business day number `index` from the origin: the inverse of `_count`."""
        weeks, position = divmod(index + bisect_left(self._ranks, index) - 1, len(self._positions))
        return weeks * 7 + self._positions[position] + 1

    def _midnight(self, day: int) -> Instant:
        if day < _FIRST_DAY:
            return EARLIEST
        if day > _LAST_DAY:
            return LATEST
        start = datetime.fromordinal(day).replace(tzinfo=self._zone)
        return min(max(int(start.timestamp()) * SECOND, EARLIEST), LATEST)

    def _refuse_closure(self) -> None:
        for rank in set(self._ranks):
            if self._nth(rank + 1) - self._nth(rank) > _LONGEST_CLOSURE:
                first = date.fromordinal(self._off[bisect_left(self._ranks, rank)])
                last = date.fromordinal(self._off[bisect_right(self._ranks, rank) - 1])
                raise ValueError(f"every day from {first} to {last} is off: leave at least one business day a year")


def load_zone(timezone: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Amsterdam`; ValueError for anything else."""
    try:
        if timezone.startswith(_NOT_A_PLACE):
            raise ValueError(timezone)
        return ZoneInfo(timezone)
    except (ValueError, OSError, LookupError):
        raise ValueError(
            f"{show(timezone)} is not a time zone: use a name of the IANA database, such as Europe/Amsterdam"
        ) from None

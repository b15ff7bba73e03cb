"""Calendars of countries: public holidays, weekends and weekend days that are worked, from the holidays library.

This is the only module that uses the library. It expands a policy's country into dates. The library is imported only
when a calendar is expanded, because the import takes more than a second.
"""

import warnings
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from bems.tracker.policy import WEEKDAYS, Policy, PolicySpec, Weekday, build_policy

if TYPE_CHECKING:
    from holidays import HolidayBase

MIN_YEAR = 2000
MAX_YEAR = 2050
"""First and last year of expanded calendars. In other years a policy has the last year's weekend and no holidays."""


class PlaceUnknown(ValueError):
    """The holidays library does not know the country or its subdivision. `key` is `country` or `subdivision`."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


class CountryDays(NamedTuple):
    """Calendar of a country over a range of years.

    `weekend`          weekend days in the last year.
    `holidays`         public holidays, including weekdays that are off in exchange for a worked weekend day.
    `worked`           weekend dates that are worked.
    `former_weekend`   dates that were weekend days in their time, but fall on today's workdays.
    `former_workdays`  dates that were workdays in their time, but fall on today's weekend.
    """

    weekend: tuple[Weekday, ...]
    holidays: frozenset[date]
    worked: frozenset[date]
    former_weekend: frozenset[date]
    former_workdays: frozenset[date]


def days_off(
    country: str, subdivision: str | None = None, first_year: int = MIN_YEAR, last_year: int = MAX_YEAR
) -> frozenset[date]:
    """Return the public holidays of a country (ISO 3166-1 alpha-2) or a subdivision of it (ISO 3166-2).

    They include substitutes for holidays on a weekend. The range of years includes the last one. Raises PlaceUnknown if
    the holidays library does not know the country or subdivision, and ValueError if the range is empty.
    """
    return frozenset(_load_calendar(country, subdivision, first_year, last_year))


def country_days(
    country: str, subdivision: str | None = None, first_year: int = MIN_YEAR, last_year: int = MAX_YEAR
) -> CountryDays:
    """Return the holidays, weekends and worked days of a country or subdivision. Raises the errors of `days_off`."""
    known = _load_calendar(country, subdivision, first_year, last_year)
    weekend = {
        day.weekday()
        for day in _days_between(date(last_year, 12, 25), date(last_year, 12, 31))
        if known.is_weekend(day)
    }
    moved = [
        day
        for day in _days_between(date(first_year, 1, 1), date(last_year, 12, 31))
        if known.is_weekend(day) != (day.weekday() in weekend)
    ]
    return CountryDays(
        tuple(WEEKDAYS[weekday] for weekday in sorted(weekend)),
        frozenset(known),
        frozenset(day for day in known.weekend_workdays if known.is_weekend(day)),
        frozenset(day for day in moved if day.weekday() not in weekend),
        frozenset(day for day in moved if day.weekday() in weekend),
    )


def check_country(country: str, subdivision: str | None) -> None:
    """Raise PlaceUnknown if the holidays library does not know the country or subdivision."""
    import holidays

    known = holidays.list_supported_countries()
    if country not in known:
        raise PlaceUnknown(
            "country", f"{country!r} is not a country with known holidays: use ISO 3166-1 alpha-2, such as DE"
        )
    if subdivision is not None and subdivision not in known[country]:
        hint = f"use one of {', '.join(known[country])}" if known[country] else "leave it out"
        raise PlaceUnknown(
            "subdivision", f"{subdivision!r} is not a subdivision of {country} that has regional holidays: {hint}"
        )


def expand(spec: PolicySpec) -> Policy:
    """Return the policy of a spec with the calendar of its country. Raises the errors of `days_off` and `build_policy`.

    A `weekend` in the spec applies to all years. Weekend days that the country works are still workdays.
    """
    country = country_days(spec.calendar.country, spec.calendar.subdivision)
    off, on = country.holidays, country.worked
    if spec.calendar.weekend is None:
        off, on = off | country.former_weekend, on | (country.former_workdays - country.holidays)
    return build_policy(spec, off, on, country.weekend)


def _load_calendar(country: str, subdivision: str | None, first_year: int, last_year: int) -> "HolidayBase":
    import holidays

    if first_year > last_year:
        raise ValueError(
            f"the range of years from {first_year} to {last_year} is empty: use a last year not before the first"
        )
    check_country(country, subdivision)
    with warnings.catch_warnings():
        # The library warns if it knows a calendar for only some of the years. Use those.
        warnings.simplefilter("ignore", UserWarning)
        years = range(first_year, last_year + 1)
        # Without `expand=False`, looking up a day in another year would add that year.
        return holidays.country_holidays(country, subdiv=subdivision, years=years, expand=False)


def _days_between(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))

"""Countries' calendars: public holidays, weekends, and days of the weekend that are worked, as the holidays library
knows them. The one module that asks it; it turns a policy's country into dates.

Its first use takes more than a second, so it is loaded when a calendar is expanded and not before.
"""

import warnings
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from bems.tracker.policy import WEEKDAYS, Policy, PolicySpec, Weekday, build_policy

if TYPE_CHECKING:
    from holidays import HolidayBase

FIRST_YEAR = 2000
LAST_YEAR = 2050
"""Beyond these years a policy knows the weekend of the last one, but no public holidays."""


class PlaceUnknown(ValueError):
    """The holidays library does not know the country, or the part of it; `key` of the calendar says which."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


class CountryDays(NamedTuple):
    """The days of a country, in years from a first to a last.

    The week has the `weekend` of the last year. `weekend_before` are dates that were of the weekend in its time and
    would be none now, `week_before` those that were none and would be now. `worked` are dates of the weekend that are
    worked in exchange for others, which are among the public `holidays`.
    """

    weekend: tuple[Weekday, ...]
    holidays: frozenset[date]
    worked: frozenset[date]
    weekend_before: frozenset[date]
    week_before: frozenset[date]


def days_off(
    country: str, subdivision: str | None = None, first_year: int = FIRST_YEAR, last_year: int = LAST_YEAR
) -> frozenset[date]:
    """The public holidays of a country (ISO 3166-1 alpha-2) or a part of it (ISO 3166-2), in years from first to last.

    Days kept in place of a holiday on a weekend are among them. PlaceUnknown for a country or part that the holidays
    library does not know, ValueError when no year is asked for.
    """
    return frozenset(_load(country, subdivision, first_year, last_year))


def country_days(
    country: str, subdivision: str | None = None, first_year: int = FIRST_YEAR, last_year: int = LAST_YEAR
) -> CountryDays:
    """The holidays, weekends and worked days of a country or a part of it. Errors as of `days_off`."""
    known = _load(country, subdivision, first_year, last_year)
    weekend = {
        day.weekday() for day in _days(date(last_year, 12, 25), date(last_year, 12, 31)) if known.is_weekend(day)
    }
    moved = [
        day
        for day in _days(date(first_year, 1, 1), date(last_year, 12, 31))
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
    """PlaceUnknown for a country, or a part of it, that the holidays library does not know."""
    import holidays

    known = holidays.list_supported_countries()
    if country not in known:
        raise PlaceUnknown(
            "country", f"{country!r} is not a country with known holidays: use ISO 3166-1 alpha-2, such as DE"
        )
    if subdivision is not None and subdivision not in known[country]:
        right = f"use one of {', '.join(known[country])}" if known[country] else "leave it out"
        raise PlaceUnknown(
            "subdivision", f"{subdivision!r} is not a part of {country} with holidays of its own: {right}"
        )


def expand(spec: PolicySpec) -> Policy:
    """The policy of a spec with the days of its country. Errors as of `days_off` and `build_policy`.

    A `weekend` of its own stands for all years; the days that the country works at weekends are worked all the same.
    """
    country = country_days(spec.calendar.country, spec.calendar.subdivision)
    off, on = country.holidays, country.worked
    if spec.calendar.weekend is None:
        off, on = off | country.weekend_before, on | (country.week_before - country.holidays)
    return build_policy(spec, off, on, country.weekend)


def _load(country: str, subdivision: str | None, first_year: int, last_year: int) -> "HolidayBase":
    import holidays

    if first_year > last_year:
        raise ValueError(
            f"there is no year from {first_year} to {last_year}: use a last year that is not before the first"
        )
    check_country(country, subdivision)
    with warnings.catch_warnings():
        # The library warns of calendars that it knows for fewer years than it was asked; those it knows are used.
        warnings.simplefilter("ignore", UserWarning)
        years = range(first_year, last_year + 1)
        # Without `expand` it adds no year by itself, when it is asked of a day in one.
        return holidays.country_holidays(country, subdiv=subdivision, years=years, expand=False)


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))

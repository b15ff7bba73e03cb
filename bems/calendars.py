"""Public holidays: the one room that asks the holidays library, and turns a policy's country into dates.

Its first use takes more than a second, so it is loaded when a calendar is expanded and not before.
"""

import warnings
from datetime import date

from bems.tracker.policy import Policy, PolicySpec, build_policy

FIRST_YEAR = 2000
LAST_YEAR = 2050
"""Beyond these years a policy knows weekends, but no public holidays."""


def days_off(
    country: str, subdivision: str | None = None, first_year: int = FIRST_YEAR, last_year: int = LAST_YEAR
) -> frozenset[date]:
    """The public holidays of a country (ISO 3166-1 alpha-2) or a part of it (ISO 3166-2), in years from first to last.

    Days kept in place of a holiday on a weekend are among them. ValueError for a country or part that the holidays
    library does not know, or when no year is asked for.
    """
    import holidays

    if first_year > last_year:
        raise ValueError(
            f"there is no year from {first_year} to {last_year}: use a last year that is not before the first"
        )
    known = holidays.list_supported_countries()
    if country not in known:
        raise ValueError(f"{country!r} is not a country with known holidays: use ISO 3166-1 alpha-2, such as DE")
    if subdivision is not None and subdivision not in known[country]:
        right = f"use one of {', '.join(known[country])}" if known[country] else "leave it out"
        raise ValueError(f"{subdivision!r} is not a part of {country} with holidays of its own: {right}")
    with warnings.catch_warnings():
        # The library warns of calendars that it knows for fewer years than it was asked; those it knows are used.
        warnings.simplefilter("ignore", UserWarning)
        return frozenset(holidays.country_holidays(country, subdiv=subdivision, years=range(first_year, last_year + 1)))


def expand(spec: PolicySpec) -> Policy:
    """The policy of a spec with the public holidays of its calendar. ValueError as of `days_off` and `build_policy`."""
    return build_policy(spec, days_off(spec.calendar.country, spec.calendar.subdivision))

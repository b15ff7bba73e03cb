import subprocess
import sys
from datetime import date
from decimal import Decimal

import pytest

from bems.calendars import FIRST_YEAR, LAST_YEAR, days_off, expand
from bems.tracker.contract import Facts, Source, Vendor
from bems.tracker.instants import parse
from bems.tracker.policy import CalendarSpec, PolicySpec


def test_dutch_holidays() -> None:
    dutch = days_off("NL")
    assert {day for day in dutch if day.year == 2026} >= {
        date(2026, 1, 1),
        date(2026, 4, 5),  # Easter
        date(2026, 4, 6),
        date(2026, 4, 27),  # King's Day
        date(2026, 5, 14),  # Ascension Day
        date(2026, 5, 25),  # Whit Monday
        date(2026, 12, 25),
        date(2026, 12, 26),
    }
    assert date(2026, 12, 24) not in dutch


@pytest.mark.parametrize(("year", "day"), [(2014, 26), (2024, 27), (2025, 26), (2031, 26)])
def test_kings_day_is_the_day_before_when_it_falls_on_a_sunday(year: int, day: int) -> None:
    assert {date(year, 4, 26), date(year, 4, 27)} & days_off("NL", first_year=year, last_year=year) == {
        date(year, 4, day)
    }


def test_easter_monday_is_known_from_the_first_year_to_the_last() -> None:
    dutch = days_off("NL")
    assert {date(2000, 4, 24), date(2050, 4, 11)} <= dutch
    assert {day.year for day in dutch} == set(range(FIRST_YEAR, LAST_YEAR + 1))


def test_a_holiday_kept_on_another_day_is_a_day_off() -> None:
    # Independence Day 2026 is a Saturday, kept on the Friday.
    assert date(2026, 7, 3) in days_off("US")


def test_a_part_of_a_country_has_its_own() -> None:
    epiphany = date(2026, 1, 6)
    assert epiphany in days_off("DE", "BY")
    assert epiphany not in days_off("DE")


def test_a_country_known_for_fewer_years_does_not_warn() -> None:
    assert date(2026, 1, 26) in days_off("IN")


@pytest.mark.parametrize(
    ("country", "subdivision", "problem"),
    [
        ("XX", None, "'XX' is not a country with known holidays: use ISO 3166-1 alpha-2, such as DE"),
        ("Netherlands", None, "is not a country with known holidays"),
        ("", None, "is not a country with known holidays"),
        ("GB", "BY", "'BY' is not a part of GB with holidays of its own: use one of ENG, NIR, SCT, WLS"),
        ("LU", "X", "'X' is not a part of LU with holidays of its own: leave it out"),
    ],
)
def test_an_unknown_place_is_refused(country: str, subdivision: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=r": (use|leave) ") as refused:
        days_off(country, subdivision)
    assert problem in str(refused.value)


def test_years_run_forward() -> None:
    with pytest.raises(ValueError, match="there is no year from 2026 to 2025"):
        days_off("NL", first_year=2026, last_year=2025)


def test_a_policy_is_expanded_with_the_holidays_of_its_calendar() -> None:
    invoice = Facts(Decimal("1250.00"), "EUR", Vendor("V-42"), Source("sap-ecc"))
    policy = expand(PolicySpec())
    thursday = parse("2026-04-02T10:15:00+02:00")  # before Easter
    assert policy.deadline("authorization", invoice, None, thursday) > parse("2026-04-08T00:00:00+02:00")
    calendar = CalendarSpec("DE", "Europe/Berlin", subdivision="BY", days_off=(date(2026, 1, 7),))
    assert expand(PolicySpec(calendar)).calendar.add(parse("2026-01-05T09:00:00+01:00"), 1) == parse(
        "2026-01-08T09:00:00+01:00"
    )
    with pytest.raises(ValueError, match="is not a country"):
        expand(PolicySpec(CalendarSpec("XX", "Europe/Berlin")))


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    loaded = "import bems.calendars, sys; sys.exit('holidays' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0

import subprocess
import sys
from datetime import date, timedelta
from decimal import Decimal

import holidays
import pytest

from bems.calendars import MAX_YEAR, MIN_YEAR, country_days, days_off, expand
from bems.tracker.contract import Facts, Source, Vendor
from bems.tracker.instants import parse
from bems.tracker.policy import CalendarSpec, PolicySpec, StageSpec, StagesSpec

COUNTRIES = sorted(holidays.list_supported_countries(include_aliases=False))
SAMPLE_YEARS = (2000, 2012, 2013, 2021, 2026, MAX_YEAR)
"""Some weekends changed in or before 2000, in 2013 and in 2022. In some years weekend days are worked by decree."""

INVOICE = Facts(Decimal("1250.00"), "EUR", Vendor("V-42"), Source("sap-ecc"))

SUBDIVISIONS = [("MY", code) for code in ("01", "02", "03", "10", "11")] + [("DE", "BY"), ("GB", "SCT"), ("ES", "MD")]


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
    assert {day.year for day in dutch} == set(range(MIN_YEAR, MAX_YEAR + 1))


def test_a_substitute_for_a_holiday_is_a_day_off() -> None:
    # Independence Day 2026 is a Saturday and is observed on Friday.
    assert date(2026, 7, 3) in days_off("US")


def test_a_subdivision_has_its_own_holidays() -> None:
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
        ("GB", "BY", "'BY' is not a subdivision of GB that has regional holidays: use one of ENG, NIR, SCT, WLS"),
        ("LU", "X", "'X' is not a subdivision of LU that has regional holidays: leave it out"),
    ],
)
def test_an_unknown_country_or_subdivision_is_refused(country: str, subdivision: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=r": (use|leave) ") as refused:
        days_off(country, subdivision)
    assert problem in str(refused.value)


def test_an_empty_range_of_years_is_refused() -> None:
    with pytest.raises(ValueError, match="the range of years from 2026 to 2025 is empty"):
        days_off("NL", first_year=2026, last_year=2025)


def test_a_policy_is_expanded_with_the_holidays_of_its_calendar() -> None:
    policy = expand(PolicySpec())
    thursday = parse("2026-04-02T10:15:00+02:00")  # before Easter
    assert policy.deadline("authorization", INVOICE, None, thursday) > parse("2026-04-08T00:00:00+02:00")
    calendar = CalendarSpec("DE", "Europe/Berlin", subdivision="BY", days_off=(date(2026, 1, 7),))
    assert expand(PolicySpec(calendar)).calendar.add(parse("2026-01-05T09:00:00+01:00"), 1) == parse(
        "2026-01-08T09:00:00+01:00"
    )
    with pytest.raises(ValueError, match="is not a country"):
        expand(PolicySpec(CalendarSpec("XX", "Europe/Berlin")))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("country", "subdivision"), [*((country, None) for country in COUNTRIES), *SUBDIVISIONS])
def test_business_days_equal_the_working_days_of_the_library(country: str, subdivision: str | None) -> None:
    calendar = expand(PolicySpec(CalendarSpec(country, "UTC", subdivision))).calendar
    years = {year + later for year in SAMPLE_YEARS for later in (0, 1)} - {
        MAX_YEAR + 1
    }  # substitutes in December may belong to the next year
    known = holidays.country_holidays(country, subdiv=subdivision, years=years, expand=False)
    for year in SAMPLE_YEARS:
        days = [date(year, 1, 1) + timedelta(days=number) for number in range(365)]
        noons = [parse(f"{day}T12:00:00Z") for day in days]
        wrong = [day for day in days if calendar.is_business_day(day) != known.is_working_day(day)]
        assert wrong == []
        assert calendar.business_days_between(noons[0], noons[-1]) == sum(map(known.is_working_day, days[1:]))
        tenth = calendar.local_date(calendar.add(noons[160], 10))
        assert tenth == known.get_nth_working_day(known.get_nth_working_day(days[160], 0), 10)


def test_a_worked_saturday_in_hungary_is_a_business_day() -> None:
    spec = PolicySpec(
        CalendarSpec("HU", "Europe/Budapest"), StagesSpec(authorization=StageSpec("3bd", "1bd", 2, 3, ()))
    )
    received = parse("2026-01-08T09:00:00+01:00")  # a Thursday
    assert expand(spec).deadline("authorization", INVOICE, received, received) == parse("2026-01-12T08:00:00Z")


@pytest.mark.parametrize("country", ["SA", "EG"])
def test_a_week_may_begin_on_sunday(country: str) -> None:
    calendar = expand(PolicySpec(CalendarSpec(country, "UTC"))).calendar
    assert not calendar.is_business_day(date(2026, 11, 27)) and calendar.is_business_day(date(2026, 11, 29))


def test_before_a_change_of_the_weekend_the_former_one_applies() -> None:
    emirates = expand(PolicySpec(CalendarSpec("AE", "Asia/Dubai"))).calendar
    friday, sunday = date(2021, 11, 26), date(2021, 11, 28)
    assert not emirates.is_business_day(friday) and emirates.is_business_day(sunday)
    friday, sunday = date(2026, 11, 27), date(2026, 11, 29)
    assert emirates.is_business_day(friday) and not emirates.is_business_day(sunday)
    assert emirates.is_business_day(date(2060, 11, 26)), "the last weekend applies after the last year"


def test_a_weekend_in_a_policy_applies_to_every_year() -> None:
    emirates = expand(PolicySpec(CalendarSpec("AE", "Asia/Dubai", weekend=("saturday", "sunday")))).calendar
    assert emirates.is_business_day(date(2021, 11, 26)) and not emirates.is_business_day(date(2021, 11, 28))
    # New Year's Day 2021 was a Friday and is off as a holiday.
    assert not emirates.is_business_day(date(2021, 1, 1))
    # A holiday is off even on a day that the policy does not count as weekend.
    sundays = expand(PolicySpec(CalendarSpec("NL", "UTC", weekend=("sunday",)))).calendar
    assert not sundays.is_business_day(date(2026, 12, 26)) and sundays.is_business_day(date(2026, 12, 19))
    # The worked Saturday in Hungary stays a workday.
    budapest = expand(PolicySpec(CalendarSpec("HU", "UTC", weekend=("saturday", "sunday")))).calendar
    assert budapest.is_business_day(date(2026, 1, 10)) and not budapest.is_business_day(date(2026, 1, 17))


def test_days_on_and_off_override_the_country() -> None:
    calendar = CalendarSpec(
        "HU", "UTC", days_off=(date(2026, 1, 10), date(2026, 11, 24)), days_on=(date(2026, 12, 25), date(2026, 12, 27))
    )
    policy_calendar = expand(PolicySpec(calendar)).calendar
    assert not policy_calendar.is_business_day(date(2026, 1, 10)) and not policy_calendar.is_business_day(
        date(2026, 11, 24)
    )
    assert policy_calendar.is_business_day(date(2026, 12, 25)) and policy_calendar.is_business_day(date(2026, 12, 27))


def test_country_days_are_limited_to_the_range_of_years() -> None:
    found = country_days("AE", first_year=2021, last_year=2022)
    assert found.weekend == ("saturday", "sunday")
    assert {day.year for day in found.former_weekend | found.former_workdays} == {2021}
    assert country_days("AE", first_year=2021, last_year=2021).weekend == ("friday", "saturday")


def test_importing_calendars_does_not_load_the_holidays_library() -> None:
    loaded = "import bems.calendars, sys; sys.exit('holidays' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0

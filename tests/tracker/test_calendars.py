import pickle
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bems.tracker.calendars import SATURDAY_AND_SUNDAY, BusinessCalendar, load_zone
from bems.tracker.instants import DAY, EARLIEST, HOUR, LATEST, SECOND, Instant, from_datetime, parse

AMSTERDAM = "Europe/Amsterdam"
NEW_YORK = "America/New_York"
EASTER_2026 = frozenset({date(2026, 4, 3), date(2026, 4, 5), date(2026, 4, 6)})
KINGS_DAY_2026 = date(2026, 4, 27)
CHRISTMAS_2026 = frozenset({date(2026, 12, 25), date(2026, 12, 26)})
DAYS_OFF = EASTER_2026 | CHRISTMAS_2026 | {KINGS_DAY_2026, date(2027, 1, 1)}
EVERY_DAY: frozenset[int] = frozenset()

amsterdam = BusinessCalendar(AMSTERDAM, DAYS_OFF)
new_york = BusinessCalendar(NEW_YORK)


def local(calendar: BusinessCalendar, text: str) -> Instant:
    """Return the instant of a local time; if it occurs twice, the first."""
    return from_datetime(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(calendar.timezone)))


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        ("2026-11-23 10:15", 0, "2026-11-23 10:15"),
        ("2026-11-23 10:15", 1, "2026-11-24 10:15"),
        ("2026-11-23 10:15", 4, "2026-11-27 10:15"),
        ("2026-11-23 10:15", 5, "2026-11-30 10:15"),
        ("2026-11-27 23:59:59.999999", 1, "2026-11-30 23:59:59.999999"),
        # A start on a day off first moves to 00:00 of the next business day.
        ("2026-11-28 15:00", 0, "2026-11-30 00:00"),
        ("2026-11-28 15:00", 1, "2026-12-01 00:00"),
        ("2026-11-29 00:00", 3, "2026-12-03 00:00"),
        # Good Friday and Easter Monday.
        ("2026-04-02 09:00", 1, "2026-04-07 09:00"),
        ("2026-04-03 09:00", 1, "2026-04-08 00:00"),
        # King's Day, a Monday.
        ("2026-04-24 17:30", 1, "2026-04-28 17:30"),
        ("2026-04-27 17:30", 0, "2026-04-28 00:00"),
        # Christmas on a Friday, its second day on the Saturday, and New Year's Day on a Friday.
        ("2026-12-24 12:00", 1, "2026-12-28 12:00"),
        ("2026-12-24 12:00", 5, "2027-01-04 12:00"),
        # 52 weeks of five days.
        ("2028-01-03 08:00", 260, "2029-01-01 08:00"),
    ],
)
def test_adding_business_days_keeps_the_time_of_day_and_skips_days_off(start: str, days: int, end: str) -> None:
    assert amsterdam.add(local(amsterdam, start), days) == local(amsterdam, end)


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        # The clocks go forward on Sunday 2026-03-29 and back on Sunday 2026-10-25.
        ("2026-03-27T09:00:00+01:00", 1, "2026-03-30T09:00:00+02:00"),
        ("2026-10-23T09:00:00+02:00", 1, "2026-10-26T09:00:00+01:00"),
        # From the Sunday without 02:30, a day off, to 00:00 of the next business day.
        ("2026-03-29T03:30:00+02:00", 1, "2026-03-31T00:00:00+02:00"),
    ],
)
def test_daylight_saving_over_a_weekend_in_amsterdam(start: str, days: int, end: str) -> None:
    assert amsterdam.add(parse(start), days) == parse(end)


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        # 2026-03-29 02:30 does not exist: it moves forward by the gap of one hour, to 03:30.
        ("2026-03-28T02:30:00+01:00", 1, "2026-03-29T03:30:00+02:00"),
        ("2026-03-28T02:00:00+01:00", 1, "2026-03-29T03:00:00+02:00"),
        ("2026-03-28T01:59:59+01:00", 1, "2026-03-29T01:59:59+01:00"),
        ("2026-03-28T03:00:00+01:00", 1, "2026-03-29T03:00:00+02:00"),
        # It moves only on that day.
        ("2026-03-28T02:30:00+01:00", 2, "2026-03-30T02:30:00+02:00"),
        # 2026-10-25 02:30 occurs twice: the first is meant.
        ("2026-10-24T02:30:00+02:00", 1, "2026-10-25T02:30:00+02:00"),
        ("2026-10-24T03:00:00+02:00", 1, "2026-10-25T03:00:00+01:00"),
        # A start in the second of the two is 02:30 like the first.
        ("2026-10-25T02:30:00+02:00", 1, "2026-10-26T02:30:00+01:00"),
        ("2026-10-25T02:30:00+01:00", 1, "2026-10-26T02:30:00+01:00"),
        ("2026-10-25T02:30:00+01:00", 0, "2026-10-25T02:30:00+01:00"),
    ],
)
def test_daylight_saving_on_a_business_day_in_amsterdam(start: str, days: int, end: str) -> None:
    assert BusinessCalendar(AMSTERDAM, weekend=EVERY_DAY).add(parse(start), days) == parse(end)


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        ("2026-03-07T02:30:00-05:00", 1, "2026-03-08T03:30:00-04:00"),
        ("2026-03-07T02:30:00-05:00", 2, "2026-03-09T02:30:00-04:00"),
        ("2026-10-31T01:30:00-04:00", 1, "2026-11-01T01:30:00-04:00"),
        ("2026-11-01T01:30:00-05:00", 1, "2026-11-02T01:30:00-05:00"),
    ],
)
def test_daylight_saving_on_a_business_day_in_new_york(start: str, days: int, end: str) -> None:
    assert BusinessCalendar(NEW_YORK, weekend=EVERY_DAY).add(parse(start), days) == parse(end)


def test_a_midnight_that_the_clocks_skip_moves_forward() -> None:
    # Beirut went from 00:00 to 01:00 on Sunday 2022-03-27.
    beirut = BusinessCalendar("Asia/Beirut", [date(2022, 3, 26)], weekend=EVERY_DAY)
    assert beirut.add(parse("2022-03-26T12:00:00+02:00"), 0) == parse("2022-03-27T01:00:00+03:00")


def test_a_date_that_does_not_exist_counts_as_the_next() -> None:
    # Samoa had no 2011-12-30.
    apia = BusinessCalendar("Pacific/Apia", weekend=EVERY_DAY)
    start = parse("2011-12-29T10:00:00-10:00")
    assert apia.add(start, 1) == apia.add(start, 2) == parse("2011-12-31T10:00:00+14:00")


def test_an_instant_has_different_local_dates_by_time_zone() -> None:
    friday_evening = parse("2026-11-27T22:00:00-05:00")
    assert new_york.add(friday_evening, 1) == parse("2026-11-30T22:00:00-05:00")
    assert amsterdam.add(friday_evening, 1) == parse("2026-12-01T00:00:00+01:00")


def test_a_weekend_may_be_friday_and_saturday() -> None:
    riyadh = BusinessCalendar("Asia/Riyadh", weekend={4, 5})
    assert riyadh.add(parse("2026-11-26T10:00:00+03:00"), 1) == parse("2026-11-29T10:00:00+03:00")


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        # Hungary works on Saturday 10 January 2026 in exchange for Friday the 2nd.
        ("2026-01-08T09:00:00+01:00", 3, "2026-01-12T09:00:00+01:00"),
        ("2026-01-08T09:00:00+01:00", 2, "2026-01-10T09:00:00+01:00"),
        ("2026-01-10T09:00:00+01:00", 0, "2026-01-10T09:00:00+01:00"),
        ("2026-01-10T09:00:00+01:00", 1, "2026-01-12T09:00:00+01:00"),
        ("2026-01-11T09:00:00+01:00", 0, "2026-01-12T00:00:00+01:00"),
        ("2025-12-31T09:00:00+01:00", 1, "2026-01-05T09:00:00+01:00"),
        ("2026-01-03T09:00:00+01:00", 6, "2026-01-12T00:00:00+01:00"),
    ],
)
def test_a_working_saturday_is_a_business_day(start: str, days: int, end: str) -> None:
    off = [date(2026, 1, 1), date(2026, 1, 2)]
    budapest = BusinessCalendar("Europe/Budapest", off, days_on=[date(2026, 1, 10)])
    assert budapest.add(parse(start), days) == parse(end)


def test_days_on_take_precedence_over_days_off() -> None:
    day = date(2026, 12, 25)
    assert BusinessCalendar(AMSTERDAM, [day], days_on=[day]).is_business_day(day)
    assert BusinessCalendar(AMSTERDAM, days_on=[day]) != BusinessCalendar(AMSTERDAM)


@pytest.mark.parametrize(
    ("due", "days", "start"),
    [
        (date(2026, 11, 27), 0, "2026-11-27 00:00"),
        (date(2026, 11, 27), 3, "2026-11-24 00:00"),
        (date(2026, 11, 30), 1, "2026-11-27 00:00"),
        # A due date that is off counts from the same business days as the one after it.
        (date(2026, 11, 28), 1, "2026-11-27 00:00"),
        (date(2026, 11, 29), 3, "2026-11-25 00:00"),
        (date(2026, 11, 29), 0, "2026-11-29 00:00"),
        (date(2026, 12, 28), 1, "2026-12-24 00:00"),
        (date(2026, 4, 7), 3, "2026-03-31 00:00"),
    ],
)
def test_counting_back_from_a_due_date(due: date, days: int, start: str) -> None:
    assert amsterdam.subtract(due, days) == local(amsterdam, start)


def test_business_days_between() -> None:
    friday, saturday, monday = (local(amsterdam, f"2026-11-{day} 12:00") for day in (27, 28, 30))
    assert amsterdam.business_days_between(friday, saturday) == 0
    assert amsterdam.business_days_between(saturday, monday) == amsterdam.business_days_between(friday, monday) == 1
    assert amsterdam.business_days_between(monday, friday) == -1


def test_local_dates() -> None:
    assert amsterdam.local_date(parse("2026-11-27T23:30:00Z")) == date(2026, 11, 28)
    assert new_york.local_date(parse("2026-11-28T04:30:00Z")) == date(2026, 11, 27)


def test_nothing_overflows() -> None:
    assert amsterdam.add(LATEST, 1) == amsterdam.add(LATEST * 1000, 1) == LATEST
    assert amsterdam.add(parse("2026-11-23T10:15:00Z"), 10**30) == LATEST
    assert amsterdam.add(LATEST - DAY, 2600) == LATEST
    assert amsterdam.add(-(10**30), 1) >= EARLIEST
    assert amsterdam.subtract(date.min, 2600) == amsterdam.subtract(date.min, 10**30) == EARLIEST
    assert amsterdam.subtract(date.max, 1) == LATEST
    assert new_york.add(EARLIEST, 1) == parse("1970-01-02T00:00:00Z")


@pytest.mark.parametrize(
    "timezone", ["", "Europe", "Mars/Olympus", "../Amsterdam", "/etc/passwd", "localtime", "a\0b", "é"]
)
def test_an_unknown_time_zone_is_refused(timezone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone: use a name of the IANA database"):
        load_zone(timezone)


def test_a_calendar_without_business_days_is_refused() -> None:
    with pytest.raises(ValueError, match="leave at least one business day"):
        BusinessCalendar(AMSTERDAM, weekend=range(7))
    year = [date(2026, 1, 1) + timedelta(days=day) for day in range(500)]
    with pytest.raises(ValueError, match="every day from 2026-01-01 to 2027-05-14 is off"):
        BusinessCalendar(AMSTERDAM, year)
    assert BusinessCalendar(AMSTERDAM, year[:360]).add(parse("2026-01-01T12:00:00Z"), 0) == parse(
        "2026-12-27T23:00:00Z"
    )
    with pytest.raises(ValueError, match="9999-12-31 is off"):
        BusinessCalendar(AMSTERDAM, [date.max - timedelta(days=day) for day in range(500)])


def test_a_weekday_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="weekdays are numbered 0"):
        BusinessCalendar(AMSTERDAM, weekend={7})


def test_calendars_compare_by_value() -> None:
    same = BusinessCalendar(AMSTERDAM, sorted(DAYS_OFF), weekend=[6, 5])
    assert same == amsterdam
    assert hash(same) == hash(amsterdam)
    assert pickle.loads(pickle.dumps(amsterdam)) == amsterdam
    assert amsterdam != BusinessCalendar(AMSTERDAM)
    assert amsterdam != AMSTERDAM
    worked = BusinessCalendar(AMSTERDAM, DAYS_OFF, days_on=[date(2026, 1, 10)])
    assert worked != amsterdam
    assert pickle.loads(pickle.dumps(worked)) == worked
    assert "6 days off" in repr(BusinessCalendar(AMSTERDAM, EASTER_2026 | CHRISTMAS_2026 | {KINGS_DAY_2026}))


zones = st.sampled_from([AMSTERDAM, NEW_YORK, "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu", "UTC"])
weekends = st.sampled_from([SATURDAY_AND_SUNDAY, EVERY_DAY, frozenset({4, 5}), frozenset({0, 2, 3, 5, 6})])
calendars = st.builds(
    BusinessCalendar,
    zones,
    st.frozensets(st.dates(date(2026, 1, 1), date(2027, 1, 1)), max_size=40).map(DAYS_OFF.union),
    weekends,
    st.frozensets(st.dates(date(2025, 12, 1), date(2027, 1, 1)), max_size=40),
)
instants = st.integers(parse("2025-12-01T00:00:00Z"), parse("2027-02-01T00:00:00Z"))
days = st.integers(0, 60)


def walk(calendar: BusinessCalendar, start: Instant, days: int) -> Instant:
    """Compute the same result, one day at a time."""
    zone = ZoneInfo(calendar.timezone)
    moment = datetime.fromtimestamp(start // SECOND, zone)
    day, time, rest = moment.date(), moment.time(), start % SECOND
    if days == 0 and calendar.is_business_day(day):
        return start
    while not calendar.is_business_day(day):
        day, time, rest = day + timedelta(days=1), datetime.min.time(), 0
    for _ in range(days):
        day += timedelta(days=1)
        while not calendar.is_business_day(day):
            day += timedelta(days=1)
    return int(datetime.combine(day, time, zone).timestamp()) * SECOND + rest


@settings(derandomize=True, max_examples=300)
@given(calendars, instants, days)
def test_add_equals_stepping_day_by_day(calendar: BusinessCalendar, start: Instant, n: int) -> None:
    assert calendar.add(start, n) == walk(calendar, start, n)


@settings(derandomize=True, max_examples=200)
@given(calendars, st.dates(date(2025, 12, 1), date(2027, 2, 1)), st.integers(1, 60))
def test_subtract_equals_stepping_back_day_by_day(calendar: BusinessCalendar, due: date, n: int) -> None:
    day = due
    for _ in range(n):
        day -= timedelta(days=1)
        while not calendar.is_business_day(day):
            day -= timedelta(days=1)
    assert calendar.subtract(due, n) == from_datetime(
        datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(calendar.timezone))
    )


@settings(derandomize=True, max_examples=200)
@given(calendars, instants, days, days)
def test_adding_more_days_is_never_earlier(calendar: BusinessCalendar, start: Instant, n: int, more: int) -> None:
    assert start <= calendar.add(start, n) <= calendar.add(start, n + more)


@settings(derandomize=True, max_examples=200)
@given(calendars, instants, st.integers(0, 3 * DAY), days)
@example(BusinessCalendar(AMSTERDAM, weekend=EVERY_DAY), parse("2026-03-28T01:30:00Z"), HOUR // 2, 1)
def test_a_later_start_never_ends_earlier_except_in_a_clock_change(
    calendar: BusinessCalendar, start: Instant, later: int, n: int
) -> None:
    first, second = calendar.add(start, n), calendar.add(start + later, n)
    assert first < second + HOUR
    if calendar.timezone == "UTC" or later >= HOUR:
        assert first <= second


@settings(derandomize=True, max_examples=200)
@given(calendars, instants, days, days)
def test_days_may_be_added_in_two_steps(calendar: BusinessCalendar, start: Instant, n: int, m: int) -> None:
    middle, zone = calendar.add(start, n), ZoneInfo(calendar.timezone)
    first_times = [
        datetime.fromtimestamp(instant // SECOND, zone).time() for instant in (calendar.add(start, 0), middle)
    ]
    assume(first_times[0] == first_times[1])  # otherwise the middle fell into a clock change and moved
    assert calendar.add(middle, m) == calendar.add(start, n + m)

from datetime import datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bems.engine.timestamps import parse_timestamp, render_timestamp


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.1234567Z", 123_456),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T23:59:59Z", -1_000_000),
        ("2026-02-29T00:00:00Z", None),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01T00:00:60Z", None),
        ("2026-01-01t00:00:00Z", None),
        ("2026-01-01T00:00:00z", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01 00:00:00Z", None),
        ("2026-01-01", None),
        ("٢٠٢٦-01-01T00:00:00Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_parse(text: Any, instant: int | None) -> None:
    assert parse_timestamp(text) == instant


def test_milliseconds_are_rounded_down() -> None:
    assert render_timestamp(1_767_225_600_999_999) == "2026-01-01T00:00:00.999Z"


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**16))
def test_round_trip(instant: int) -> None:
    assert parse_timestamp(render_timestamp(instant)) == instant // 1000 * 1000


@settings(deadline=None, derandomize=True, database=None, max_examples=500)
@given(st.datetimes())
@example(datetime.min)
@example(datetime.max)
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999))
def test_rendering_is_that_of_datetime(moment: datetime) -> None:
    instant = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert render_timestamp(instant) == moment.isoformat(timespec="milliseconds") + "Z"


@pytest.mark.parametrize("instant", [-62_135_596_800_000_001, 253_402_300_800_000_000])
def test_years_out_of_range_raise(instant: int) -> None:
    with pytest.raises(OverflowError):
        render_timestamp(instant)


@freeze_time("2001-01-01", ignore=["_pytest"])
def test_the_clock_does_not_matter() -> None:
    assert render_timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert parse_timestamp("1970-01-01T00:00:00Z") == 0

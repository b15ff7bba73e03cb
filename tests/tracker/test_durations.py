import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.tracker.durations import BeforeDue, Duration, parse_deadline, parse_duration
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND


@pytest.mark.parametrize(
    ("text", "microseconds", "business_days"),
    [
        ("1s", SECOND, 0),
        ("90s", 90 * SECOND, 0),
        ("90m", 90 * MINUTE, 0),
        ("12h", 12 * HOUR, 0),
        ("3d", 3 * DAY, 0),
        ("3650d", 3650 * DAY, 0),
        ("315360000s", 3650 * DAY, 0),
        ("1bd", 0, 1),
        ("5bd", 0, 5),
        ("2600bd", 0, 2600),
    ],
)
def test_a_duration_has_a_fixed_length_or_a_number_of_business_days(
    text: str, microseconds: int, business_days: int
) -> None:
    duration = parse_duration(text)
    assert (duration.microseconds, duration.business_days) == (microseconds, business_days)
    assert str(duration) == text


def test_leading_zeros_do_not_matter() -> None:
    assert parse_duration("0000000000003d") == Duration(3, "d")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", '"" is not a duration: use a whole number and s, m, h, d'),
        ("3", "is not a duration"),
        ("d", "is not a duration"),
        ("3 d", "is not a duration"),
        (" 3d", "is not a duration"),
        ("3d\n", "is not a duration"),
        ("-3d", "is not a duration"),
        ("1.5d", "is not a duration"),
        ("3D", "is not a duration"),
        ("3w", "is not a duration"),
        ("٣d", "is not a duration"),
        ("1d12h", "is not a duration"),
        ("0s", '"0s" is not a positive duration: use at least 1s'),
        ("000bd", "use at least 1bd"),
        ("3651d", '"3651d" is too long: use at most 3650d'),
        ("87601h", "use at most 87600h"),
        ("2601bd", "use at most 2600bd"),
        ("9" * 5000 + "bd", "use at most 2600bd"),
        ("due", "counts back from the due date, as only a deadline may"),
        ("due-3bd", "counts back from the due date, as only a deadline may"),
    ],
)
def test_an_invalid_duration_is_refused_with_the_expected_form(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="use ") as refused:
        parse_duration(text)
    assert problem in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "deadline"),
    [
        ("3bd", Duration(3, "bd")),
        ("90m", Duration(90, "m")),
        ("due", BeforeDue()),
        ("due-3bd", BeforeDue(Duration(3, "bd"))),
        ("due-2d", BeforeDue(Duration(2, "d"))),
    ],
)
def test_a_deadline_counts_from_the_wait_or_back_from_the_due_date(text: str, deadline: Duration | BeforeDue) -> None:
    assert parse_deadline(text) == deadline
    assert str(deadline) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "or due, due-3bd or due-2d"),
        ("soon", '"soon" is not a deadline: use'),
        ("due+3bd", "is not a deadline"),
        ("due -3bd", "is not a deadline"),
        ("Due", "is not a deadline"),
        ("due-", '"" is not a duration: use'),
        ("due-due", "as only a deadline may"),
        ("due-0bd", "use at least 1bd"),
        ("due-2601bd", "use at most 2600bd"),
        ("0d", "use at least 1d"),
    ],
)
def test_an_invalid_deadline_is_refused_with_the_expected_form(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="use ") as refused:
        parse_deadline(text)
    assert problem in str(refused.value)


@pytest.mark.parametrize(("amount", "most"), [(0, "at least 1d"), (-1, "at least 1d"), (3651, "at most 3650d")])
def test_the_constructor_checks_the_bounds(amount: int, most: str) -> None:
    with pytest.raises(ValueError, match=most):
        Duration(amount, "d")


@settings(derandomize=True)
@given(st.text(alphabet="due-0123456789smhbd \n", max_size=12))
def test_every_deadline_round_trips_as_text(text: str) -> None:
    try:
        deadline = parse_deadline(text)
    except ValueError:
        return
    assert parse_deadline(str(deadline)) == deadline
    assert str(deadline) == text or "0" in text

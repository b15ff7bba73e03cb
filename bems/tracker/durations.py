"""Durations of a policy, such as `90s`, `90m`, `12h`, `3d` and `5bd`, and deadlines such as `due-3bd`.

A day (`d`) is 24 hours, even across a clock change. The length of a business day (`bd`) depends on a calendar.
"""

import re
from dataclasses import dataclass
from typing import Literal

from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND
from bems.validation.error_messages import format_value

DurationUnit = Literal["s", "m", "h", "d", "bd"]

MAX_DAYS = 3650
MAX_BUSINESS_DAYS = 2600

_MICROSECONDS: dict[DurationUnit, int] = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "bd": 0}
_UNITS: dict[str, DurationUnit] = {"s": "s", "m": "m", "h": "h", "d": "d", "bd": "bd"}
_DURATION = re.compile(r"([0-9]+)(s|m|h|d|bd)")
_EXPECTED_FORM = "a whole number and s, m, h, d (24 hours each) or bd (business days), such as 90m, 12h, 3d or 5bd"


@dataclass(frozen=True, slots=True)
class Duration:
    """Length of time: `amount` of `unit`.

    Raises ValueError below 1, and above 3650 days or 2600 business days.
    """

    amount: int
    unit: DurationUnit

    def __post_init__(self) -> None:
        if self.amount < 1:
            raise ValueError(f"{format_value(str(self))} is not a positive duration: use at least 1{self.unit}")
        if self.amount > _max_amount(self.unit):
            raise ValueError(f"{format_value(str(self))} is too long: use at most {_max_amount(self.unit)}{self.unit}")

    @property
    def business_days(self) -> int:
        """Number of business days; 0 for a duration of fixed length."""
        return self.amount if self.unit == "bd" else 0

    @property
    def microseconds(self) -> int:
        """Fixed length in microseconds; 0 for business days."""
        return self.amount * _MICROSECONDS[self.unit]

    def __str__(self) -> str:
        return f"{self.amount}{self.unit}"


@dataclass(frozen=True, slots=True)
class BeforeDue:
    """Deadline `offset` before 00:00 of an invoice's due date; None means that time itself."""

    offset: Duration | None = None

    def __str__(self) -> str:
        return "due" if self.offset is None else f"due-{self.offset}"


def parse_duration(text: str) -> Duration:
    """Parse a duration: `90m` is Duration(90, "m"). Raise ValueError that says what is expected."""
    match = _DURATION.fullmatch(text)
    if match is None:
        if text.startswith("due"):
            raise ValueError(
                f"{format_value(text)} counts back from the due date, as only a deadline may: use {_EXPECTED_FORM}"
            )
        raise ValueError(f"{format_value(text)} is not a duration: use {_EXPECTED_FORM}")
    digits, unit = match[1].lstrip("0") or "0", _UNITS[match[2]]
    if len(digits) > 9:
        raise ValueError(f"{format_value(text)} is too long: use at most {_max_amount(unit)}{unit}")
    return Duration(int(digits), unit)


def parse_deadline(text: str) -> Duration | BeforeDue:
    """Parse a deadline: `3bd` is Duration(3, "bd") from the start of the wait, `due-3bd` BeforeDue(Duration(3, "bd")).

    Raise ValueError that says what is expected.
    """
    if text == "due":
        return BeforeDue()
    if text.startswith("due-"):
        return BeforeDue(parse_duration(text.removeprefix("due-")))
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{format_value(text)} is not a deadline: use {_EXPECTED_FORM}, or due, due-3bd or due-2d")
    return parse_duration(text)


def _max_amount(unit: DurationUnit) -> int:
    return MAX_BUSINESS_DAYS if unit == "bd" else MAX_DAYS * DAY // _MICROSECONDS[unit]

"""Deadlines as users write them: `friday`, `+3d`, `+3bd`, a date, or an RFC 3339 time."""

import re
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple

import click

from bems.cli.files import TimeParam, read_policy_file
from bems.tracker.durations import Duration, parse_duration
from bems.tracker.instants import LATEST, Instant, from_datetime, to_datetime
from bems.tracker.policy import Policy

WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAYS_AHEAD = {"today": 0, "tomorrow": 1}
EXAMPLES = "use friday, tomorrow, +3d, +12h, +3bd, 2026-12-24 or 2026-12-24T12:00:00+01:00"

_DATE_LIKE = re.compile(r"[0-9]{4}-")

DeadlineInput = Instant | date | Duration | str
"""An instant; a date, which means its end; a duration from now; or a lower-case `today`, `tomorrow` or full weekday."""


class DeadlineParam(click.ParamType[DeadlineInput]):
    """Option type of a deadline in the future."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DeadlineInput:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        word = value.strip().lower()
        if word in DAYS_AHEAD:
            return word
        if len(word) >= 3 and (named := [day for day in WEEKDAY_NAMES if day.startswith(word)]):
            return named[0]
        if word.startswith("+"):
            try:
                return parse_duration(word[1:])
            except ValueError as wrong:
                self.fail(f"{value!r}: {wrong}", param, ctx)
        if not _DATE_LIKE.match(word):
            self.fail(f"{value!r} is not a time; {EXAMPLES}", param, ctx)
        return TimeParam().convert(value, param, ctx)


class ResolvedDeadline(NamedTuple):
    """An instant and a description of how it was calculated, empty for an exact time."""

    instant: Instant
    meaning: str


def is_relative(until: DeadlineInput) -> bool:
    """Return whether the deadline depends on the current time."""
    return isinstance(until, str | Duration)


def resolve_deadline(until: DeadlineInput, now: Instant, policy: Policy | None) -> ResolvedDeadline:
    """Return the instant that the input means at `now`.

    A day ends in the time zone of `policy`, or of this machine if `policy` is None. Business days are those of
    `policy`, or of the built-in policy if it is None.
    """
    if isinstance(until, Duration):
        if not until.business_days:
            return ResolvedDeadline(min(now + until.microseconds, LATEST), f"{until} from now")
        whose = "the policy's" if policy else "the built-in policy's"
        calendar = (policy or read_policy_file(None)).calendar
        meaning = f"{until} from now by {whose} calendar in {calendar.timezone}"
        return ResolvedDeadline(
            calendar.add(now, until.business_days), meaning + ("" if policy else "; choose another with --policy FILE")
        )
    if isinstance(until, str):
        today = to_datetime(now).astimezone().date() if policy is None else policy.calendar.local_date(now)
        until = today + timedelta(days=_days_ahead(until, today))
    if not isinstance(until, date):
        return ResolvedDeadline(until, "")
    meaning = f"the end of {until:%A} {until}"
    if policy is not None:
        return ResolvedDeadline(
            policy.calendar.subtract(until + timedelta(days=1), 0), f"{meaning} in {policy.calendar.timezone}"
        )
    end = datetime.combine(until + timedelta(days=1), time()).astimezone()
    offset = end.strftime("%z")
    return ResolvedDeadline(from_datetime(end), f"{meaning} in this machine's time zone, UTC{offset[:3]}:{offset[3:5]}")


def _days_ahead(name: str, today: date) -> int:
    """Return the days to the next day of that name, at least 1 for a weekday: on a Friday, `friday` is a week later."""
    if name in DAYS_AHEAD:
        return DAYS_AHEAD[name]
    return (WEEKDAY_NAMES.index(name) - today.weekday() - 1) % 7 + 1

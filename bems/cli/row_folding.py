"""Folds repeated alerts and states into one line each."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from bems.cli.output import format_duration
from bems.embedded.api.views import Alert, Transition

FRIDAY = 4
CYCLE_LENGTHS = (1, 2, 3, 4)
"""Lengths of the cycles of states that are folded."""

MAX_JITTER = timedelta(minutes=10)
"""Maximum difference between intervals that still count as equal; an alert may be raised late under load."""


def fold_alerts(rows: Iterable[Transition]) -> list[list[Transition]]:
    """Group consecutive alerts of one wait. Takes and returns rows of the series from newest to oldest."""
    folded: list[list[Transition]] = []
    for row in rows:
        newer = folded[-1][-1] if folded else None
        is_same_wait = (
            newer is not None
            and row.kind == newer.kind == "alert"
            and row.stage == newer.stage
            # A step that does not decrease belongs to an earlier wait.
            and 0 < (row.step or 0) < (newer.step or 0)
        )
        if is_same_wait:
            folded[-1].append(row)
        else:
            folded.append([row])
    return folded


def fold_waits(alerts: Iterable[Alert]) -> list[list[Alert]]:
    """Group the alerts of one wait, from newest to oldest. Disputes and failed postings are not grouped."""
    folded: list[list[Alert]] = []
    for alert in alerts:
        newer = folded[-1][-1] if folded else None
        is_same_wait = (
            newer is not None
            and alert.kind == newer.kind == "stuck"
            and (alert.stage, alert.waiting_since) == (newer.stage, newer.waiting_since)
        )
        if is_same_wait:
            folded[-1].append(alert)
        else:
            folded.append([alert])
    return folded


class FoldedState(NamedTuple):
    """A state, or a cycle of states, entered `times` times: first at `first_at`, last at `at`."""

    at: str
    state: str
    times: int = 1
    first_at: str = ""


def fold_states(states: Sequence[tuple[str, str]]) -> list[FoldedState]:
    """Fold the states that an execution entered, (time, name) from oldest to newest; return the newest first.

    Cycles of a few states are folded, such as a wait, its alert and the choice after it.
    """
    folded: list[FoldedState] = []
    start = 0
    while start < len(states):
        length, times = max(
            ((size, _repeats(states, start, size)) for size in CYCLE_LENGTHS), key=lambda found: found[1]
        )
        at, first_at = states[start + (times - 1) * length][0], states[start][0]
        block = [name for _, name in states[start : start + length]]
        if times == 1:
            folded.append(FoldedState(first_at, block[0]))
            start += 1
        else:
            folded.append(FoldedState(at, " > ".join(block), times, first_at))
            start += times * length
    return folded[::-1]


def _repeats(states: Sequence[tuple[str, str]], start: int, length: int) -> int:
    end = start + length
    while end < len(states) and states[end][1] == states[end - length][1]:
        end += 1
    return max(1, (end - start) // length)


def describe_cadence(times: Sequence[datetime]) -> str:
    """Describe the intervals between at least two times: `every business day`, `every 2d` or `within 3d 4h`.

    `times` are sorted from oldest to newest.
    """
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if max(gaps) - min(gaps) <= max(MAX_JITTER, min(gaps) / 20):
        return f"every {format_duration(sorted(gaps)[len(gaps) // 2].total_seconds())}".replace("every 1d", "every day")
    days = [time.date() for time in times]
    steps = {_weekdays_between(earlier, later) for earlier, later in pairwise(days)}
    # A public holiday makes an interval longer, so the shortest one counts.
    if all(day.weekday() <= FRIDAY for day in days) and min(steps) > 0 and max(steps) <= min(steps) + 2:
        return "every business day" if min(steps) == 1 else f"every {min(steps)} business days"
    return f"within {format_duration((times[-1] - times[0]).total_seconds())}"


def _weekdays_between(earlier: date, later: date) -> int:
    """Count the Mondays to Fridays after `earlier`, up to and including `later`."""
    days = (earlier + timedelta(days=number) for number in range(1, (later - earlier).days + 1))
    return sum(day.weekday() <= FRIDAY for day in days)

"""Repeated alerts and states are folded into one line."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from bems.cli.row_folding import describe_cadence, fold_alerts, fold_states, fold_waits
from bems.embedded.api.views import Alert, Transition
from bems.tracker.contract import Vendor
from tests.cli.cli_harness import CliHarness, event
from tests.waiting import until

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


def row(kind: Any, step: int | None = None, stage: Any = "authorization") -> Transition:
    return Transition("t", kind, stage, MONDAY, None, "AwaitingAuthorization", "1", "EUR", step=step)


def alert(step: int, kind: Any = "stuck", since: datetime = MONDAY) -> Alert:
    return Alert("a", "I", kind, "authorization", "warning", step, since, MONDAY, MONDAY, "1", "EUR", Vendor("V"))


def test_only_alerts_of_one_wait_are_folded() -> None:
    # Newest first: a wait with three alerts, and earlier waits, whose steps start again from 1.
    rows = [row("alert", 3), row("alert", 2), row("alert", 1), row("alert", 2), row("event"), row("alert", 1)]
    assert [len(one) for one in fold_alerts(rows)] == [3, 1, 1, 1]
    rows = [row("alert", 2, "posting"), row("alert", 1), row("alert"), row("alert")]
    assert [len(one) for one in fold_alerts(rows)] == [1, 1, 1, 1]
    earlier = MONDAY - timedelta(days=9)
    alerts = [alert(2), alert(1), alert(2, since=earlier), alert(0, "dispute"), alert(0, "dispute")]
    assert [len(one) for one in fold_waits(alerts)] == [2, 1, 1, 1]


def test_cycles_of_states_are_folded() -> None:
    states = [("1", "A"), ("2", "S"), ("3", "A"), ("4", "S"), ("5", "A"), ("6", "R")]
    assert [(one.at, one.state, one.times, one.first_at) for one in fold_states(states)] == [
        ("6", "R", 1, ""),
        ("5", "A", 1, ""),
        ("3", "A > S", 2, "1"),
    ]
    assert [one.times for one in fold_states([("1", "A")] * 5)] == [5]
    assert fold_states([]) == []


@pytest.mark.parametrize(
    ("days", "text"),
    [
        ((0, 1, 2, 3, 4, 7, 8), "every business day"),
        ((0, 1, 2, 3, 4, 7, 9), "every business day"),
        ((0, 2, 4, 8, 10), "every 2 business days"),
        ((0, 1, 2), "every day"),
        ((0, 2, 4, 6), "every 2d"),
        ((0, 1, 5, 6), "within 6d"),
        ((0, 0.25, 0.5), "every 6h"),
    ],
)
def test_intervals_between_alerts_are_described(days: tuple[float, ...], text: str) -> None:
    assert describe_cadence([MONDAY + timedelta(days=day) for day in days]) == text


def test_fourteen_alerts_of_a_wait_share_one_line(impatient: CliHarness) -> None:
    impatient.send(event("e", invoice_id="I"))
    # Due on Thursday 5 March at 10:00, then on every business day at that time.
    days = [day for day in range(5, 25) if date(2026, 3, day).weekday() < 5]
    for number, day in enumerate(days, 1):
        impatient.advance_to(f"2026-03-{day:02}T11:00:00Z")
        until(lambda number=number: len(impatient.bems("alerts", "--json").json["items"]) == number)  # type: ignore[misc]
    assert len(days) == 14
    lines = [" ".join(line.split()) for line in impatient.bems("invoice", "I").out.splitlines()]
    folded = [line for line in lines if "alerts 1 to 14" in line]
    assert len(folded) == 1
    assert "of authorization, every business day, last critical AwaitingAuthorization" in folded[0]
    assert len([line for line in lines if "authorization stuck, 1 to" in line]) == 1
    assert (
        len(
            [
                line
                for line in lines
                if "AwaitAuthorization > AuthorizationStuck > AuthorizationEscalated, 14 times since " in line
            ]
        )
        == 1
    )
    assert len(lines) < 40

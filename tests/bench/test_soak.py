"""Soak test: its events and the evaluation of its samples."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from bems.tracker.contract import STAGES, Event
from bems.tracker.instants import from_datetime
from bems.tracker.parsing import parse_event
from bench.figures import soak
from bench.figures.soak import (
    OPEN_ONE_IN,
    PATTERN,
    STUCK_ONE_IN,
    Sample,
    describe_curve,
    endless_events,
    slope_per_hour,
)


def test_events_are_of_new_invoices_and_occur_when_they_are_taken() -> None:
    now = datetime.now(UTC)
    clock = iter(now + timedelta(seconds=second) for second in range(100_000))
    events = list(islice(endless_events(lambda: next(clock)), 2 * 4 * PATTERN))
    assert len({event.event_id for event in events}) == len(events)
    later = from_datetime(now + timedelta(days=2))
    for number in (0, 1, 4_000, len(events) - 1):
        parsed = parse_event(events[number].stage, events[number].body, later)  # type: ignore[arg-type]
        assert isinstance(parsed, Event)
        assert (parsed.event_id, parsed.invoice_id) == (events[number].event_id, events[number].invoice_id)
        assert parsed.occurred_at // 1_000_000 == from_datetime(now + timedelta(seconds=number)) // 1_000_000
    stages = Counter(event.stage for event in events if event.invoice_id.startswith("S0/"))
    stuck, left = PATTERN // STUCK_ONE_IN, PATTERN // OPEN_ONE_IN - PATTERN // STUCK_ONE_IN
    assert stages == {
        **dict.fromkeys(STAGES[1:3], PATTERN - stuck),
        STAGES[0]: PATTERN,
        STAGES[3]: PATTERN - stuck - left,
    }
    assert sum(b'"HURRIED"' in event.body for event in events if event.invoice_id.startswith("S1/")) == stuck


def test_the_slope_is_that_of_the_regression_line() -> None:
    rising = [Sample(second, 100 + second / 360) for second in range(0, 3_600, 10)]
    assert slope_per_hour(rising) == pytest.approx(10)
    noisy = [Sample(one.seconds, 100 + (number % 2) * 5) for number, one in enumerate(rising)]
    assert abs(slope_per_hour(noisy)) < 0.5
    assert describe_curve(rising).startswith("0.0: 100 MB<br>") and describe_curve(rising).endswith("59.8: 110 MB")
    assert describe_curve(rising[:2]) == "0.0: 100 MB<br>0.2: 100 MB"


def test_a_short_soak_of_a_real_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.2)
    monkeypatch.setattr(soak, "QUERY_SECONDS", 0.01)
    monkeypatch.setattr(soak, "WARM_UP_MINUTES", 0.02)
    load, curve, growth = soak.measure(tmp_path, minutes=0.05, rate=200)
    assert load.is_met and "accepted, 0 not" in load.measured
    assert " MB<br>" in curve.measured
    assert "MB an hour" in growth.measured and growth.is_met is not None

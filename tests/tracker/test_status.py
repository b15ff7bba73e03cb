"""Tests of the status: a pure function of four outcomes, in any order of arrival."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.tracker.contract import FAILURE_STATUS, STAGES, SUCCESS_STATUS, Event, Stage
from bems.tracker.decisions import on_event
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import WAITS_FOR, Outcome, Outcomes, Status, status_of, supersedes
from tests.tracker.samples import DAY, NOW, POLICY, event

TABLE: list[tuple[str, Status]] = [
    ("", "Orphan"),
    ("approved matched posted", "Orphan"),
    ("cancelled", "Cancelled"),
    ("cancelled approved matched posted", "Cancelled"),
    ("received", "AwaitingAuthorization"),
    ("received matched posted", "AwaitingAuthorization"),
    ("received rejected", "Rejected"),
    ("received rejected matched posted", "Rejected"),
    ("received approved", "AwaitingReconciliation"),
    ("received approved posted", "AwaitingReconciliation"),
    ("received approved mismatched", "Disputed"),
    ("received approved mismatched posted", "Disputed"),
    ("received approved matched", "AwaitingPosting"),
    ("received approved matched failed", "PostingFailed"),
    ("received approved matched posted", "Posted"),
]

STAGE_OF: dict[str, Stage] = {
    outcome: stage for names in (SUCCESS_STATUS, FAILURE_STATUS) for stage, outcome in names.items()
}


def registers(outcomes: str) -> Outcomes:
    return {STAGE_OF[status]: Outcome(status, status, NOW, NOW) for status in outcomes.split()}


@pytest.mark.parametrize(("outcomes", "status"), TABLE)
def test_status(outcomes: str, status: Status) -> None:
    assert status_of(registers(outcomes)) == status


def test_every_status_has_an_entry_in_waits_for() -> None:
    assert {status for _, status in TABLE} == set(WAITS_FOR)


def test_the_later_outcome_wins() -> None:
    early, late = Outcome("rejected", "z", NOW, NOW), Outcome("approved", "a", NOW + 1, NOW)
    assert supersedes("authorization", late, early)
    assert not supersedes("authorization", early, late)


def test_at_equal_times_the_negative_outcome_wins() -> None:
    good, bad = Outcome("approved", "z", NOW, NOW), Outcome("rejected", "a", NOW, NOW)
    assert supersedes("authorization", bad, good)
    assert not supersedes("authorization", good, bad)


def test_at_equal_times_and_outcomes_the_greater_event_id_wins() -> None:
    assert supersedes("posting", Outcome("posted", "b", NOW, NOW), Outcome("posted", "a", NOW, NOW))
    assert not supersedes("posting", Outcome("posted", "a", NOW, NOW), Outcome("posted", "a", NOW, NOW + 5))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    kinds = st.tuples(st.sampled_from(STAGES), st.booleans(), st.integers(0, 3))
    drawn = draw(st.lists(kinds, min_size=1, max_size=8))
    return [
        event(stage, (SUCCESS_STATUS if good else FAILURE_STATUS)[stage], NOW + day * DAY, f"e{number}")
        for number, (stage, good, day) in enumerate(drawn)
    ]


def run(events: list[Event], delays: list[int]) -> InvoiceRecord:
    record, now = None, NOW
    for one, delay in zip(events, delays, strict=True):
        now += delay
        record = on_event(record, one, POLICY, now).record
    assert record
    return record


@given(events=histories(), data=st.data())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_any_order_repetition_and_delay_ends_in_the_same_outcomes(events: list[Event], data: st.DataObject) -> None:
    other = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=5))))
    delays = st.lists(st.integers(0, 40 * DAY), min_size=len(other), max_size=len(other))
    straight, shuffled = run(events, [0] * len(events)), run(other, data.draw(delays))
    assert shuffled.outcomes == straight.outcomes
    assert status_of(shuffled.outcomes) == status_of(straight.outcomes)
    assert shuffled.facts == straight.facts


def test_every_order_of_a_reversed_rejection_ends_approved() -> None:
    events = [
        event("ingestion", "received", NOW),
        event("authorization", "rejected", NOW + DAY),
        event("authorization", "approved", NOW + 2 * DAY),
        event("reconciliation", "matched", NOW + 3 * DAY),
    ]
    for order in permutations(events):
        assert status_of(run(list(order), [0] * 4).outcomes) == "AwaitingPosting"

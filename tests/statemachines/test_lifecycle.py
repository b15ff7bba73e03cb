"""Scenarios of the lifecycle: definition, engine and core together, on freezegun's clock."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest

from bems.calendars import expand
from bems.tracker.config import read_policy
from tests.statemachines.conftest import Start
from tests.tracker.samples import FIRST_SPEC, facts, plain_policy

HAPPY = ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
MONDAY = "2026-03-02T09:00:00Z"
DUTCH = expand(FIRST_SPEC)


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_the_happy_path_is_four_states(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    for stage, status in (
        ("ingestion", "received"),
        ("authorization", "approved"),
        ("reconciliation", "matched"),
        ("posting", "posted"),
    ):
        assert invoice.send(stage, status).result == "accepted"  # type: ignore[arg-type]
        invoice.advance(hours=5)
    assert invoice.states() == HAPPY
    assert invoice.execution_status() == "SUCCEEDED"
    assert invoice.status == "Posted"
    assert invoice.alerts == []


def test_early_events_are_answered_at_once(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("reconciliation", "matched")
    invoice.send("authorization", "approved")
    invoice.send("ingestion", "received")
    assert invoice.states() == HAPPY[:3]
    invoice.send("posting", "posted")
    assert invoice.states() == HAPPY


def test_a_thirty_day_wait_times_out_in_milliseconds(start: Start) -> None:
    invoice = start(MONDAY, plain_policy(deadline="30d"))
    invoice.send("ingestion", "received")
    before = time.perf_counter_ns()
    invoice.advance(days=30)
    assert invoice.alerts == [("stuck", "authorization", 1, "warning")]
    assert invoice.due_at() == [datetime(2026, 4, 1, 9, tzinfo=UTC)]
    # freezegun also freezes perf_counter, so this difference shows that nothing slept.
    assert time.perf_counter_ns() - before == timedelta(days=30) // timedelta(microseconds=1) * 1000


def test_a_wait_longer_than_thirty_days_wakes_early_and_raises_nothing(start: Start) -> None:
    invoice = start(MONDAY, plain_policy(deadline="75d"))
    invoice.send("ingestion", "received")
    invoice.advance(days=74)
    assert invoice.alerts == []
    assert (
        invoice.states()
        == ["AwaitAuthorization"] + ["AuthorizationStuck", "AuthorizationEscalated", "AwaitAuthorization"] * 2
    )
    invoice.advance(days=1)
    assert invoice.alerts == [("stuck", "authorization", 1, "warning")]


def test_a_late_event_continues_after_an_alert(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.advance(days=3)
    assert invoice.alerts == [("stuck", "authorization", 1, "warning")]
    invoice.advance(hours=12)
    invoice.send("authorization", "approved")
    assert invoice.status == "AwaitingReconciliation"
    assert invoice.states() == [
        "AwaitAuthorization",
        "AuthorizationStuck",
        "AuthorizationEscalated",
        "AwaitAuthorization",
        "AwaitReconciliation",
    ]
    assert invoice.alerts[1:] == [("resolved", "authorization", 1, "warning")]


def test_two_escalations_turn_critical(start: Start) -> None:
    invoice = start(MONDAY, plain_policy(critical_at=3, give_up_at=9))
    invoice.send("ingestion", "received")
    invoice.advance(days=5)
    assert invoice.alerts == [
        ("stuck", "authorization", 1, "warning"),
        ("stuck", "authorization", 2, "warning"),
        ("stuck", "authorization", 3, "critical"),
    ]


def test_a_parked_invoice_is_revived_by_the_next_event(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.advance(days=60)
    assert [step for _, _, step, _ in invoice.alerts] == [1, 2, 3]
    assert invoice.record.mark == "parked"
    assert invoice.states()[-1] == "Parked"
    assert invoice.execution_status() == "SUCCEEDED"
    assert invoice.store.next_due() is None
    invoice.send("authorization", "approved")
    assert invoice.record.mark is None
    assert invoice.states(run=2) == ["AwaitAuthorization", "AwaitReconciliation"]
    invoice.advance(days=3)
    assert invoice.alerts[-1] == ("stuck", "reconciliation", 1, "warning")


def test_a_dispute_and_its_repair(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "approved")
    invoice.advance(days=2)
    invoice.send("reconciliation", "mismatched")
    assert invoice.status == "Disputed"
    assert invoice.alerts == [("dispute", "reconciliation", 0, "warning")]
    invoice.advance(days=2, hours=23)
    assert len(invoice.alerts) == 1, "the wait of the stage restarts"
    invoice.send("reconciliation", "matched")
    assert invoice.states() == [
        "AwaitAuthorization",
        "AwaitReconciliation",
        "ReconciliationDisputed",
        "AwaitReconciliation",
        "AwaitPosting",
    ]


def test_an_unresolved_dispute_gets_stuck(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "approved")
    invoice.send("reconciliation", "mismatched")
    invoice.advance(days=3)
    assert invoice.alerts == [("dispute", "reconciliation", 0, "warning"), ("stuck", "reconciliation", 1, "warning")]


def test_a_mismatch_that_arrives_while_posting_is_awaited(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "approved")
    invoice.send("reconciliation", "matched")
    invoice.advance(days=1)
    invoice.send("reconciliation", "mismatched")
    assert invoice.states()[-3:] == ["AwaitPosting", "ReconciliationDisputed", "AwaitReconciliation"]
    invoice.send("posting", "posted")
    assert invoice.status == "Disputed"
    invoice.advance(days=1)
    invoice.send("reconciliation", "matched")
    assert invoice.status == "Posted"
    assert invoice.states()[-2:] == ["AwaitPosting", "Posted"]


def test_a_failed_posting_is_reported_and_repaired(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "approved")
    invoice.send("reconciliation", "matched")
    invoice.send("posting", "failed")
    assert invoice.alerts == [("failed", "posting", 0, "warning")]
    invoice.advance(hours=1)
    invoice.send("posting", "posted")
    assert invoice.states()[-4:] == ["AwaitPosting", "PostingFailed", "AwaitPosting", "Posted"]


def test_a_rejection_reversed(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "rejected")
    assert invoice.status == "Rejected"
    assert invoice.states() == ["AwaitAuthorization", "Rejected"]
    assert invoice.execution_status() == "SUCCEEDED", "a rejected invoice is a result, not a failed execution"
    invoice.advance(days=40)
    assert invoice.alerts == []
    invoice.send("authorization", "approved")
    assert invoice.states(run=2) == ["AwaitAuthorization", "AwaitReconciliation"]


def test_an_approval_withdrawn_while_posting_is_awaited(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    invoice.send("authorization", "approved")
    invoice.send("reconciliation", "matched")
    invoice.advance(hours=1)
    invoice.send("authorization", "rejected")
    assert invoice.status == "Rejected"
    assert invoice.states()[-2:] == ["AwaitPosting", "Rejected"]


@pytest.mark.parametrize("events", range(4))
def test_a_cancellation_ends_every_wait(start: Start, events: int) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("ingestion", "received")
    if events > 0:
        invoice.send("authorization", "approved")
    if events > 1:
        invoice.send("reconciliation", "matched" if events == 2 else "mismatched")
    invoice.advance(hours=1)
    invoice.send("ingestion", "cancelled")
    assert invoice.status == "Cancelled"
    assert invoice.states()[-1] == "Cancelled"


def test_an_old_run_is_superseded(start: Start) -> None:
    invoice = start(MONDAY, plain_policy(deadline="300d", escalate_every="90d", give_up_at=5))
    invoice.send("ingestion", "received")
    invoice.advance(days=299)
    assert invoice.record.run.number == 1
    invoice.advance(days=2)
    assert invoice.record.run.number == 2, "a run older than 300 days is replaced"
    assert invoice.states(run=1)[-1] == "Superseded"
    assert invoice.states(run=2)[0] == "AwaitAuthorization"
    assert [step for _, _, step, _ in invoice.alerts] == [1], "the alert of day 300 is raised once"


def test_an_orphan_is_alerted_and_parked_until_its_ingestion_arrives(start: Start) -> None:
    invoice = start(MONDAY, plain_policy())
    invoice.send("posting", "posted")
    invoice.advance(days=10)
    assert invoice.alerts == [
        ("stuck", "ingestion", 1, "warning"),
        ("stuck", "ingestion", 2, "critical"),
        ("stuck", "ingestion", 3, "critical"),
    ]
    assert invoice.record.mark == "parked"
    invoice.send("ingestion", "received")
    assert invoice.states() == ["AwaitAuthorization"]


# -- business time


def test_days_off_do_not_count(start: Start) -> None:
    # From Maundy Thursday: Good Friday, the weekend and Easter Monday are off.
    invoice = start("2026-04-02T08:00:00Z", DUTCH)
    invoice.send("ingestion", "received")
    invoice.advance(days=14)
    assert invoice.due_at()[:2] == [local("2026-04-09T10:00+02:00"), local("2026-04-10T10:00+02:00")]


def test_the_local_hour_is_kept_over_daylight_saving(start: Start) -> None:
    # Summer time begins on Sunday 2026-03-29 in Amsterdam: 09:00 there is 08:00Z before and 07:00Z after.
    invoice = start("2026-03-27T08:00:00Z", DUTCH)
    invoice.send("ingestion", "received")
    invoice.advance(days=5)
    assert invoice.due_at() == [local("2026-04-01T09:00+02:00")]


def test_a_wait_that_begins_on_a_day_off_starts_with_the_next_business_day(start: Start) -> None:
    invoice = start("2026-02-28T15:00:00Z", DUTCH)
    invoice.send("ingestion", "received")
    invoice.advance(days=6)
    assert invoice.due_at()[0] == local("2026-03-05T00:00+01:00")


def test_an_override_shortens_the_deadline(start: Start) -> None:
    gold = facts(amount=facts().amount * 10, tier="gold")
    text = "stages: {authorization: {overrides: [{when: {vendor_tier: gold}, deadline: 1bd}]}}"
    invoice = start(MONDAY, expand(read_policy(text, "policy.yaml")))
    invoice.send("ingestion", "received", gold)
    invoice.advance(days=1)
    assert invoice.due_at() == [local("2026-03-03T10:00+01:00")]


def test_posting_is_due_three_business_days_before_the_due_date(start: Start) -> None:
    invoice = start(MONDAY, DUTCH)
    terms = facts(due=date(2026, 3, 31))
    invoice.send("ingestion", "received", terms)
    invoice.send("authorization", "approved", terms)
    invoice.send("reconciliation", "matched", terms)
    invoice.advance(days=24)
    assert invoice.due_at() == [local("2026-03-26T00:00+01:00")]
    assert invoice.alerts == [("stuck", "posting", 1, "warning")]


def test_posting_without_a_due_date_counts_from_the_ingestion(start: Start) -> None:
    invoice = start(MONDAY, DUTCH)
    invoice.send("ingestion", "received", facts(days=14))
    invoice.advance(days=2)
    invoice.send("authorization", "approved", facts())
    invoice.send("reconciliation", "matched", facts())
    invoice.advance(days=7)
    assert invoice.due_at() == [local("2026-03-11T00:00+01:00")], "2026-03-16 less three business days"


def test_a_due_date_in_the_past_leaves_a_day(start: Start) -> None:
    invoice = start(MONDAY, DUTCH)
    late = facts(due=date(2026, 1, 31))
    for stage, status in (("ingestion", "received"), ("authorization", "approved"), ("reconciliation", "matched")):
        invoice.send(stage, status, late)  # type: ignore[arg-type]
    invoice.advance(days=1)
    assert invoice.due_at() == [datetime(2026, 3, 3, 9, tzinfo=UTC)]


def test_a_policy_file_is_applied(start: Start) -> None:
    text = "calendar: {country: US, timezone: America/New_York}\nstages: {authorization: {deadline: 2bd}}"
    invoice = start("2026-07-02T13:00:00Z", expand(read_policy(text, "policy.yaml")))
    invoice.send("ingestion", "received")
    invoice.advance(days=6)
    # Friday 3 July is the observed holiday of a Saturday's Independence Day.
    assert invoice.due_at()[0] == local("2026-07-07T09:00-04:00")

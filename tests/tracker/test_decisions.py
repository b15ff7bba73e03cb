"""Tests of single decisions: the record, the actions, the transitions and the answer."""

import dataclasses
import itertools
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from bems.tracker.actions import Alert, RaiseAlert, SendTaskAnswer, StartExecution
from bems.tracker.commands import (
    Acknowledge,
    AddNote,
    Assign,
    Cancel,
    Command,
    Complete,
    Extend,
    Park,
    Revive,
    Snooze,
    Verb,
)
from bems.tracker.contract import Actor, Buyer, Event, Facts, Payment, PaymentTerms, Reason, Source, Stage, Vendor
from bems.tracker.decisions import (
    ACCEPTED,
    CONFLICT,
    DUPLICATE,
    NextStep,
    Receipt,
    WaitRequest,
    on_command,
    on_dispute,
    on_event,
    on_sweep,
    on_timeout,
    on_wait,
)
from bems.tracker.instants import DAY, HOUR, SECOND, Instant, render
from bems.tracker.policy import Policy, When
from bems.tracker.record import MAX_REMEMBERED_COMMANDS, MAX_REMEMBERED_EVENTS, InvoiceRecord, Note, Parked
from bems.tracker.record_builder import GRACE_PERIOD, MAX_RUN_AGE, MAX_SILENCE, Decision, clear_pending
from bems.tracker.status import status_of
from tests.tracker.samples import FACTS, NOW, POLICY, event, facts, plain_policy

RECEIVED = event("ingestion", "received")
APPROVED = event("authorization", "approved", NOW + HOUR)
MATCHED = event("reconciliation", "matched", NOW + 2 * HOUR)
POSTED = event("posting", "posted", NOW + 3 * HOUR)
REJECTED = event("authorization", "rejected", NOW + HOUR)
MISMATCHED = event("reconciliation", "mismatched", NOW + 2 * HOUR)
FAILED = event("posting", "failed", NOW + 3 * HOUR)
CLOSED = (RECEIVED, APPROVED, MATCHED, POSTED)
DEADLINE = NOW + 3 * DAY


def after(*events: Event, now: Instant | None = None, record: InvoiceRecord | None = None) -> InvoiceRecord:
    """Return the record after events, with all its actions carried out."""
    for given in events:
        at = given.received_at if now is None else now
        record = saved(on_event(record, given, POLICY, at), at)
    assert record
    return record


def saved(decision: Decision[Any], now: Instant) -> InvoiceRecord:
    assert decision.record
    return clear_pending(decision.record, now) if decision.record.pending else decision.record


def waiting(record: InvoiceRecord, stage: Stage, token: str = "T", now: Instant = NOW) -> InvoiceRecord:
    """Return the record after its newest run has registered a wait that has no answer yet."""
    decision = on_wait(record, WaitRequest(record.run.number, stage, token, (now, 0)), POLICY, now)
    assert decision.actions == ()
    return saved(decision, now)


def raised(decision: Decision[Any]) -> list[Alert]:
    return [action.alert for action in decision.actions if isinstance(action, RaiseAlert)]


def alerts(decision: Decision[Any]) -> list[tuple[str, int, str, Instant]]:
    return [(alert.kind, alert.step, alert.severity, alert.due_at) for alert in raised(decision)]


# -- events


def test_an_ingestion_starts_a_run() -> None:
    decision = on_event(None, RECEIVED, POLICY, NOW)
    assert decision.answer == ACCEPTED
    assert decision.actions == (StartExecution("INV-1", 1, 3 * DAY // SECOND),)
    record = decision.record
    assert record and record.pending == decision.actions
    assert record.version == 1
    assert record.wait and (record.wait.stage, record.wait.deadline) == ("authorization", DEADLINE)
    assert record.check_at == NOW + GRACE_PERIOD


def test_an_orphan_waits_for_its_ingestion_without_a_run() -> None:
    decision = on_event(None, APPROVED, POLICY, NOW)
    assert decision.actions == ()
    assert decision.record and decision.record.run.state == "none"
    assert decision.record.wait and decision.record.wait.stage == "ingestion"
    assert decision.record.check_at == DEADLINE


def test_a_repeat_is_a_duplicate_and_changes_nothing() -> None:
    record = after(RECEIVED)
    decision = on_event(record, RECEIVED, POLICY, NOW)
    assert decision.answer == DUPLICATE
    assert decision.record is record


def test_a_repeat_with_other_content_is_a_conflict() -> None:
    record = after(RECEIVED)
    other = structs.replace(RECEIVED, digest="other")
    decision = on_event(record, other, POLICY, NOW)
    assert decision.answer == CONFLICT
    assert decision.record is record


def test_a_repeat_carries_out_pending_actions() -> None:
    first = on_event(None, RECEIVED, POLICY, NOW)
    again = on_event(first.record, RECEIVED, POLICY, NOW)
    assert again.actions == first.actions != ()


def test_the_next_decision_keeps_pending_actions() -> None:
    first = on_event(None, RECEIVED, POLICY, NOW)
    second = on_event(first.record, APPROVED, POLICY, NOW)
    assert second.record and second.record.pending[: len(first.actions)] == first.actions


def test_a_record_remembers_the_newest_event_ids() -> None:
    many = [event("authorization", "rejected", NOW - n, f"e{n}") for n in range(MAX_REMEMBERED_EVENTS + 8)]
    record = after(RECEIVED, *many, now=NOW)
    assert len(record.recent_event_ids) == MAX_REMEMBERED_EVENTS
    assert record.recent_event_ids[-1][0] == f"e{MAX_REMEMBERED_EVENTS + 7}"


def test_a_superseded_event_changes_no_outcome_but_has_a_row() -> None:
    record = after(RECEIVED, APPROVED)
    old = event("authorization", "rejected", NOW, "old")
    decision = on_event(record, old, POLICY, NOW + DAY)
    assert decision.record and decision.record.outcomes == record.outcomes
    (row,) = decision.transitions
    assert (row.superseded, row.outcome, row.from_status, row.to_status) == (
        True,
        "rejected",
        "AwaitingReconciliation",
        "AwaitingReconciliation",
    )


def test_an_event_answers_the_execution_that_waits_for_it() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_event(record, APPROVED, POLICY, NOW + HOUR)
    assert decision.actions == (SendTaskAnswer("T", "ok", NOW + HOUR + 3 * DAY),)
    assert decision.record and decision.record.run.token is None
    assert decision.record.run.state == "open"


@pytest.mark.parametrize(
    ("events", "answer"), [([REJECTED], "Rejected"), ([event("ingestion", "cancelled", NOW + DAY)], "Cancelled")]
)
def test_a_terminal_event_ends_the_run(events: list[Event], answer: str) -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_event(record, events[0], POLICY, NOW + DAY)
    assert [action.answer for action in decision.actions if isinstance(action, SendTaskAnswer)] == [answer]
    assert decision.record and decision.record.run.state == "closing"
    assert decision.record.wait is None


def test_a_rejection_reversed_starts_the_next_run() -> None:
    record = after(REJECTED, record=waiting(after(RECEIVED), "authorization"))
    assert status_of(record.outcomes) == "Rejected"
    reversal = event("authorization", "approved", NOW + 2 * DAY)
    decision = on_event(record, reversal, POLICY, NOW + 2 * DAY)
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [2]


def test_a_late_cancellation_of_a_posted_invoice_cancels_it() -> None:
    record = after(RECEIVED, APPROVED, MATCHED, POSTED)
    assert status_of(record.outcomes) == "Posted"
    record = after(event("ingestion", "cancelled", NOW + DAY), record=record)
    assert status_of(record.outcomes) == "Cancelled"


def test_payment_terms_survive_an_event_that_states_none() -> None:
    with_terms = event("ingestion", "received", facts=facts(days=14))
    record = after(with_terms, APPROVED)
    assert record.facts.payment_terms and record.facts.payment_terms.days == 14
    assert record.facts_version == (APPROVED.occurred_at, APPROVED.event_id)


def test_older_payment_terms_do_not_overwrite_newer_ones() -> None:
    new = event("authorization", "approved", NOW + HOUR, facts=facts(days=60))
    old = event("ingestion", "received", NOW, facts=facts(days=14))
    for order in ((new, old), (old, new)):
        record = after(*order)
        assert record.facts.payment_terms and record.facts.payment_terms.days == 60


def test_the_vendors_tier_survives_an_event_that_states_none() -> None:
    gold = event("ingestion", "received", facts=facts(tier="gold"))
    silent = event("authorization", "approved", NOW + HOUR, facts=facts(tier=None))
    for order in ((gold, silent), (silent, gold)):
        assert after(*order).facts.vendor.tier == "gold"


def test_the_tier_of_another_vendor_is_not_kept() -> None:
    gold = event("ingestion", "received", facts=facts(tier="gold"))
    other = facts(tier=None)
    other = structs.replace(other, vendor=Vendor("V-OTHER"))
    assert after(gold, event("authorization", "approved", NOW + HOUR, facts=other)).facts.vendor.tier is None


def test_a_row_of_an_old_event_has_its_own_facts() -> None:
    record = after(event("authorization", "approved", NOW + HOUR, facts=facts(currency="USD")))
    decision = on_event(record, event("ingestion", "received", facts=facts(currency="EUR")), POLICY, NOW + HOUR)
    assert decision.transitions[0].currency == "EUR"


def test_facts_are_those_of_the_newest_event_whatever_the_order() -> None:
    new = event("authorization", "approved", NOW + HOUR, facts=facts(currency="USD"))
    old = event("ingestion", "received", NOW, facts=facts(currency="EUR", days=10))
    assert after(new, old).facts == after(old, new).facts == facts(currency="USD", days=10)


# -- waits


def test_a_complete_stage_answers_its_wait_at_once() -> None:
    record = after(RECEIVED, APPROVED, MATCHED)
    decision = on_wait(record, WaitRequest(1, "authorization", "T", (NOW, 0)), POLICY, NOW)
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["ok"]


def test_the_posting_wait_of_a_posted_invoice_ends_the_run() -> None:
    record = after(RECEIVED, APPROVED, MATCHED, POSTED)
    decision = on_wait(record, WaitRequest(1, "posting", "T", (NOW, 0)), POLICY, NOW)
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["ok"]
    assert decision.record and decision.record.run.state == "closing"


def test_a_wait_of_a_later_stage_is_answered_mismatched_reported_or_not() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    for reported in ({}, {"reconciliation": MISMATCHED.event_id}):
        actions = on_wait(
            structs.replace(record, reported_disputes=reported), WaitRequest(1, "posting", "T", (NOW, 0)), POLICY, NOW
        ).actions
        assert [a.answer for a in actions if isinstance(a, SendTaskAnswer)] == ["Mismatched"]


def test_a_wait_of_an_older_run_is_answered_superseded() -> None:
    record = structs.replace(after(RECEIVED), run=structs.replace(after(RECEIVED).run, number=2))
    decision = on_wait(record, WaitRequest(1, "authorization", "old", (NOW, 0)), POLICY, NOW)
    assert [(a.token, a.answer) for a in decision.actions if isinstance(a, SendTaskAnswer)] == [("old", "Superseded")]
    assert decision.record and decision.record.run == record.run


def test_a_wait_without_a_record_is_answered_superseded() -> None:
    decision = on_wait(None, WaitRequest(1, "authorization", "T", (NOW, 0)), POLICY, NOW)
    assert decision.record is None
    assert decision.actions == (SendTaskAnswer("T", "Superseded", NOW),)


def test_an_older_stamp_is_a_late_repeat() -> None:
    record = waiting(after(RECEIVED, APPROVED), "reconciliation", "new", NOW + HOUR)
    decision = on_wait(record, WaitRequest(1, "authorization", "old", (NOW, 3)), POLICY, NOW + HOUR)
    assert decision.record is record
    assert record.run.token == "new"


def test_an_equal_stamp_registers() -> None:
    record = waiting(after(RECEIVED), "authorization", "first")
    record = waiting(record, "authorization", "second")
    assert record.run.token == "second"


# -- timeouts


def test_a_timeout_raises_the_alert_and_waits_on() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE)
    assert alerts(decision) == [("stuck", 1, "warning", DEADLINE)]
    assert decision.answer == NextStep("Await", DEADLINE + DAY)
    assert decision.answer.payload(DEADLINE) == {"next": "Await", "deadline_seconds": 86400}


def test_a_wait_that_woke_early_receives_the_remaining_time() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE - 90 * SECOND)
    assert decision.actions == ()
    assert decision.answer.payload(DEADLINE - 90 * SECOND) == {"next": "Await", "deadline_seconds": 90}


def test_seconds_are_rounded_up_at_least_one_at_most_thirty_days() -> None:
    assert NextStep("Await", NOW + 1).payload(NOW)["deadline_seconds"] == 1
    assert NextStep("Await", NOW - DAY).payload(NOW)["deadline_seconds"] == 1
    assert NextStep("Await", NOW + SECOND + 1).payload(NOW)["deadline_seconds"] == 2
    assert NextStep("Await", NOW + 31 * DAY).payload(NOW)["deadline_seconds"] == 30 * 86400


def test_a_late_request_raises_only_the_alert_of_the_step_reached() -> None:
    record = waiting(after(RECEIVED), "authorization")
    late = DEADLINE + DAY + HOUR
    decision = on_timeout(record, 1, "authorization", POLICY, late)
    assert alerts(decision) == [("stuck", 2, "critical", DEADLINE + DAY)]
    again = on_timeout(saved(decision, late), 1, "authorization", POLICY, late)
    assert alerts(again) == []


def test_an_alert_has_the_same_id_from_execution_and_sweep() -> None:
    record = waiting(after(RECEIVED), "authorization")
    by_execution = on_timeout(record, 1, "authorization", POLICY, DEADLINE).actions[0]
    by_sweep = on_sweep(record, POLICY, DEADLINE + GRACE_PERIOD).actions[0]
    assert isinstance(by_execution, RaiseAlert) and isinstance(by_sweep, RaiseAlert)
    assert by_execution.alert.id == by_sweep.alert.id
    assert by_sweep.alert.due_at == DEADLINE


def test_the_last_alert_parks_and_ends_the_run() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE + 2 * DAY)
    assert alerts(decision) == [("stuck", 3, "critical", DEADLINE + 2 * DAY)]
    assert decision.answer.next == "Parked"
    assert decision.record
    assert (decision.record.mark, decision.record.wait, decision.record.run.state) == ("parked", None, "closing")
    assert decision.record.parked == Parked(DEADLINE + 2 * DAY, "authorization", NOW, 3)
    assert [row.kind for row in decision.transitions] == ["alert", "park"]


def test_giving_up_answers_the_registered_token() -> None:
    # Step Functions abandoned the timeout's function, which still runs while its execution already waits again.
    record = waiting(after(RECEIVED), "authorization", "next")
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE + 2 * DAY)
    assert [(a.token, a.answer) for a in decision.actions if isinstance(a, SendTaskAnswer)] == [("next", "Parked")]


def test_a_timeout_of_an_older_run_is_superseded() -> None:
    record = replaced()
    assert record.run.number == 2
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE + GRACE_PERIOD)
    assert decision.record is record
    assert decision.answer.next == "Superseded"


def test_a_timeout_does_not_forget_the_token() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE)
    assert decision.record and decision.record.run.token == "T"


def test_an_event_at_the_deadline_wins() -> None:
    record = waiting(after(RECEIVED), "authorization")
    record = saved(on_event(record, event("authorization", "approved", DEADLINE), POLICY, DEADLINE), DEADLINE)
    decision = on_timeout(record, 1, "authorization", POLICY, DEADLINE)
    assert alerts(decision) == []
    assert decision.answer.next == "Await"


def test_an_event_after_the_deadline_is_recorded_after_the_alert() -> None:
    # The execution's timer counts whole seconds, so an event may arrive after the deadline but before the timeout.
    record = waiting(after(RECEIVED), "authorization")
    decision = on_event(record, event("authorization", "approved", DEADLINE + 1), POLICY, DEADLINE + 1)
    assert alerts(decision) == [("stuck", 1, "warning", DEADLINE), ("resolved", 1, "warning", DEADLINE + 1)]
    assert [row.kind for row in decision.transitions] == ["alert", "event"]
    assert decision.record and status_of(decision.record.outcomes) == "AwaitingReconciliation"


def test_only_the_old_event_after_the_deadline_is_marked_superseded() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_event(record, event("ingestion", "received", NOW - 1, "old"), POLICY, DEADLINE + 1)
    assert [(row.kind, row.superseded) for row in decision.transitions] == [("alert", False), ("event", True)]


# -- parked and revived


def parked() -> InvoiceRecord:
    record = waiting(after(RECEIVED), "authorization")
    return saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE + 2 * DAY), DEADLINE + 2 * DAY)


def test_an_event_that_changes_an_outcome_revives_and_restarts_the_wait() -> None:
    later = NOW + 20 * DAY
    decision = on_event(parked(), event("reconciliation", "matched", later), POLICY, later)
    assert decision.record and decision.record.mark is None
    assert decision.record.wait and decision.record.wait.since == later
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [2]
    assert [row.kind for row in decision.transitions] == ["event", "revive"]


def test_an_event_that_changes_nothing_does_not_revive() -> None:
    record = parked()
    decision = on_event(record, event("ingestion", "received", NOW - DAY, "older"), POLICY, NOW + 20 * DAY)
    assert decision.record and decision.record.mark == "parked"
    assert decision.actions == ()


def test_a_parked_invoice_is_stuck_since_its_wait_began() -> None:
    assert (parked().is_stuck, parked().stuck_since) == (True, NOW)


def test_a_revived_invoice_is_not_stuck() -> None:
    record = saved(act(parked(), Revive(), NOW + 20 * DAY), NOW + 20 * DAY)
    assert (record.is_stuck, record.parked) == (False, None)


def test_a_parked_record_of_an_earlier_version_is_stuck() -> None:
    record = structs.replace(parked(), parked=None)
    assert record.stuck_since == record.recorded_at


def test_a_parked_invoice_is_never_swept() -> None:
    assert parked().check_at is None


# -- disputes


def test_a_dispute_is_reported_once_and_restarts_the_wait() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    first = on_dispute(record, 1, "reconciliation", POLICY, NOW + DAY)
    assert alerts(first) == [("dispute", 0, "warning", NOW + DAY)]
    assert first.record and first.record.wait and first.record.wait.since == NOW + DAY
    assert first.answer == NextStep("Await", NOW + 4 * DAY)
    again = on_dispute(saved(first, NOW + DAY), 1, "reconciliation", POLICY, NOW + 2 * DAY)
    assert alerts(again) == []


def test_a_new_mismatch_is_reported_again() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    record = saved(on_dispute(record, 1, "reconciliation", POLICY, NOW + DAY), NOW + DAY)
    record = after(event("reconciliation", "mismatched", NOW + 2 * DAY, "second"), record=record)
    assert alerts(on_dispute(record, 1, "reconciliation", POLICY, NOW + 2 * DAY))


def test_a_failed_posting_is_reported_as_failed() -> None:
    record = after(RECEIVED, APPROVED, MATCHED, FAILED)
    assert alerts(on_dispute(record, 1, "posting", POLICY, NOW + DAY)) == [("failed", 0, "warning", NOW + DAY)]


def test_a_mismatch_while_waiting_for_posting_answers_the_execution() -> None:
    record = waiting(after(RECEIVED, APPROVED, MATCHED), "posting")
    late = event("reconciliation", "mismatched", NOW + 5 * HOUR)
    decision = on_event(record, late, POLICY, NOW + 5 * HOUR)
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["Mismatched"]
    assert decision.record and status_of(decision.record.outcomes) == "Disputed"


# -- sweeps


def test_a_sweep_before_anything_is_due_changes_nothing() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_sweep(record, POLICY, DEADLINE + GRACE_PERIOD - 1)
    assert decision.record is record
    assert decision.actions == ()


def silent() -> InvoiceRecord:
    record = waiting(after(RECEIVED), "authorization")
    return saved(on_sweep(record, POLICY, DEADLINE + GRACE_PERIOD), DEADLINE + GRACE_PERIOD)


def replaced() -> InvoiceRecord:
    at = DEADLINE + GRACE_PERIOD + MAX_SILENCE
    return saved(on_sweep(silent(), POLICY, at), at)


def test_the_sweep_raises_the_alert_of_a_silent_run_and_keeps_the_run() -> None:
    record = waiting(after(RECEIVED), "authorization")
    assert record.check_at == DEADLINE + GRACE_PERIOD
    decision = on_sweep(record, POLICY, DEADLINE + GRACE_PERIOD)
    assert alerts(decision) == [("stuck", 1, "warning", DEADLINE)]
    assert [type(action) for action in decision.actions] == [RaiseAlert]
    assert silent().run.silent_since == DEADLINE + GRACE_PERIOD
    assert silent().check_at == DEADLINE + GRACE_PERIOD + MAX_SILENCE


@pytest.mark.parametrize("how", ["registers", "asks", "disputes"])
def test_a_run_that_calls_is_no_longer_silent(how: str) -> None:
    now = DEADLINE + 2 * GRACE_PERIOD
    decision: Decision[Any]
    if how == "registers":
        decision = on_wait(silent(), WaitRequest(1, "authorization", "next", (now, 0)), POLICY, now)
    elif how == "asks":
        decision = on_timeout(silent(), 1, "authorization", POLICY, now)
    else:
        decision = on_dispute(silent(), 1, "reconciliation", POLICY, now)
    assert decision.record and decision.record.run.silent_since == 0
    later = on_sweep(saved(decision, now), POLICY, DEADLINE + GRACE_PERIOD + MAX_SILENCE)
    assert later.record and later.record.run.number == 1


def test_a_run_that_stays_silent_is_replaced() -> None:
    decision = on_sweep(silent(), POLICY, DEADLINE + GRACE_PERIOD + MAX_SILENCE)
    assert alerts(decision) == []
    assert [(a.token, a.answer) for a in decision.actions if isinstance(a, SendTaskAnswer)] == [("T", "Superseded")]
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [2]


def test_an_orphan_is_alerted_at_its_due_instant_without_grace() -> None:
    record = after(APPROVED, now=NOW)
    assert record.check_at == DEADLINE
    assert alerts(on_sweep(record, POLICY, DEADLINE)) == [("stuck", 1, "warning", DEADLINE)]


def test_a_run_older_than_300_days_is_replaced() -> None:
    record = after(RECEIVED)
    assert record.wait
    far = NOW + 400 * DAY
    record = structs.replace(record, wait=structs.replace(record.wait, deadline=far, due=far))
    record = saved(on_sweep(record, POLICY, NOW), NOW)
    assert record.check_at == NOW + MAX_RUN_AGE
    decision = on_sweep(record, POLICY, NOW + MAX_RUN_AGE)
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [2]
    assert alerts(decision) == []


def test_a_failed_run_is_replaced_and_a_second_one_makes_the_invoice_dormant() -> None:
    record = after(RECEIVED)
    once = on_sweep(record, POLICY, NOW + HOUR, ended_run=1)
    assert [a.run for a in once.actions if isinstance(a, StartExecution)] == [2]
    twice = on_sweep(saved(once, NOW), POLICY, NOW + HOUR, ended_run=2)
    assert twice.record
    assert (twice.record.mark, twice.record.check_at, twice.actions) == ("dormant", DEADLINE, ())


def test_the_end_of_an_older_run_changes_nothing() -> None:
    record = saved(on_sweep(after(RECEIVED), POLICY, NOW + HOUR, ended_run=1), NOW + HOUR)
    assert on_sweep(record, POLICY, NOW + HOUR, ended_run=1).record is record


def dormant() -> InvoiceRecord:
    record = saved(on_sweep(after(RECEIVED), POLICY, NOW + HOUR, ended_run=1), NOW + HOUR)
    return saved(on_sweep(record, POLICY, NOW + HOUR, ended_run=2), NOW + HOUR)


def test_a_dormant_invoice_wakes_at_its_next_event() -> None:
    decision = on_event(dormant(), event("posting", "posted", NOW - DAY), POLICY, NOW + DAY)
    assert decision.record and decision.record.mark is None
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [3]


def test_a_dormant_invoice_wakes_when_its_alert_is_due() -> None:
    decision = on_sweep(dormant(), POLICY, DEADLINE)
    assert alerts(decision) == [("stuck", 1, "warning", DEADLINE)]
    assert decision.record and decision.record.mark is None
    assert [a.run for a in decision.actions if isinstance(a, StartExecution)] == [3]


def test_a_new_policy_that_gives_up_earlier_parks_without_a_further_alert() -> None:
    record = waiting(after(RECEIVED), "authorization")
    record = saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE + DAY), DEADLINE + DAY)
    assert record.wait and record.wait.step == 2
    decision = on_timeout(record, 1, "authorization", plain_policy(give_up_at=2), DEADLINE + 2 * DAY)
    assert alerts(decision) == []
    assert decision.answer.next == "Parked"


# -- commands


def command(verb: Verb, id: str = "C-1", at: Instant = NOW + 4 * HOUR) -> Command:
    return Command(id, "INV-1", "ann", at, verb, "why")


def act(record: InvoiceRecord | None, verb: Verb, now: Instant = NOW + 4 * HOUR) -> Decision[Receipt]:
    return on_command(record, command(verb, at=now), POLICY, now)


def test_complete_records_the_positive_outcome() -> None:
    decision = act(waiting(after(RECEIVED), "authorization"), Complete("authorization"))
    assert decision.record and status_of(decision.record.outcomes) == "AwaitingReconciliation"
    assert decision.record.outcomes["authorization"].event_id == "command C-1"
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["ok"]
    (row,) = decision.transitions
    assert (row.kind, row.outcome, row.stage) == ("command", "complete", "authorization")


def test_a_command_overrules_an_outcome_of_the_future() -> None:
    future = event("authorization", "rejected", NOW + 20 * HOUR)
    decision = act(after(RECEIVED, future, now=NOW), Complete("authorization"), NOW + HOUR)
    assert decision.record and decision.record.outcomes["authorization"].occurred_at == future.occurred_at + 1


def test_a_command_counts_from_when_it_was_accepted() -> None:
    decision = act(after(RECEIVED, REJECTED, now=NOW), Complete("authorization"), NOW + 4 * HOUR)
    assert decision.record and decision.record.outcomes["authorization"].occurred_at == NOW + 4 * HOUR


def test_cancel_records_an_outcome() -> None:
    decision = act(after(RECEIVED), Cancel())
    assert decision.record and status_of(decision.record.outcomes) == "Cancelled"


def test_a_repeated_command_is_a_duplicate() -> None:
    first = act(after(RECEIVED), Park())
    assert act(first.record, Park()).answer == DUPLICATE


def extended() -> InvoiceRecord:
    """Return a record extended by ten days after its first alert."""
    record = waiting(after(RECEIVED), "authorization")
    record = saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE), DEADLINE)
    assert record.is_stuck
    return saved(act(record, Extend(DEADLINE + 10 * DAY), DEADLINE), DEADLINE)


def test_extend_restarts_the_count_of_alerts_at_the_new_deadline() -> None:
    record, until = extended(), DEADLINE + 10 * DAY
    assert record.wait
    assert (record.wait.step, record.wait.base, record.wait.due, record.wait.since) == (1, 1, until, NOW)
    assert not record.is_stuck
    first = on_timeout(record, 1, "authorization", POLICY, until)
    assert alerts(first) == [("stuck", 2, "warning", until)]
    assert saved(first, until).is_stuck
    last = on_timeout(record, 1, "authorization", POLICY, until + 2 * DAY)
    assert alerts(last) == [("stuck", 4, "critical", until + 2 * DAY)]
    assert last.answer.next == "Parked"


def test_extend_records_the_next_alert_the_operator_and_the_count() -> None:
    again = structs.replace(command(Extend(DEADLINE + 20 * DAY), "C-2"), operator="bob")
    decision = on_command(extended(), again, POLICY, DEADLINE)
    assert decision.answer == Receipt("accepted", next_alert_at=DEADLINE + 20 * DAY)
    assert decision.record and decision.record.wait
    assert (decision.record.wait.extensions, decision.record.wait.extended_by) == (2, "bob")


def test_acknowledge_after_an_extension_is_refused_until_the_next_alert() -> None:
    decision = on_command(extended(), command(Acknowledge(), "C-2"), POLICY, DEADLINE)
    assert decision.answer == Receipt("refused", "no alert is out in this wait")


@pytest.mark.parametrize("until", [DEADLINE + HOUR, DEADLINE + DAY + HOUR, DEADLINE + 2 * DAY])
def test_an_extension_to_before_the_next_alert_is_refused(until: Instant) -> None:
    record = waiting(after(RECEIVED), "authorization")
    record = saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE + DAY), DEADLINE + DAY)
    decision = act(record, Extend(until), DEADLINE + DAY)
    assert decision.answer.result == "refused"
    assert "when the next alert is due" in decision.answer.reason


def test_a_repeated_command_returns_the_next_alert_again() -> None:
    record = extended()
    repeat = on_command(record, command(Extend(DEADLINE + 10 * DAY), at=DEADLINE), POLICY, DEADLINE + HOUR)
    assert repeat.answer == Receipt("duplicate", next_alert_at=DEADLINE + 10 * DAY)


def test_park_and_revive() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = act(record, Park())
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["Parked"]
    assert decision.record and decision.record.mark == "parked"
    assert decision.record.parked == Parked(NOW + 4 * HOUR, "authorization", NOW, 0, "ann")
    assert [row.kind for row in decision.transitions] == ["command", "park"]
    revived = on_command(saved(decision, NOW), command(Revive(), "C-2"), POLICY, NOW + 5 * DAY)
    assert revived.record and revived.record.wait and revived.record.wait.since == NOW + 5 * DAY
    assert [a.run for a in revived.actions if isinstance(a, StartExecution)] == [2]


def test_acknowledge_is_recorded_and_stops_no_alert() -> None:
    record = waiting(after(RECEIVED), "authorization")
    record = saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE), DEADLINE)
    decision = act(record, Acknowledge(), DEADLINE)
    assert decision.record and decision.record.wait
    assert (decision.record.wait.acknowledged, decision.record.wait.due) == (1, DEADLINE + DAY)
    record = saved(on_timeout(decision.record, 1, "authorization", POLICY, DEADLINE + DAY), DEADLINE + DAY)
    again = on_command(record, command(Acknowledge(), "C-2"), POLICY, DEADLINE + DAY)
    assert again.record and again.record.wait and again.record.wait.acknowledged == 2


@pytest.mark.parametrize(
    ("record", "verb", "reason"),
    [
        (None, Park(), "there is no invoice INV-1"),
        (after(RECEIVED, APPROVED), Complete("authorization"), "authorization is already approved"),
        (after(RECEIVED, event("ingestion", "cancelled", NOW + 1)), Cancel(), "the invoice is already cancelled"),
        (after(RECEIVED), Revive(), "the invoice is not parked"),
        (parked(), Park(), "the invoice is parked: revive it first"),
        (parked(), Extend(NOW + 90 * DAY), "the invoice is parked: revive it first"),
        (after(RECEIVED, REJECTED), Park(), "the invoice is Rejected and waits for nothing"),
        (
            after(RECEIVED),
            Extend(NOW),
            "the new deadline must be later than 2026-03-05T09:00:00Z, when the next alert is due, and before 3000",
        ),
        (after(RECEIVED), Acknowledge(), "no alert is out in this wait"),
    ],
)
def test_a_command_that_would_change_nothing_is_refused(record: InvoiceRecord | None, verb: Verb, reason: str) -> None:
    decision = act(record, verb)
    assert decision.answer == Receipt("refused", reason)
    assert decision.record is record


# -- notes and assignments


@pytest.mark.parametrize(
    ("verb", "needs_note"),
    [
        (Complete("authorization"), True),
        (Cancel(), True),
        (Park(), True),
        (AddNote(), True),
        (Extend(DEADLINE + DAY), False),
        (Snooze(DEADLINE + DAY), False),
        (Assign("jane"), False),
    ],
)
@pytest.mark.parametrize("note", ["", " \n\t"])
def test_commands_that_end_a_wait_for_good_need_a_note(verb: Verb, needs_note: bool, note: str) -> None:
    record, given = after(RECEIVED), structs.replace(command(verb), note=note)
    decision = on_command(record, given, POLICY, NOW + HOUR)
    if needs_note:
        assert decision.answer == Receipt("refused", f"{given.name} needs a note: say why")
        assert decision.record is record
    else:
        assert decision.answer.result == "accepted"


def test_a_command_without_effect_is_refused_for_that_reason_without_a_note_too() -> None:
    decision = on_command(parked(), structs.replace(command(Park()), note=""), POLICY, NOW + 20 * DAY)
    assert decision.answer == Receipt("refused", "the invoice is parked: revive it first")


def test_the_newest_note_is_kept_whichever_command_had_it() -> None:
    record = saved(act(after(RECEIVED), Extend(DEADLINE + DAY)), NOW)
    assert record.note == Note("why", "ann", NOW + 4 * HOUR)
    again = structs.replace(command(AddNote(), "C-2"), operator="bob", note="called the vendor")
    record = saved(on_command(record, again, POLICY, NOW + 5 * HOUR), NOW)
    silent = structs.replace(command(Assign("jane"), "C-3"), note="")
    record = saved(on_command(record, silent, POLICY, NOW + 6 * HOUR), NOW)
    assert record.note == Note("called the vendor", "bob", NOW + 5 * HOUR)


def every_status_and_mark() -> dict[str, InvoiceRecord]:
    return {
        "orphan": after(APPROVED, now=NOW),
        "waiting": waiting(after(RECEIVED), "authorization"),
        "pending": on_event(None, RECEIVED, POLICY, NOW).record,  # type: ignore[dict-item]
        "stuck": saved(
            on_timeout(waiting(after(RECEIVED), "authorization"), 1, "authorization", POLICY, DEADLINE), NOW
        ),
        "silent": silent(),
        "dormant": dormant(),
        "parked": parked(),
        "disputed": after(RECEIVED, APPROVED, MISMATCHED),
        "rejected": after(RECEIVED, REJECTED),
        "cancelled": after(RECEIVED, event("ingestion", "cancelled", NOW + HOUR)),
        "posted": after(*CLOSED),
    }


@pytest.mark.parametrize("name", every_status_and_mark())
@pytest.mark.parametrize("verb", [Assign("jane"), AddNote()])
def test_an_assignment_or_note_changes_nothing_else(name: str, verb: Verb) -> None:
    """The alert that is overdue is not raised, no execution starts, and no mark is removed."""
    record = every_status_and_mark()[name]
    late = NOW + 90 * DAY
    decision = on_command(record, command(verb, at=late), POLICY, late)
    assert decision.record and decision.answer.result == "accepted"
    assert decision.actions == record.pending
    assert [row.kind for row in decision.transitions] == ["command"]
    assert decision.record.assignee == ("jane" if isinstance(verb, Assign) else None)
    same = ("assignee", "note", "recent_command_ids", "version", "changes", "recorded_at", "check_at")
    assert structs.replace(decision.record, **{name: getattr(record, name) for name in same}) == record


def test_an_assignment_that_changes_nothing_is_refused() -> None:
    record = saved(act(after(RECEIVED), Assign("jane")), NOW)
    again = on_command(record, command(Assign("jane"), "C-2"), POLICY, NOW)
    assert again.answer == Receipt("refused", "the invoice is already assigned to jane")
    to_nobody = on_command(record, command(Assign(None), "C-3"), POLICY, NOW)
    assert to_nobody.record and to_nobody.record.assignee is None
    assert act(after(RECEIVED), Assign(None)).answer == Receipt("refused", "nobody is assigned")


def test_ids_of_commands_do_not_displace_those_of_events() -> None:
    record = after(RECEIVED, APPROVED)
    for number in range(MAX_REMEMBERED_COMMANDS + 8):
        record = saved(on_command(record, command(AddNote(), f"C-{number}"), POLICY, NOW), NOW)
    assert [id for id, _ in record.recent_event_ids] == [RECEIVED.event_id, APPROVED.event_id]
    assert record.recent_command_ids[-1] == f"C-{MAX_REMEMBERED_COMMANDS + 7}"
    assert len(record.recent_command_ids) == MAX_REMEMBERED_COMMANDS
    assert on_command(record, command(AddNote(), "C-39"), POLICY, NOW).answer.result == "duplicate"


def test_a_command_of_an_earlier_version_is_recognized() -> None:
    record = structs.replace(after(RECEIVED), recent_event_ids=(("command C-1", ""),))
    assert act(record, AddNote()).answer.result == "duplicate"


# -- snoozes


def snoozed(until: Instant, at: Instant = NOW + HOUR, record: InvoiceRecord | None = None) -> InvoiceRecord:
    record = record or waiting(after(RECEIVED), "authorization")
    decision = on_command(record, command(Snooze(until), f"S-{until}", at), POLICY, at)
    assert decision.answer == Receipt("accepted", next_alert_at=until)
    return saved(decision, at)


def stuck_once() -> InvoiceRecord:
    record = waiting(after(RECEIVED), "authorization")
    return saved(on_timeout(record, 1, "authorization", POLICY, DEADLINE), DEADLINE)


@pytest.mark.parametrize(
    ("record", "until", "expected", "next_due"),
    [
        # Before the deadline, to before and after the second alert.
        (None, DEADLINE + HOUR, (1, "warning", DEADLINE), DEADLINE + DAY),
        (None, DEADLINE + DAY + HOUR, (2, "critical", DEADLINE + DAY), DEADLINE + 2 * DAY),
        # While it is stuck.
        (stuck_once(), DEADLINE + DAY + HOUR, (2, "critical", DEADLINE + DAY), DEADLINE + 2 * DAY),
    ],
)
def test_at_the_end_of_a_snooze_the_step_reached_is_raised_as_if_there_had_been_none(
    record: InvoiceRecord | None, until: Instant, expected: tuple[int, str, Instant], next_due: Instant
) -> None:
    at = DEADLINE if record else NOW + HOUR
    before = record or waiting(after(RECEIVED), "authorization")
    sleeping = snoozed(until, at, record)
    assert sleeping.wait and sleeping.wait.deadline == DEADLINE
    assert sleeping.is_stuck == before.is_stuck
    for now in (DEADLINE, until - 1):
        assert raised(on_timeout(sleeping, 1, "authorization", POLICY, now)) == []
        assert raised(on_sweep(sleeping, POLICY, now)) == []
    early = on_timeout(sleeping, 1, "authorization", POLICY, DEADLINE)
    assert early.answer == NextStep("Await", until)
    ended = on_timeout(sleeping, 1, "authorization", POLICY, until)
    assert [alert[1:] for alert in alerts(ended)] == [expected]
    (awake,) = raised(on_timeout(before, 1, "authorization", POLICY, until))
    assert raised(ended)[0].id == awake.id
    assert ended.record and ended.record.wait
    assert (ended.record.wait.due, ended.record.wait.snoozed_until) == (next_due, None)


@pytest.mark.parametrize("until", [NOW, DEADLINE, DEADLINE + 2 * DAY, DEADLINE + 3 * DAY])
def test_a_snooze_must_end_between_the_next_alert_and_the_last_one(until: Instant) -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = act(record, Snooze(until), NOW + HOUR)
    assert decision.answer == Receipt(
        "refused",
        f"a snooze must end after {render(DEADLINE)}, when an alert is due, and before {render(DEADLINE + 2 * DAY)},"
        " when the last one is",
    )
    assert decision.record is record


def test_a_snooze_may_be_shortened_or_lengthened() -> None:
    record = snoozed(DEADLINE + DAY)
    shorter = snoozed(DEADLINE + HOUR, NOW + 2 * HOUR, record)
    assert shorter.wait and shorter.wait.due == DEADLINE + HOUR
    longer = snoozed(DEADLINE + DAY + HOUR, NOW + 3 * HOUR, shorter)
    assert longer.wait and longer.wait.due == DEADLINE + DAY + HOUR


def test_a_snooze_counts_from_the_extension() -> None:
    record = extended()
    last = DEADLINE + 12 * DAY
    refused = on_command(record, command(Snooze(last), "C-2"), POLICY, DEADLINE)
    assert refused.answer.result == "refused" and render(last) in refused.answer.reason
    sleeping = snoozed(DEADLINE + 10 * DAY + HOUR, DEADLINE, record)
    ended = on_timeout(sleeping, 1, "authorization", POLICY, DEADLINE + 10 * DAY + HOUR)
    assert alerts(ended) == [("stuck", 2, "warning", DEADLINE + 10 * DAY)]


def test_an_extension_ends_a_snooze() -> None:
    record = snoozed(DEADLINE + HOUR)
    decision = act(record, Extend(DEADLINE + 5 * DAY), NOW + 2 * HOUR)
    assert decision.record and decision.record.wait
    wait = decision.record.wait
    assert (wait.due, wait.deadline, wait.snoozed_until) == (DEADLINE + 5 * DAY, DEADLINE + 5 * DAY, None)


def test_a_snooze_ends_with_its_wait() -> None:
    record = snoozed(DEADLINE + DAY)
    decision = on_event(record, event("authorization", "approved", DEADLINE + HOUR), POLICY, DEADLINE + HOUR)
    assert raised(decision) == []
    assert decision.record and decision.record.wait
    wait = decision.record.wait
    assert (wait.stage, wait.due, wait.snoozed_until) == ("reconciliation", DEADLINE + HOUR + 3 * DAY, None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (parked(), "the invoice is parked: revive it first"),
        (after(RECEIVED, REJECTED), "the invoice is Rejected and waits for nothing"),
    ],
)
def test_nothing_can_be_snoozed_without_a_wait(record: InvoiceRecord, reason: str) -> None:
    assert act(record, Snooze(NOW + 30 * DAY)).answer == Receipt("refused", reason)


# -- contradictions

BY_HAND = NOW + 4 * HOUR


def by_hand(verb: Verb, *events: Event) -> InvoiceRecord:
    """Return the record after events and a command that was accepted at BY_HAND."""
    return saved(act(after(RECEIVED, *events, now=NOW), verb, BY_HAND), BY_HAND)


@pytest.mark.parametrize("later", [-HOUR, 20_000])
@pytest.mark.parametrize(
    ("verb", "stage", "status", "manual"),
    [
        (Complete("authorization"), "authorization", "rejected", "authorization as approved"),
        (Complete("authorization"), "authorization", "approved", None),
        (Complete("authorization"), "reconciliation", "mismatched", None),
        (Complete("reconciliation"), "reconciliation", "mismatched", "reconciliation as matched"),
        (Complete("reconciliation"), "reconciliation", "not_applicable", None),
        (Complete("posting"), "posting", "failed", "posting as posted"),
        (Complete("posting"), "posting", "posted", None),
        (Cancel(), "posting", "posted", "ingestion as cancelled"),
        (Cancel(), "ingestion", "received", "ingestion as cancelled"),
        (Cancel(), "ingestion", "cancelled", None),
        (Cancel(), "authorization", "approved", None),
        (Cancel(), "posting", "failed", None),
    ],
)
def test_an_event_that_contradicts_an_outcome_recorded_by_hand_raises_an_alert(
    verb: Verb, stage: Stage, status: str, manual: str | None, later: Instant
) -> None:
    """Whichever of them is newer. The newer one determines the outcome, as always."""
    record = by_hand(verb)
    given = event(stage, status, BY_HAND + later)
    decision = on_event(record, given, POLICY, BY_HAND + HOUR)
    found = [alert for alert in raised(decision) if alert.kind == "contradiction"]
    assert [(alert.stage, alert.severity, alert.step, alert.event_id, alert.detail) for alert in found] == (
        [
            (
                stage,
                "warning",
                0,
                given.event_id,
                f"an event says {status}, but ann recorded {manual} by hand on 2026-03-02",
            )
        ]
        if manual
        else []
    )
    assert [row.outcome for row in decision.transitions if row.kind == "alert"].count("contradiction") == len(found)
    outcome = decision.record and decision.record.outcomes[stage]
    if stage in record.outcomes:
        assert outcome and outcome.event_id == (given.event_id if later > 0 else record.outcomes[stage].event_id)


def test_each_contradicting_event_raises_one_alert() -> None:
    record = by_hand(Complete("authorization"))
    rejected = event("authorization", "rejected", BY_HAND + HOUR)
    first = on_event(record, rejected, POLICY, BY_HAND + HOUR)
    assert [alert.kind for alert in raised(first)] == ["contradiction"]
    record = saved(first, NOW)
    repeat = on_event(record, rejected, POLICY, BY_HAND + 2 * HOUR)
    assert (repeat.answer, raised(repeat)) == (DUPLICATE, [])
    again = on_event(record, event("authorization", "rejected", BY_HAND + 3 * HOUR), POLICY, BY_HAND + 3 * HOUR)
    assert [alert.kind for alert in raised(again)] == ["contradiction"]
    assert raised(again)[0].id != raised(first)[0].id


def test_an_event_of_another_event_contradicts_nothing() -> None:
    record = after(RECEIVED, APPROVED)
    assert record.manual_outcomes == {}
    assert raised(on_event(record, event("authorization", "rejected", NOW + DAY), POLICY, NOW + DAY)) == []


def test_approved_by_hand_and_rejected_20_ms_later_is_rejected_and_contradicted() -> None:
    record = by_hand(Complete("authorization"))
    assert record.status == "AwaitingReconciliation"
    late = event("authorization", "rejected", BY_HAND + 20_000)
    decision = on_event(record, late, POLICY, BY_HAND + SECOND)
    assert decision.record and decision.record.status == "Rejected"
    (alert,) = raised(decision)
    assert (alert.kind, alert.negative_outcomes) == ("contradiction", {"authorization": "rejected"})
    assert decision.record.manual_outcomes["authorization"].operator == "ann"


# -- resolutions


def resolutions(decision: Decision[Any]) -> list[tuple[str, int, str | None]]:
    """Return the severity, step and detail of each resolution. Each must be notified at once and have no row."""
    found = [alert for alert in raised(decision) if alert.kind == "resolved"]
    assert all(alert.due_at == alert.raised_at for alert in found)
    assert not any(row.outcome == "resolved" for row in decision.transitions)
    assert len({alert.id for alert in found}) == len(found)
    return [(alert.severity, alert.step, alert.detail) for alert in found]


def stuck_twice() -> InvoiceRecord:
    return saved(on_timeout(stuck_once(), 1, "authorization", POLICY, DEADLINE + DAY), DEADLINE + DAY)


LATER = DEADLINE + DAY + HOUR


def test_the_end_of_a_wait_is_told_to_those_who_got_its_alerts() -> None:
    approved = event("authorization", "approved", LATER)
    assert resolutions(on_event(waiting(after(RECEIVED), "authorization"), APPROVED, POLICY, NOW + HOUR)) == []
    once = on_event(stuck_once(), event("authorization", "approved", DEADLINE + HOUR), POLICY, DEADLINE + HOUR)
    assert resolutions(once) == [("warning", 1, "authorization is approved")]
    twice = on_event(stuck_twice(), approved, POLICY, LATER)
    assert resolutions(twice) == [
        ("warning", 2, "authorization is approved"),
        ("critical", 2, "authorization is approved"),
    ]
    alerted = raised(on_timeout(waiting(after(RECEIVED), "authorization"), 1, "authorization", POLICY, DEADLINE))
    assert {alert.incident for alert in raised(twice)} == {alerted[0].incident}
    assert resolutions(on_event(saved(twice, LATER), MATCHED, POLICY, LATER)) == []


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        (event("authorization", "rejected", LATER), "authorization is rejected"),
        (event("ingestion", "cancelled", LATER), "the invoice is Cancelled"),
    ],
)
def test_a_resolution_says_how_the_wait_ended(given: Event, detail: str) -> None:
    assert {one[2] for one in resolutions(on_event(stuck_twice(), given, POLICY, LATER))} == {detail}


def test_an_extension_is_told_once() -> None:
    record, until = stuck_twice(), DEADLINE + 20 * DAY
    told = act(record, Extend(until), LATER)
    detail = f"ann extended the deadline to {render(until)}"
    assert resolutions(told) == [("warning", 2, detail), ("critical", 2, detail)]
    record = saved(told, LATER)
    assert resolutions(on_event(record, event("authorization", "approved", LATER), POLICY, LATER)) == []
    stuck_again = saved(on_timeout(record, 1, "authorization", POLICY, until), until)
    ended = on_event(stuck_again, event("authorization", "approved", until), POLICY, until)
    assert resolutions(ended) == [("warning", 3, "authorization is approved")]


def test_parking_is_told_to_nobody() -> None:
    assert resolutions(act(stuck_twice(), Park(), LATER)) == []
    assert resolutions(on_timeout(stuck_twice(), 1, "authorization", POLICY, DEADLINE + 2 * DAY)) == []
    assert resolutions(on_event(parked(), event("authorization", "approved", LATER), POLICY, NOW + 9 * DAY)) == []


def test_snoozes_notes_and_acknowledgements_resolve_nothing() -> None:
    record = stuck_once()
    for verb in (Snooze(DEADLINE + DAY + HOUR), Acknowledge(), AddNote(), Assign("jane")):
        assert resolutions(act(record, verb, DEADLINE)) == []


def disputed() -> InvoiceRecord:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    return saved(on_dispute(record, 1, "reconciliation", POLICY, NOW + DAY), NOW + DAY)


def test_the_alert_of_a_dispute_belongs_to_the_wait_after_it() -> None:
    matched = event("reconciliation", "matched", NOW + 2 * DAY)
    told = on_event(disputed(), matched, POLICY, NOW + 2 * DAY)
    assert resolutions(told) == [("warning", 0, "reconciliation is matched")]
    rejected = event("authorization", "rejected", NOW + 2 * DAY)
    told = on_event(disputed(), rejected, POLICY, NOW + 2 * DAY)
    assert resolutions(told) == [("warning", 0, "the invoice is Rejected")]


def test_a_dispute_resolves_the_alerts_of_the_wait_that_it_ends() -> None:
    record = waiting(after(RECEIVED, APPROVED), "reconciliation")
    assert record.wait
    due = record.wait.due
    record = saved(on_timeout(record, 1, "reconciliation", POLICY, due), due)
    record = saved(on_event(record, event("reconciliation", "mismatched", due + HOUR), POLICY, due + HOUR), due)
    told = on_dispute(record, 1, "reconciliation", POLICY, due + 2 * HOUR)
    assert [alert.kind for alert in raised(told)] == ["dispute", "resolved"]
    assert resolutions(told) == [("warning", 1, "reconciliation is mismatched")]


def test_a_past_mismatch_without_an_alert_resolves_nothing() -> None:
    record = after(past(RECEIVED), past(APPROVED), past(MISMATCHED), now=NOW)
    assert resolutions(on_event(record, event("reconciliation", "matched", NOW + DAY), POLICY, NOW + DAY)) == []


# -- disputes that no execution can ask about


def test_a_dispute_is_reported_when_the_invoice_becomes_dormant() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    once = on_sweep(record, POLICY, NOW + DAY, ended_run=1)
    assert alerts(once) == []
    twice = on_sweep(saved(once, NOW + DAY), POLICY, NOW + DAY, ended_run=2)
    assert alerts(twice) == [("dispute", 0, "warning", NOW + DAY)]
    assert twice.record and twice.record.wait
    assert (twice.record.mark, twice.record.wait.since, twice.record.wait.ended_runs) == ("dormant", NOW + DAY, 2)


def test_a_dispute_before_the_run_could_be_started_is_reported_at_once() -> None:
    refused = on_event(None, RECEIVED, POLICY, NOW).record
    assert refused and refused.pending
    record = on_event(refused, APPROVED, POLICY, NOW + HOUR).record
    decision = on_event(record, MISMATCHED, POLICY, NOW + 2 * HOUR)
    assert alerts(decision) == [("dispute", 0, "warning", NOW + 2 * HOUR)]
    assert decision.record and decision.record.mark is None


@pytest.mark.parametrize(("bad", "kind"), [(MISMATCHED, "dispute"), (FAILED, "failed")])
@pytest.mark.parametrize("before", [(), (RECEIVED,)])
def test_a_dispute_of_a_later_stage_is_reported_at_once(bad: Event, kind: str, before: tuple[Event, ...]) -> None:
    record = after(*before, now=NOW) if before else None
    decision = on_event(record, bad, POLICY, NOW + HOUR)
    assert alerts(decision) == [(kind, 0, "warning", NOW + HOUR)]
    assert decision.record and decision.record.wait
    assert decision.record.wait.stage == ("authorization" if before else "ingestion")
    assert decision.record.wait.since == (NOW if before else NOW + HOUR), "the current wait continues"
    once = after(APPROVED, record=saved(decision, NOW + HOUR), now=NOW + 2 * HOUR)
    assert alerts(on_dispute(once, 1, "reconciliation", POLICY, NOW + 3 * HOUR)) == []


def test_a_dispute_is_reported_before_the_invoice_is_given_up() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    assert record.wait
    decision = on_sweep(record, plain_policy(give_up_at=1), record.wait.due + GRACE_PERIOD)
    assert [alert[0] for alert in alerts(decision)] == ["stuck", "dispute"]
    assert decision.record and decision.record.mark == "parked"


def test_the_sweep_reports_the_dispute_of_a_silent_run() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    assert record.wait
    at = record.wait.due + GRACE_PERIOD
    decision = on_sweep(record, POLICY, at)
    assert [alert[:3] for alert in alerts(decision)] == [
        ("stuck", 1, "warning"),
        ("dispute", 0, "warning"),
        ("resolved", 1, "warning"),
    ]


def test_an_invoice_that_becomes_dormant_has_a_row() -> None:
    once = saved(on_sweep(after(RECEIVED), POLICY, NOW + HOUR, ended_run=1), NOW + HOUR)
    (row,) = on_sweep(once, POLICY, NOW + HOUR, ended_run=2).transitions
    assert (row.kind, row.stage, row.from_status, row.to_status) == (
        "dormant", "authorization", "AwaitingAuthorization", "AwaitingAuthorization",
    )  # fmt: skip
    assert on_sweep(dormant(), POLICY, NOW + 2 * HOUR).transitions == ()


# -- open stages and negative outcomes


def test_a_mismatch_before_the_approval_is_reported_at_once_and_named_by_every_alert() -> None:
    """The buyer is alerted to the mismatch at once, and every later alert to the approver mentions it."""
    at_once = on_event(after(RECEIVED), MISMATCHED, POLICY, NOW + 2 * HOUR)
    record = waiting(saved(at_once, NOW + 2 * HOUR), "authorization", now=NOW + 2 * HOUR)
    late = on_timeout(record, 1, "authorization", POLICY, DEADLINE)
    later = on_timeout(saved(late, DEADLINE), 1, "authorization", POLICY, DEADLINE + DAY)
    approved = on_event(saved(later, DEADLINE + DAY), event("authorization", "approved", LATER), POLICY, LATER)
    record = waiting(saved(approved, LATER), "reconciliation", now=LATER)
    disputed_late = on_timeout(record, 1, "reconciliation", POLICY, LATER + 3 * DAY)
    found = [alert for one in (at_once, late, later, approved, disputed_late) for alert in raised(one)]
    assert [(alert.kind, alert.stage, alert.open_stages) for alert in found] == [
        ("dispute", "reconciliation", ("authorization", "reconciliation", "posting")),
        ("stuck", "authorization", ("authorization", "reconciliation", "posting")),
        ("stuck", "authorization", ("authorization", "reconciliation", "posting")),
        ("resolved", "authorization", ("reconciliation", "posting")),
        ("resolved", "authorization", ("reconciliation", "posting")),
        ("stuck", "reconciliation", ("reconciliation", "posting")),
    ]
    assert all(alert.negative_outcomes == {"reconciliation": "mismatched"} for alert in found)


@pytest.mark.parametrize(
    ("events", "stages", "negative"),
    [
        ([APPROVED, MATCHED, POSTED], ("ingestion",), {}),
        ([RECEIVED, POSTED], ("authorization", "reconciliation"), {}),
        ([RECEIVED, APPROVED, MATCHED, FAILED], ("posting",), {"posting": "failed"}),
        (
            [RECEIVED, MISMATCHED, FAILED],
            ("authorization", "reconciliation", "posting"),
            {"reconciliation": "mismatched", "posting": "failed"},
        ),
    ],
)
def test_an_alert_names_open_stages_and_negative_outcomes(
    events: list[Event], stages: tuple[Stage, ...], negative: dict[Stage, str]
) -> None:
    record = after(*events, now=NOW)
    record = structs.replace(record, run=structs.replace(record.run, state="none"))
    (alert, *_) = raised(on_sweep(record, POLICY, NOW + 30 * DAY))
    assert (alert.kind, alert.open_stages, alert.negative_outcomes) == ("stuck", stages, negative)


# -- stays: the deadline of the first wait for a stage


def deadlines(decision: Decision[Any]) -> list[tuple[Instant | None, Instant | None]]:
    """Return the deadlines of the stage that is left and of the one that begins, of the rows that have any."""
    rows = [(row.first_deadline, row.next_first_deadline) for row in decision.transitions]
    return [row for row in rows if row != (None, None)]


def test_the_rows_that_begin_and_end_a_stage_have_its_first_deadline() -> None:
    first = on_event(None, RECEIVED, POLICY, NOW)
    second = on_event(saved(first, NOW), APPROVED, POLICY, NOW + HOUR)
    third = on_event(saved(second, NOW), MATCHED, POLICY, NOW + 2 * HOUR)
    last = on_event(saved(third, NOW), POSTED, POLICY, NOW + 3 * HOUR)
    assert [deadlines(one) for one in (first, second, third, last)] == [
        [(None, DEADLINE)],
        [(DEADLINE, DEADLINE + HOUR)],
        [(DEADLINE + HOUR, DEADLINE + 2 * HOUR)],
        [(DEADLINE + 2 * HOUR, None)],
    ]
    assert last.record and last.record.stay is None


def test_an_orphan_stays_until_its_ingestion() -> None:
    first = on_event(None, APPROVED, POLICY, NOW)
    second = on_event(saved(first, NOW), RECEIVED, POLICY, NOW + HOUR)
    assert [deadlines(one) for one in (first, second)] == [[(None, DEADLINE)], [(DEADLINE, DEADLINE + HOUR)]]


def restarted(how: str) -> InvoiceRecord:
    """Return a record that waits for reconciliation since NOW + HOUR, and whose wait was moved or begun again."""
    record, now = after(RECEIVED, APPROVED), NOW + DAY
    if how == "extended":
        return saved(act(record, Extend(NOW + 20 * DAY), now), now)
    if how == "snoozed":
        return saved(act(record, Snooze(DEADLINE + DAY), now), now)
    if how == "disputed":
        return disputed()
    decision = act(record, Park(), now)
    assert deadlines(decision) == []
    decision = on_command(saved(decision, now), command(Revive(), "C-2"), POLICY, NOW + 2 * DAY)
    assert deadlines(decision) == []
    return saved(decision, now)


@pytest.mark.parametrize("how", ["extended", "snoozed", "disputed", "parked and revived"])
def test_whatever_moves_the_deadline_the_first_one_stays(how: str) -> None:
    record = restarted(how)
    assert record.wait and record.wait.due > DEADLINE + HOUR
    decision = on_event(record, event("reconciliation", "matched", NOW + 3 * DAY), POLICY, NOW + 3 * DAY)
    assert deadlines(decision) == [(DEADLINE + HOUR, NOW + 6 * DAY)]


def test_a_stage_that_was_complete_before_it_was_awaited_has_no_stay() -> None:
    decision = on_event(after(RECEIVED, MATCHED, now=NOW), APPROVED, POLICY, NOW + HOUR)
    assert [row.to_status for row in decision.transitions] == ["AwaitingPosting"]
    assert deadlines(decision) == [(DEADLINE, DEADLINE + HOUR)]
    assert decision.record and decision.record.stay and decision.record.stay.stage == "posting"


def test_a_stage_that_is_awaited_again_has_a_new_stay() -> None:
    record = after(*CLOSED[:3])
    mismatched = on_event(record, event("reconciliation", "mismatched", NOW + DAY), POLICY, NOW + DAY)
    assert deadlines(mismatched) == [(DEADLINE + 2 * HOUR, NOW + 4 * DAY)]
    again = on_event(saved(mismatched, NOW), event("reconciliation", "matched", NOW + 2 * DAY), POLICY, NOW + 2 * DAY)
    assert deadlines(again) == [(NOW + 4 * DAY, NOW + 5 * DAY)]


def test_a_record_of_an_earlier_version_stays_since_its_wait() -> None:
    record = structs.replace(after(RECEIVED), stay=None)
    assert deadlines(on_event(record, APPROVED, POLICY, NOW + HOUR)) == [(DEADLINE, DEADLINE + HOUR)]


# -- invoices without reconciliation

EXEMPTING = dataclasses.replace(POLICY, match_exemptions=(When(has_purchase_order=False),))
NOT_APPLICABLE = event("reconciliation", "not_applicable", NOW + 2 * HOUR)
ORDERED = facts(purchase_orders=("4500012345",))


def exempt(*events: Event, policy: Policy = EXEMPTING) -> InvoiceRecord:
    record = None
    for given in events:
        record = saved(on_event(record, given, policy, NOW + 2 * HOUR), NOW)
    assert record
    return record


def ordered(given: Event) -> Event:
    return structs.replace(given, facts=ORDERED)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([RECEIVED], "AwaitingAuthorization"),
        ([RECEIVED, APPROVED], "AwaitingPosting"),
        ([RECEIVED, APPROVED, POSTED], "Posted"),
        ([RECEIVED, POSTED, APPROVED], "Posted"),
        # An outcome that is stated counts.
        ([RECEIVED, APPROVED, MISMATCHED], "Disputed"),
        ([RECEIVED, APPROVED, MISMATCHED, POSTED], "Disputed"),
        ([RECEIVED, APPROVED, MATCHED], "AwaitingPosting"),
        ([RECEIVED, APPROVED, NOT_APPLICABLE, POSTED], "Posted"),
        # So does the purchase order that any event states.
        ([ordered(RECEIVED), APPROVED], "AwaitingReconciliation"),
        ([ordered(RECEIVED), APPROVED, POSTED], "AwaitingReconciliation"),
        ([RECEIVED, ordered(APPROVED)], "AwaitingReconciliation"),
        ([RECEIVED, APPROVED, ordered(POSTED)], "AwaitingReconciliation"),
        ([ordered(RECEIVED), APPROVED, NOT_APPLICABLE, POSTED], "Posted"),
    ],
)
def test_an_invoice_without_a_purchase_order_needs_no_reconciliation(events: list[Event], status: str) -> None:
    for order in itertools.permutations(events):
        assert exempt(*order).status == status
    assert exempt(*events, policy=POLICY).match_required


def test_an_invoice_without_a_purchase_order_is_never_stuck_in_reconciliation() -> None:
    record = waiting(exempt(RECEIVED), "authorization")
    approved = on_event(record, APPROVED, EXEMPTING, NOW + HOUR)
    assert [(row.from_status, row.to_status) for row in approved.transitions] == [
        ("AwaitingAuthorization", "AwaitingPosting")
    ]
    record = waiting(saved(approved, NOW), "posting", now=NOW + HOUR)
    late = on_timeout(record, 1, "posting", EXEMPTING, NOW + HOUR + 3 * DAY)
    assert [(alert.stage, alert.open_stages) for alert in raised(late)] == [("posting", ("posting",))]
    posted = on_event(saved(late, NOW), event("posting", "posted", DEADLINE + DAY), EXEMPTING, DEADLINE + DAY)
    assert posted.record and (posted.record.status, posted.record.wait) == ("Posted", None)


def test_a_purchase_order_that_is_stated_later_changes_what_the_invoice_waits_for() -> None:
    record = waiting(exempt(RECEIVED, APPROVED), "posting")
    again = event("ingestion", "received", NOW + DAY, "with order", facts=ORDERED)
    decision = on_event(record, again, EXEMPTING, NOW + DAY)
    assert decision.record and decision.record.wait and decision.record.wait.stage == "reconciliation"
    assert [a.answer for a in decision.actions if isinstance(a, SendTaskAnswer)] == ["Mismatched"]


def test_a_policy_that_begins_to_exempt_revives_a_parked_invoice() -> None:
    record = after(RECEIVED, APPROVED)
    record = saved(act(record, Park()), NOW)
    superseded = event("ingestion", "received", NOW - DAY, "older")
    decision = on_event(record, superseded, EXEMPTING, NOW + DAY)
    assert decision.record and (decision.record.mark, decision.record.status) == (None, "AwaitingPosting")
    assert [row.kind for row in decision.transitions] == ["event", "revive"]


# -- when an invoice was posted

PAID = structs.replace(
    event("posting", "posted", NOW + 20 * DAY, "paid"),
    payment=Payment(date(2026, 3, 22), Decimal("1225.00"), Decimal("25.00")),
)
FAILED_FIRST = event("posting", "failed", NOW + HOUR)
FAILED_LATER = event("posting", "failed", NOW + 5 * HOUR)
POSTED_AGAIN = event("posting", "posted", NOW + 6 * HOUR)


@pytest.mark.parametrize(
    ("events", "posted_on"),
    [
        ([], None),
        ([FAILED], None),
        ([POSTED], POSTED.occurred_at),
        # The payment is stated later.
        ([POSTED, PAID], POSTED.occurred_at),
        ([FAILED_FIRST, POSTED, PAID], POSTED.occurred_at),
        # It was posted again after a failure, whenever that became known.
        ([POSTED, FAILED_LATER, POSTED_AGAIN], POSTED_AGAIN.occurred_at),
        ([POSTED, FAILED_LATER, POSTED_AGAIN, PAID], POSTED_AGAIN.occurred_at),
        ([POSTED, PAID, FAILED_LATER], PAID.occurred_at),
        ([POSTED, POSTED_AGAIN, event("posting", "failed", NOW + DAY)], None),
    ],
)
def test_an_invoice_is_posted_at_the_earliest_posting_since_the_newest_failure(
    events: list[Event], posted_on: Instant | None
) -> None:
    for order in itertools.permutations(events):
        assert after(RECEIVED, APPROVED, MATCHED, *order, now=NOW + 30 * DAY).posted_on == posted_on


# -- optional facts

NUMBERED = facts(number="RE-1", issue_date=date(2026, 3, 1))
RENUMBERED = facts(number="RE-2", buyer=Buyer("1000", "Example AG"))
ORDERING = facts(purchase_orders=("45", "46"))


def test_each_optional_fact_is_the_newest_that_is_stated_in_any_order() -> None:
    events = [
        event("ingestion", "received", NOW, facts=NUMBERED),
        event("authorization", "approved", NOW + HOUR, facts=RENUMBERED),
        event("reconciliation", "matched", NOW + 2 * HOUR, facts=ORDERING),
        event("posting", "posted", NOW + 3 * HOUR),
    ]
    for order in itertools.permutations(events):
        found = after(*order, now=NOW + 3 * HOUR).facts
        assert (found.number, found.issue_date, found.buyer, found.purchase_orders) == (
            "RE-2", date(2026, 3, 1), Buyer("1000", "Example AG"), ("45", "46"),
        )  # fmt: skip


def test_days_and_due_date_are_stated_together_and_the_other_terms_each_alone() -> None:
    terms = [
        PaymentTerms(30, baseline_date=date(2026, 3, 1)),
        PaymentTerms(due_date=date(2026, 4, 15)),
        PaymentTerms(baseline_date=date(2026, 3, 5)),
    ]
    events = [
        event("authorization", "approved", NOW + number, f"e{number}", facts=structs.replace(FACTS, payment_terms=one))
        for number, one in enumerate(terms)
    ]
    for order in itertools.permutations(events):
        assert after(*order, now=NOW).facts.payment_terms == PaymentTerms(
            due_date=date(2026, 4, 15), baseline_date=date(2026, 3, 5)
        )


# -- two invoices under one id


def other_vendor(one: Event) -> Event:
    return structs.replace(one, facts=structs.replace(one.facts, vendor=Vendor("V-OTHER")))


def identity_alerts(*events: Event, policy: Policy = POLICY) -> list[tuple[str, str | None]]:
    record, found = None, []
    for one in events:
        decision = on_event(record, one, policy, NOW + 400 * DAY)
        record = saved(decision, NOW + 400 * DAY)
        found += [alert for alert in raised(decision) if alert.kind == "identity"]
    assert all((alert.stage, alert.severity, alert.step) == ("ingestion", "warning", 0) for alert in found)
    assert len({alert.id for alert in found}) == len(found)
    return [(alert.kind, alert.detail) for alert in found]


AGAIN = event("ingestion", "received", NOW + 365 * DAY, "again", facts=facts(amount=Decimal("80.00")))


@pytest.mark.parametrize("order", list(itertools.permutations((RECEIVED, APPROVED, other_vendor(MATCHED)))))
def test_two_vendors_under_one_id_are_reported_once_in_any_order(order: tuple[Event, ...]) -> None:
    ((_, detail),) = identity_alerts(*order, other_vendor(POSTED))
    assert detail and "V-42" in detail and "V-OTHER" in detail


@pytest.mark.parametrize("order", list(itertools.permutations((*CLOSED, AGAIN))))
def test_an_id_that_is_used_again_for_another_invoice_is_reported_once_in_any_order(order: tuple[Event, ...]) -> None:
    assert identity_alerts(*order) == [
        (
            "identity",
            "1250.00 EUR of V-42 was closed on 2026-03-02, and 80.00 EUR of V-42 received on 2027-03-02",
        )
    ]


def test_an_event_of_another_invoice_is_accepted() -> None:
    decision = on_event(after(*CLOSED), AGAIN, POLICY, NOW + 365 * DAY)
    assert decision.answer == ACCEPTED
    assert decision.record and decision.record.outcomes["ingestion"].event_id == "again"


@pytest.mark.parametrize(
    "again",
    [
        facts(),
        facts(tier=None),
        facts(days=14),
        facts(due=date(2026, 4, 1)),
    ],
)
def test_the_same_invoice_received_again_raises_no_identity_alert(again: Facts) -> None:
    first = event("ingestion", "received", facts=facts(due=date(2026, 4, 1)))
    last = event("ingestion", "received", NOW + 365 * DAY, "again", facts=again)
    assert identity_alerts(first, *CLOSED[1:], last) == []


def test_a_different_due_date_raises_an_identity_alert() -> None:
    first = event("ingestion", "received", facts=facts(due=date(2026, 4, 1)))
    last = event("ingestion", "received", NOW + 365 * DAY, "again", facts=facts(due=date(2027, 4, 1)))
    assert len(identity_alerts(first, *CLOSED[1:], last)) == 1


def test_an_amended_amount_before_closing_raises_no_identity_alert() -> None:
    amended = event("ingestion", "received", NOW + 2 * HOUR, "amended", facts=facts(amount=Decimal("80.00")))
    assert identity_alerts(RECEIVED, amended, POSTED) == []


def test_a_cancellation_closes_an_invoice() -> None:
    cancelled = event("ingestion", "cancelled", NOW + DAY)
    assert len(identity_alerts(RECEIVED, cancelled, AGAIN)) == 1


def test_a_policy_may_switch_identity_alerts_off() -> None:
    off = dataclasses.replace(POLICY, identity=False)
    assert identity_alerts(*CLOSED, other_vendor(AGAIN), policy=off) == []


def without_identity(record: InvoiceRecord) -> InvoiceRecord:
    return structs.replace(record, vendor_ids=(), first_received=None, last_received=None, closed_at=None)


def test_a_closed_record_of_an_earlier_version_detects_a_reused_id() -> None:
    record = without_identity(after(*CLOSED))
    assert [alert[0] for alert in alerts(on_event(record, AGAIN, POLICY, NOW + 365 * DAY))] == ["identity"]


def test_a_record_of_an_earlier_version_detects_a_second_vendor() -> None:
    record = without_identity(after(RECEIVED))
    decision = on_event(record, other_vendor(APPROVED), POLICY, NOW + HOUR)
    assert [alert[0] for alert in alerts(decision)] == ["identity"]


# -- past events

YEAR = 365 * DAY


def past(one: Event) -> Event:
    return structs.replace(one, imported=True)


def test_the_deadline_of_a_past_event_counts_from_when_it_occurred() -> None:
    received = past(event("ingestion", "received", NOW - DAY))
    decision = on_event(None, received, POLICY, NOW)
    assert decision.record and decision.record.wait
    wait = decision.record.wait
    assert (wait.since, wait.counted_from, wait.deadline) == (NOW, NOW - DAY, NOW - DAY + 3 * DAY)


def test_the_deadline_of_a_past_event_is_at_least_a_day_from_now() -> None:
    decision = on_event(None, past(event("ingestion", "received", NOW - YEAR)), POLICY, NOW)
    assert decision.record and decision.record.wait and decision.record.wait.deadline == NOW + DAY


def test_the_deadline_counts_from_the_latest_event_that_determines_the_status() -> None:
    received, approved = event("ingestion", "received", NOW - 2 * DAY), event("authorization", "approved", NOW - DAY)
    posted = past(event("posting", "posted", NOW - HOUR))
    record = after(past(received), posted, past(approved), now=NOW)
    assert record.wait and (record.wait.stage, record.wait.counted_from) == ("reconciliation", NOW - DAY)


def test_the_wait_of_an_orphan_counts_from_its_earliest_event() -> None:
    record = after(past(event("posting", "posted", NOW - HOUR)), now=NOW)
    assert record.wait and (record.wait.stage, record.wait.counted_from) == ("ingestion", NOW - HOUR)


def test_a_policy_may_count_every_wait_from_the_occurrence() -> None:
    policy = dataclasses.replace(POLICY, waits_from="occurrence")
    decision = on_event(None, event("ingestion", "received", NOW - DAY), policy, NOW)
    assert decision.record and decision.record.wait and decision.record.wait.counted_from == NOW - DAY


def test_waits_from_occurrence_does_not_depend_on_when_the_event_is_decided() -> None:
    policy = dataclasses.replace(plain_policy(deadline="4h"), waits_from="occurrence")
    for late in (0, 1):
        decision = on_event(None, RECEIVED, policy, NOW + late)
        assert decision.record and decision.record.wait
        assert (decision.record.wait.deadline, decision.record.wait.counted_from) == (NOW + late + DAY, NOW)


def test_a_past_mismatch_postpones_the_current_wait_by_a_day() -> None:
    record = after(RECEIVED, APPROVED)
    assert record.wait and record.wait.stage == "reconciliation"
    now = record.wait.due - SECOND
    decision = on_event(record, past(MISMATCHED), POLICY, now)
    assert alerts(decision) == []
    assert decision.record and decision.record.wait and decision.record.wait.due == now + DAY


def test_a_past_event_after_the_deadline_of_others_raises_no_alert() -> None:
    record = after(past(event("ingestion", "received", NOW - YEAR)), now=NOW)
    assert record.wait and record.wait.due == NOW + DAY
    decision = on_event(record, past(event("authorization", "approved", NOW - YEAR + HOUR)), POLICY, NOW + DAY + SECOND)
    assert alerts(decision) == []
    assert decision.record and decision.record.wait and decision.record.wait.due >= NOW + 2 * DAY


def test_a_past_mismatch_does_not_hide_an_unreported_one() -> None:
    record = after(RECEIVED, APPROVED, MISMATCHED)
    later = past(event("reconciliation", "mismatched", NOW + 5 * HOUR, "past"))
    decision = on_event(record, later, POLICY, NOW + 6 * HOUR)
    assert [(alert.kind, alert.event_id) for alert in raised(decision)] == [("dispute", MISMATCHED.event_id)]


def test_an_alert_of_a_standing_mismatch_names_its_event() -> None:
    record = after(RECEIVED, APPROVED, past(MISMATCHED), now=NOW)
    assert record.wait
    decision = on_timeout(record, 1, "reconciliation", POLICY, record.wait.due)
    (alert,) = raised(decision)
    assert (alert.kind, alert.event_id) == ("stuck", MISMATCHED.event_id)


def test_a_wait_that_is_revived_counts_from_now() -> None:
    later = NOW + 20 * DAY
    decision = on_event(parked(), past(event("authorization", "approved", NOW + DAY)), POLICY, later)
    assert decision.record and decision.record.wait
    assert (decision.record.wait.counted_from, decision.record.wait.deadline) == (None, later + 3 * DAY)


@pytest.mark.parametrize("order", list(itertools.permutations((RECEIVED, APPROVED, MISMATCHED, MATCHED, FAILED))))
def test_importing_a_finished_invoice_in_any_order_raises_no_alert(order: tuple[Event, ...]) -> None:
    events = [past(structs.replace(one, occurred_at=one.occurred_at - YEAR)) for one in order]
    matched = past(event("reconciliation", "matched", NOW - YEAR + 3 * HOUR, "matched"))
    posted = past(event("posting", "posted", NOW - YEAR + 4 * HOUR, "posted"))
    record = None
    for number, one in enumerate((*events, matched, posted)):
        now = NOW + number * HOUR
        decision = on_event(record, one, POLICY, now)
        assert raised(decision) == []
        record = saved(on_sweep(saved(decision, now), POLICY, now), now)
        assert not record.is_stuck
    assert record and status_of(record.outcomes) == "Posted"


def test_a_past_mismatch_that_still_stands_raises_the_alerts_of_its_wait() -> None:
    record = after(past(RECEIVED), past(APPROVED), past(MISMATCHED), now=NOW + YEAR)
    record = waiting(record, "reconciliation", now=NOW + YEAR)
    assert record.reported_disputes == {"reconciliation": MISMATCHED.event_id}
    assert alerts(on_timeout(record, 1, "reconciliation", POLICY, NOW + YEAR + DAY))[0][:2] == ("stuck", 1)


# -- the time series


def test_the_row_of_an_event_has_its_facts_and_times() -> None:
    (row,) = on_event(
        None, event("ingestion", "received", facts=facts(14, date(2026, 3, 16))), POLICY, NOW + HOUR
    ).transitions
    assert (row.kind, row.stage, row.outcome) == ("event", "ingestion", "received")
    assert (row.from_status, row.to_status) == (None, "AwaitingAuthorization")
    assert (row.terms_days, row.due_date, row.vendor_tier) == (14, date(2026, 3, 16), "silver")
    assert (row.recorded_at, row.received_at, row.lag_ms) == (NOW + HOUR, NOW, 3_600_000)


def test_every_row_has_its_own_instant_even_if_the_clock_goes_back() -> None:
    record = after(RECEIVED)
    decision = on_event(record, APPROVED, POLICY, NOW - DAY)
    assert decision.transitions[0].recorded_at == record.recorded_at + 1


def test_the_row_of_an_event_says_who_decided_why_and_what_was_paid() -> None:
    rejected = structs.replace(REJECTED, actor=Actor("kim", "person"), reason=Reason("QUA", "damaged"), facts=NUMBERED)
    (row,) = on_event(after(RECEIVED), rejected, POLICY, NOW + HOUR).transitions
    assert (row.actor, row.actor_kind, row.reason) == ("kim", "person", "QUA")
    assert (row.number, row.issue_date, row.buyer) == ("RE-1", date(2026, 3, 1), None)
    (row,) = on_event(after(*CLOSED), PAID, POLICY, NOW + 20 * DAY).transitions
    assert (row.paid_on, row.paid_amount, row.discount_taken) == (
        date(2026, 3, 22), Decimal("1225.00"), Decimal("25.00"),
    )  # fmt: skip


def test_the_row_of_a_command_says_who_gave_it() -> None:
    (row,) = act(after(RECEIVED), Complete("authorization")).transitions
    assert (row.actor, row.actor_kind, row.outcome) == ("ann", "person", "complete")


def chain(*decisions: Decision[Any]) -> list[tuple[Any, ...]]:
    return [
        (row.kind, row.from_status, row.to_status, row.from_amount and str(row.from_amount), str(row.to_amount))
        for decision in decisions
        for row in decision.transitions
    ]


def test_an_alert_before_its_event_changes_no_status() -> None:
    record = waiting(after(RECEIVED), "authorization")
    decision = on_event(record, event("authorization", "approved", DEADLINE + 1), POLICY, DEADLINE + 1)
    assert [row[:3] for row in chain(decision)] == [
        ("alert", "AwaitingAuthorization", "AwaitingAuthorization"),
        ("event", "AwaitingAuthorization", "AwaitingReconciliation"),
    ]


def test_a_revival_after_its_event_changes_no_status() -> None:
    decision = on_event(parked(), event("authorization", "approved", NOW + 20 * DAY), POLICY, NOW + 20 * DAY)
    assert [row[:3] for row in chain(decision)] == [
        ("event", "AwaitingAuthorization", "AwaitingReconciliation"),
        ("revive", "AwaitingReconciliation", "AwaitingReconciliation"),
    ]


def test_rows_form_a_chain_of_amounts_and_keep_what_the_event_stated() -> None:
    first = on_event(None, event("ingestion", "received", facts=facts(amount=Decimal("100.00"))), POLICY, NOW)
    dearer = event("authorization", "approved", NOW + HOUR, facts=facts(amount=Decimal("120.00")))
    second = on_event(saved(first, NOW), dearer, POLICY, NOW + HOUR)
    old = event("ingestion", "received", NOW - HOUR, "old", facts=facts(amount=Decimal("90.00")))
    third = on_event(saved(second, NOW), old, POLICY, NOW + HOUR)
    assert chain(first, second, third) == [
        ("event", None, "AwaitingAuthorization", None, "100.00"),
        ("event", "AwaitingAuthorization", "AwaitingReconciliation", "100.00", "120.00"),
        ("event", "AwaitingReconciliation", "AwaitingReconciliation", "120.00", "120.00"),
    ]
    assert [str(row.amount) for row in third.transitions] == ["90.00"]


def test_an_events_row_has_its_own_source_and_attributes() -> None:
    stated = structs.replace(facts(), source=Source("workflow"), attributes={"approver": "Kim"})
    decision = on_event(after(RECEIVED), structs.replace(APPROVED, facts=stated), POLICY, NOW + HOUR)
    (row,) = decision.transitions
    assert (row.source, row.attributes) == ("workflow", {"approver": "Kim"})


def test_a_row_keeps_the_decision_time_even_if_the_clock_went_back() -> None:
    decision = on_event(after(RECEIVED), APPROVED, POLICY, NOW - DAY)
    assert decision.transitions[0].decided_at == NOW - DAY < decision.transitions[0].recorded_at


def test_an_alerts_row_before_an_event_has_the_earlier_facts() -> None:
    record = waiting(after(event("ingestion", "received", facts=facts(amount=Decimal("100.00")))), "authorization")
    dearer = event("authorization", "approved", DEADLINE + 1, facts=facts(amount=Decimal("120.00"), currency="USD"))
    alert, approved = on_event(record, dearer, POLICY, DEADLINE + 1).transitions
    assert (alert.kind, alert.amount, alert.currency) == ("alert", Decimal("100.00"), "EUR")
    assert (approved.amount, approved.currency) == (Decimal("120.00"), "USD")

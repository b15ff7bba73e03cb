"""Decisions: pure functions (record, input, policy, now) -> record to save, actions to carry out, and answer.

They are total: every record and input has a decision, and none raises. They are idempotent by the six rules of
docs/architecture.md: the runtimes rely on that, because no queue or service offers exactly-once delivery.
"""

from typing import Any, Literal, overload

from msgspec import Struct, structs

from bems.tracker.actions import Action, SendTaskAnswer, seconds_until
from bems.tracker.commands import (
    NEED_NOTE,
    Acknowledge,
    AddNote,
    Assign,
    Cancel,
    Command,
    Complete,
    Confirmation,
    Extend,
    Park,
    Revive,
    Snooze,
)
from bems.tracker.contract import FAILURE_STATUS, SUCCESS_STATUS, Actor, Event, Stage
from bems.tracker.instants import LATEST, Instant, render
from bems.tracker.policy import Policy
from bems.tracker.record import InvoiceRecord, Note, Stamp
from bems.tracker.record_builder import (
    DISPUTABLE_STAGES,
    GRACE_PERIOD,
    MAX_FAILED_RUNS,
    MAX_RUN_AGE,
    MAX_SILENCE,
    AnswerT,
    Decision,
    RecordBuilder,
)
from bems.tracker.status import Outcome


class Receipt(Struct, frozen=True):
    """Result of an event or command.

    `reason` says why it was refused. After a command, `next_alert_at` is when the invoice's next alert is due. A
    command that needs a second person is `requested` until another operator confirms it, at the latest at `confirm_by`.
    """

    result: Literal["accepted", "duplicate", "conflict", "refused", "requested"]
    reason: str = ""
    next_alert_at: Instant | None = None
    confirm_by: Instant | None = None


class WaitRequest(Struct, frozen=True):
    """Registration of a waiting execution: its run, stage, task token and stamp."""

    run: int
    stage: Stage
    token: str
    stamp: Stamp


class NextStep(Struct, frozen=True):
    """Next step of an execution: wait again until `wait_until`, or end."""

    next: Literal["Await", "Parked", "Superseded"]
    wait_until: Instant

    def payload(self, now: Instant) -> dict[str, str | int]:
        """Return the Escalate function's result. Computed when it is sent, because it depends on the time."""
        return {"next": self.next, "deadline_seconds": seconds_until(self.wait_until, now)}


ACCEPTED, DUPLICATE, CONFLICT = Receipt("accepted"), Receipt("duplicate"), Receipt("conflict")


@overload
def classify_duplicate(known_digest: str, digest: str) -> Receipt: ...
@overload
def classify_duplicate(known_digest: str | None, digest: str) -> Receipt | None: ...
def classify_duplicate(known_digest: str | None, digest: str) -> Receipt | None:
    """Compare an event's digest with the one known for its event_id: duplicate, conflict, or None if none is known."""
    if known_digest is None:
        return None
    return DUPLICATE if known_digest == digest else CONFLICT


def classify_repeated_command(known: Command, receipt: Receipt, command: Command) -> Receipt:
    """Return the receipt of a command whose id was used before, by the command `known` with the result `receipt`.

    The same command again is a duplicate, or returns its original refusal; a different command is a conflict.
    """
    if (known.invoice_id, known.operator, known.verb) != (command.invoice_id, command.operator, command.verb):
        return CONFLICT
    return structs.replace(receipt, result="duplicate") if receipt.result == "accepted" else receipt


def refuse_confirmation(requested: Command, receipt: Receipt, confirmation: Confirmation) -> str:
    """Return why a command with this receipt cannot be confirmed, or "" if it can."""
    if receipt.result != "requested":
        return f"the command {requested.id} is {receipt.result}: it needs no confirmation"
    if confirmation.operator == requested.operator:
        return f"{requested.operator} has requested the command: another person must confirm it"
    if receipt.confirm_by is not None and confirmation.at > receipt.confirm_by:
        return f"the request has expired at {render(receipt.confirm_by)}: send the command again, with another id"
    return ""


def on_event(record: InvoiceRecord | None, event: Event, policy: Policy, now: Instant) -> Decision[Receipt]:
    """Decide on an event of a source system."""
    version = (event.occurred_at, event.event_id)
    if record is None:
        builder = RecordBuilder(InvoiceRecord(event.invoice_id, event.facts, version), policy, now, new=True)
    else:
        for event_id, digest in record.recent_event_ids:
            if event_id == event.event_id:
                return _unchanged(record, classify_duplicate(digest, event.digest))
        builder = RecordBuilder(record, policy, now)
        if not event.imported:
            _raise_overdue_alert(builder)
    builder.merge_facts(event.facts, event.occurred_at, event.event_id)
    builder.remember_event(event.event_id, event.digest)
    row = builder.add_row(
        "event",
        f"event {event.event_id}",
        event.stage,
        event.facts,
        outcome=event.status,
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        received_at=event.received_at,
    )
    if event.actor or event.reason or event.payment:
        _add_event_details(row, event)
    outcome = Outcome(event.status, event.event_id, event.occurred_at, event.received_at, event.actor, event.reason)
    builder.counts_from_occurrence = event.imported or policy.waits_from == "occurrence"
    replaced_dispute = builder.find_unreported_dispute(event.stage) if event.imported else None
    builder.evaluate_match()
    is_newest = _apply_outcome(builder, row, event.stage, outcome)
    is_bad = event.stage in DISPUTABLE_STAGES and event.status == FAILURE_STATUS[event.stage]
    if is_newest and event.imported and is_bad:
        # A past mismatch or failure raises no dispute alert; while it stands, the alerts of the wait name its event.
        if replaced_dispute:
            builder.raise_dispute_alert(event.stage, replaced_dispute)
        builder.reported_disputes = {**builder.reported_disputes, event.stage: event.event_id}
        builder.unalerted_disputes = {**builder.unalerted_disputes, event.stage: event.event_id}
    builder.record_identity(outcome, event.facts)
    builder.check_identity(event.event_id)
    if builder.manual_outcomes:
        builder.check_contradiction(outcome, event.stage)
    builder.align_wait()
    wait = builder.wait
    if wait and is_newest and event.imported and (wait.counted_from or (is_bad and wait.stage == event.stage)):
        builder.postpone_first_alert()
    return builder.finish(ACCEPTED)


def on_wait(record: InvoiceRecord | None, request: WaitRequest, policy: Policy, now: Instant) -> Decision[None]:
    """Register a waiting execution.

    A stamp older than the run's newest is a late repeat and is ignored, whatever its stage. An equal stamp is not
    ignored, because AWS's clock in it counts milliseconds and two states can share one.
    """
    if record is None:
        return Decision(None, (SendTaskAnswer(request.token, "Superseded", now),), (), None)
    builder = RecordBuilder(record, policy, now)
    if request.run < record.run.number:
        builder.actions.append(SendTaskAnswer(request.token, "Superseded", now))
        return builder.finish(None)
    if request.stamp < record.run.stamp:
        return _unchanged(record, None)
    builder.run = structs.replace(
        record.run, token=request.token, stage=request.stage, stamp=request.stamp, silent_since=0
    )
    builder.align_wait()
    return builder.finish(None)


def on_timeout(
    record: InvoiceRecord | None, run: int, stage: Stage, policy: Policy, now: Instant
) -> Decision[NextStep]:
    """Decide on a wait that timed out, or woke early after `MAX_WAIT`.

    The run's registered token stays, because an answer to it may already be in flight.
    """
    if record is None or run < record.run.number:
        return _unchanged(record, NextStep("Superseded", now))
    builder = RecordBuilder(record, policy, now)
    builder.clear_silence()
    if builder.wait and builder.wait.stage == stage:
        builder.escalate()
    if builder.mark == "parked":
        builder.align_wait()
        builder.close_run()
        return builder.finish(NextStep("Parked", now))
    builder.align_wait()
    return builder.finish(_wait_again(builder, stage))


def on_dispute(
    record: InvoiceRecord | None, run: int, stage: Stage, policy: Policy, now: Instant
) -> Decision[NextStep]:
    """Report a mismatch or failed posting once, and restart the wait of its stage."""
    if record is None or run < record.run.number:
        return _unchanged(record, NextStep("Await", now))
    builder = RecordBuilder(record, policy, now)
    builder.clear_silence()
    outcome = builder.find_unreported_dispute(stage)
    if outcome and builder.wait and builder.wait.stage == stage:
        builder.report_dispute(builder.wait, outcome)
    builder.align_wait()
    return builder.finish(_wait_again(builder, stage))


def on_command(record: InvoiceRecord | None, command: Command, policy: Policy, now: Instant) -> Decision[Receipt]:
    """Decide on an operator's command. A command that would change nothing is refused with a reason."""
    if record is None:
        return Decision(None, (), (), Receipt("refused", f"there is no invoice {command.invoice_id}"))
    # Version 0.1.0 kept command ids among the event ids.
    if command.id in record.recent_command_ids or any(id == command.event_id for id, _ in record.recent_event_ids):
        return _unchanged(record, Receipt("duplicate", next_alert_at=record.wait.due if record.wait else None))
    builder = RecordBuilder(record, policy, now)
    verb = command.verb
    changes_wait = not isinstance(verb, Assign | AddNote)
    if changes_wait:
        _raise_overdue_alert(builder)
    reason = _refusal_reason(builder, command)
    if not reason and command.name in NEED_NOTE and not command.note.strip():
        reason = f"{command.name} needs a note: say why"
    if reason:
        return _unchanged(record, Receipt("refused", reason))
    builder.remember_command(command.id)
    if command.note:
        builder.note = Note(command.note, command.operator, now)
    stage: Stage = builder.waits_for or "posting"
    if isinstance(verb, Complete | Cancel):
        stage = verb.stage if isinstance(verb, Complete) else "ingestion"
    row = builder.add_row(
        "command",
        command.event_id,
        stage,
        outcome=command.name,
        event_id=command.event_id,
        occurred_at=command.accepted_at,
        received_at=command.accepted_at,
        step=builder.wait.step if builder.wait else None,
        actor=command.operator,
        actor_kind="person",
    )
    if isinstance(verb, Assign):
        builder.assignee = verb.assignee
    if not changes_wait:
        return builder.finish(Receipt("accepted", next_alert_at=builder.wait.due if builder.wait else None))
    builder.evaluate_match()
    if isinstance(verb, Complete | Cancel):
        status = SUCCESS_STATUS[stage] if isinstance(verb, Complete) else "cancelled"
        overruled = builder.outcomes.get(stage)
        occurred_at = max(command.accepted_at, overruled.occurred_at + 1) if overruled else command.accepted_at
        actor = Actor(command.operator, "person")
        _apply_outcome(builder, row, stage, Outcome(status, command.event_id, occurred_at, command.accepted_at, actor))
        builder.record_manual_outcome(stage, status, command.operator, command.confirmed_by)
        builder.check_identity(command.event_id)
    elif isinstance(verb, Revive):
        builder.revive()
    elif builder.wait and isinstance(verb, Park):
        builder.park(builder.wait, command.operator)
    elif builder.wait and isinstance(verb, Extend):
        builder.extend(builder.wait, verb.until, command.operator)
    elif builder.wait and isinstance(verb, Snooze):
        builder.snooze(builder.wait, verb.until)
    elif builder.wait and isinstance(verb, Acknowledge):
        builder.wait = structs.replace(builder.wait, acknowledged=builder.wait.step)
    builder.align_wait()
    return builder.finish(Receipt("accepted", next_alert_at=builder.wait.due if builder.wait else None))


def on_sweep(
    record: InvoiceRecord | None, policy: Policy, now: Instant, ended_run: int | None = None
) -> Decision[None]:
    """Repair a record at its `check_at`, or after its execution failed, timed out or was aborted (`ended_run`)."""
    if record is None:
        return Decision(None, (), (), None)
    builder = RecordBuilder(record, policy, now)
    if ended_run == record.run.number and record.run.state == "open":
        builder.close_run()
        if builder.wait:
            ended_runs = builder.wait.ended_runs + 1
            builder.wait = structs.replace(builder.wait, ended_runs=ended_runs)
            if ended_runs >= MAX_FAILED_RUNS and builder.mark is None:
                builder.make_dormant(builder.wait)
    elif builder.wait and record.run.state == "open":
        if now >= builder.wait.due + GRACE_PERIOD:
            builder.escalate()
            if not builder.is_starting():
                builder.run = structs.replace(builder.run, silent_since=builder.run.silent_since or now)
        # The notice that an execution ended may be lost, so a run that stays silent is replaced.
        silent_since = builder.run.silent_since
        too_old = now >= record.run.started_at + MAX_RUN_AGE
        if builder.wait and (too_old or (silent_since and now >= silent_since + MAX_SILENCE)):
            builder.replace_run()
    else:
        builder.escalate()
    builder.align_wait()
    return builder.finish(None)


def _unchanged(record: InvoiceRecord | None, answer: AnswerT) -> Decision[AnswerT]:
    """Return a decision that changes nothing but carries out the pending actions again."""
    pending: tuple[Action, ...] = record.pending if record else ()
    return Decision(record, pending, (), answer)


def _raise_overdue_alert(builder: RecordBuilder) -> None:
    """Raise the alert that was due before this event or command.

    An execution's timer counts whole seconds, so an input may arrive after the deadline but before the timeout.
    """
    if builder.wait and builder.now > builder.wait.due:
        builder.escalate()


def _add_event_details(row: dict[str, Any], event: Event) -> None:
    """Add what an event says besides the facts of the invoice."""
    actor, reason, payment = event.actor, event.reason, event.payment
    if actor:
        row["actor"], row["actor_kind"] = actor.id, actor.kind
    if reason:
        row["reason"] = reason.code
    if payment:
        row |= {
            "paid_on": payment.paid_on,
            "paid_amount": payment.amount,
            "discount_taken": payment.discount_taken,
        }


def _apply_outcome(builder: RecordBuilder, row: dict[str, Any], stage: Stage, outcome: Outcome) -> bool:
    """Apply an outcome of an event or command, wake a dormant invoice, and return whether it is its stage's newest."""
    if stage == "posting":
        builder.record_posting(outcome)
    is_newest = builder.apply_outcome(stage, outcome)
    if not is_newest:
        row["superseded"] = True
    builder.record_closing(stage, outcome)
    if builder.mark == "dormant":
        builder.mark = None
    return is_newest


def _wait_again(builder: RecordBuilder, stage: Stage) -> NextStep:
    """Return the next Await. If the invoice waits at another stage, it ends now, because its answer is known."""
    wait = builder.wait
    return NextStep("Await", wait.due if wait and wait.stage == stage else builder.now)


def _refusal_reason(builder: RecordBuilder, command: Command) -> str:
    """Return why a command would change nothing, or "" if it would change something."""
    verb, wait = command.verb, builder.wait
    if isinstance(verb, Complete):
        current = builder.outcomes.get(verb.stage)
        if current and current.status != FAILURE_STATUS[verb.stage]:
            return f"{verb.stage} is already {current.status}"
    elif isinstance(verb, Assign):
        if verb.assignee == builder.assignee:
            return f"the invoice is already assigned to {verb.assignee}" if verb.assignee else "nobody is assigned"
    elif isinstance(verb, AddNote):
        return ""
    elif isinstance(verb, Cancel):
        if builder.status == "Cancelled":
            return "the invoice is already cancelled"
    elif isinstance(verb, Revive):
        if builder.mark != "parked":
            return "the invoice is not parked"
    elif builder.mark == "parked":
        return "the invoice is parked: revive it first"
    elif wait is None:
        return f"the invoice is {builder.status} and waits for nothing"
    elif isinstance(verb, Extend):
        if not max(wait.due, builder.now) < verb.until <= LATEST:
            return (
                f"the new deadline must be later than {render(wait.due)}, when the next alert is due, and before 3000"
            )
    elif isinstance(verb, Snooze):
        due, last = builder.next_due_unsnoozed(wait), builder.last_due(wait)
        if not max(due, builder.now) < verb.until < last:
            return (
                f"a snooze must end after {render(max(due, builder.now))}, when an alert is due, and before"
                f" {render(last)}, when the last one is"
            )
    elif isinstance(verb, Acknowledge) and not wait.is_stuck:
        return "no alert is out in this wait"
    return ""

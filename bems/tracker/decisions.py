"""The decisions: (record, input, policy, now) -> what to save, to do and to answer.

They are total: every record and input has a decision, and none raises. They are safe to repeat anywhere, by the six
rules of docs/architecture.md; the shells rely on that instead of on exactly-once delivery, which nobody offers.
"""

from typing import Any, Literal, overload

from msgspec import Struct, structs

from bems.tracker.actions import Action, SendTaskAnswer, seconds_until
from bems.tracker.commands import Acknowledge, Cancel, Command, Complete, Extend, Park, Revive
from bems.tracker.contract import FAILURE_STATUS, SUCCESS_STATUS, Event, Stage
from bems.tracker.instants import LATEST, Instant, render
from bems.tracker.policy import Policy
from bems.tracker.record import InvoiceRecord, Stamp
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
    """What became of an event or command. `reason` says why it was refused; `next_alert_at` when, after an operator's
    command, the invoice's next alert is due."""

    result: Literal["accepted", "duplicate", "conflict", "refused"]
    reason: str = ""
    next_alert_at: Instant | None = None


class WaitRequest(Struct, frozen=True):
    """An execution now waits: it registers the token that answers it."""

    run: int
    stage: Stage
    token: str
    stamp: Stamp


class NextStep(Struct, frozen=True):
    """What an execution that asked does next: wait again until an instant, or end."""

    next: Literal["Await", "Parked", "Superseded"]
    wait_until: Instant

    def payload(self, now: Instant) -> dict[str, str | int]:
        """The Escalate function's result, computed when it is sent."""
        return {"next": self.next, "deadline_seconds": seconds_until(self.wait_until, now)}


ACCEPTED, DUPLICATE, CONFLICT = Receipt("accepted"), Receipt("duplicate"), Receipt("conflict")


@overload
def classify_duplicate(known: str, digest: str) -> Receipt: ...
@overload
def classify_duplicate(known: str | None, digest: str) -> Receipt | None: ...
def classify_duplicate(known: str | None, digest: str) -> Receipt | None:
    """What an event is of whose id the digest is `known`; None for the first of its id."""
    if known is None:
        return None
    return DUPLICATE if known == digest else CONFLICT


def classify_repeated_command(known: Command, receipt: Receipt, command: Command) -> Receipt:
    """What a command is whose id `known` had, of which `receipt` came: that one, sent again, or another one. Who was
    refused is told so again."""
    if (known.invoice_id, known.operator, known.verb) != (command.invoice_id, command.operator, command.verb):
        return CONFLICT
    return structs.replace(receipt, result="duplicate") if receipt.result == "accepted" else receipt


def on_event(record: InvoiceRecord | None, event: Event, policy: Policy, now: Instant) -> Decision[Receipt]:
    """A source system reported something."""
    of = (event.occurred_at, event.event_id)
    if record is None:
        builder = RecordBuilder(InvoiceRecord(event.invoice_id, event.facts, of), policy, now, new=True)
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
    outcome = Outcome(event.status, event.event_id, event.occurred_at, event.received_at)
    builder.counts_from_occurrence = event.imported or policy.waits_from == "occurrence"
    replaced = builder.find_unreported_dispute(event.stage) if event.imported else None
    absorbed = _apply_outcome(builder, row, event.stage, outcome)
    is_bad = event.stage in DISPUTABLE_STAGES and event.status == FAILURE_STATUS[event.stage]
    if absorbed and event.imported and is_bad:
        # Nobody is called for a mismatch of last year; while it stands, the wait's own alerts say so.
        if replaced:
            builder.raise_dispute_alert(event.stage, replaced)
        builder.reported_disputes = {**builder.reported_disputes, event.stage: event.event_id}
    builder.record_identity(outcome, event.facts)
    builder.check_identity(event.event_id)
    builder.align_wait()
    wait = builder.wait
    if wait and absorbed and event.imported and (wait.counted_from or (is_bad and wait.stage == event.stage)):
        builder.postpone_first_alert()
    return builder.finish(ACCEPTED)


def on_wait(record: InvoiceRecord | None, request: WaitRequest, policy: Policy, now: Instant) -> Decision[None]:
    """An execution now waits. A stamp older than the run's newest is a late repeat, whatever its stage, and is ignored;
    an equal one is not, since AWS's clock in it counts milliseconds."""
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
    """A wait ran out, or woke early. The token that the run registered stays: an answer to it may be on its way."""
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
    """A mismatch or failed posting is to be reported, once; the wait of its stage starts anew."""
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
    """An operator acts. A command that could change nothing is refused with a reason."""
    if record is None:
        return Decision(None, (), (), Receipt("refused", f"there is no invoice {command.invoice_id}"))
    if any(event_id == command.event_id for event_id, _ in record.recent_event_ids):
        return _unchanged(record, Receipt("duplicate", next_alert_at=record.wait.due if record.wait else None))
    builder = RecordBuilder(record, policy, now)
    _raise_overdue_alert(builder)
    reason = _refusal_reason(builder, command)
    if reason:
        return _unchanged(record, Receipt("refused", reason))
    builder.remember_event(command.event_id, "")
    verb = command.verb
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
    )
    if isinstance(verb, Complete | Cancel):
        status = SUCCESS_STATUS[stage] if isinstance(verb, Complete) else "cancelled"
        overruled = builder.outcomes.get(stage)
        occurred_at = max(command.accepted_at, overruled.occurred_at + 1) if overruled else command.accepted_at
        _apply_outcome(builder, row, stage, Outcome(status, command.event_id, occurred_at, command.accepted_at))
        builder.check_identity(command.event_id)
    elif isinstance(verb, Revive):
        builder.revive()
    elif builder.wait and isinstance(verb, Park):
        builder.park(builder.wait, command.operator)
    elif builder.wait and isinstance(verb, Extend):
        builder.extend(builder.wait, verb.until, command.operator)
    elif builder.wait and isinstance(verb, Acknowledge):
        builder.wait = structs.replace(builder.wait, acknowledged=builder.wait.step)
    builder.align_wait()
    return builder.finish(Receipt("accepted", next_alert_at=builder.wait.due if builder.wait else None))


def on_sweep(
    record: InvoiceRecord | None, policy: Policy, now: Instant, ended_run: int | None = None
) -> Decision[None]:
    """The safety net: at `check_at`, or when a run is known to have ended by itself (failed, timed out, aborted)."""
    if record is None:
        return Decision(None, (), (), None)
    builder = RecordBuilder(record, policy, now)
    if ended_run == record.run.number and record.run.state == "open":
        builder.close_run()
        if builder.wait:
            ended_runs = builder.wait.ended_runs + 1
            builder.wait = structs.replace(builder.wait, ended_runs=ended_runs)
            if ended_runs >= MAX_FAILED_RUNS and builder.mark is None:
                builder.mark = "dormant"
    elif builder.wait and record.run.state == "open":
        if now >= builder.wait.due + GRACE_PERIOD:
            builder.escalate()
            if not builder.is_starting():
                builder.run = structs.replace(builder.run, silent_since=builder.run.silent_since or now)
        # Notice of an ended execution may never come: one that stays silent is given up.
        silent_since = builder.run.silent_since
        too_old = now >= record.run.started_at + MAX_RUN_AGE
        if builder.wait and (too_old or (silent_since and now >= silent_since + MAX_SILENCE)):
            builder.replace_run()
    else:
        builder.escalate()
    builder.align_wait()
    return builder.finish(None)


def _unchanged(record: InvoiceRecord | None, answer: AnswerT) -> Decision[AnswerT]:
    """Nothing new; what is still pending is carried out again."""
    pending: tuple[Action, ...] = record.pending if record else ()
    return Decision(record, pending, (), answer)


def _raise_overdue_alert(builder: RecordBuilder) -> None:
    """An event or command may come before the execution whose timer, of whole seconds, has just run out: the alert that
    was due before it comes before it."""
    if builder.wait and builder.now > builder.wait.due:
        builder.escalate()


def _apply_outcome(builder: RecordBuilder, row: dict[str, Any], stage: Stage, outcome: Outcome) -> bool:
    """An outcome came in, by event or command: whatever it says, somebody is there again. Whether it is the newest."""
    absorbed = builder.apply_outcome(stage, outcome)
    if not absorbed:
        row["superseded"] = True
    builder.record_closing(stage, outcome)
    if builder.mark == "dormant":
        builder.mark = None
    return absorbed


def _wait_again(builder: RecordBuilder, stage: Stage) -> NextStep:
    """Wait on. At another stage than the invoice's there is nothing to wait for: the Await is answered at once."""
    wait = builder.wait
    return NextStep("Await", wait.due if wait and wait.stage == stage else builder.now)


def _refusal_reason(builder: RecordBuilder, command: Command) -> str:
    """Why a command could change nothing; empty where it can."""
    verb, wait = command.verb, builder.wait
    if isinstance(verb, Complete):
        register = builder.outcomes.get(verb.stage)
        if register and register.status == SUCCESS_STATUS[verb.stage]:
            return f"{verb.stage} is already {register.status}"
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
    elif isinstance(verb, Acknowledge) and not wait.is_stuck:
        return "no alert is out in this wait"
    return ""

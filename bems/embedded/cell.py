"""Embedded cell: handles events, commands and due items by asking the core, and runs the executions.

The caller is the store's only writer. Everything that a call causes happens within the call, in one transaction of the
store. So a decision's pending actions are carried out at once and never stored (rule 1 of docs/architecture.md).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import structs

from bems.embedded.definition import ESCALATE, REGISTER_WAIT
from bems.embedded.executions import Executions
from bems.embedded.storage.store import AuditEntry, DueItem, Store
from bems.engine import Machine
from bems.tracker.actions import SendTaskAnswer, StartExecution
from bems.tracker.commands import CONFIRMATION_PERIOD, Command, Confirmation
from bems.tracker.contract import Event
from bems.tracker.decisions import (
    Receipt,
    WaitRequest,
    classify_duplicate,
    classify_repeated_command,
    on_command,
    on_dispute,
    on_event,
    on_sweep,
    on_timeout,
    on_wait,
    refuse_confirmation,
)
from bems.tracker.instants import Instant, parse
from bems.tracker.policy import Policy
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import Decision, clear_pending

AnswerT = TypeVar("AnswerT")


class Cell:
    """Cell of one machine, over a store."""

    def __init__(self, policy: Policy, machine: Machine, store: Store) -> None:
        self.policy = policy
        self.store = store
        functions = {REGISTER_WAIT: self._register_wait, ESCALATE: self._escalate}
        self.executions = Executions(machine, functions, store, self._on_execution_ended)

    def handle_event(self, event: Event, now: Instant) -> Receipt:
        """Handle an event of a source system. A repeated event id returns `duplicate` or `conflict`."""
        repeat = classify_duplicate(self.store.digest(event.event_id), event.digest)
        if repeat:
            return repeat
        self.store.add_event(event)
        return self.redrive(event, now)

    def redrive(self, event: Event, now: Instant) -> Receipt:
        """Handle an event that is in the store already. Idempotent: the invoice's record remembers the event."""
        return self._decide(event.invoice_id, now, lambda record: on_event(record, event, self.policy, now))

    def handle_command(self, command: Command, now: Instant) -> Receipt:
        """Handle an operator's command and add it, with its receipt, to the audit log.

        A repeated command is answered from the audit log. A command that needs a second person is only added to it,
        as `requested`.
        """
        known = self.store.command(command.id)
        if known is not None:
            return classify_repeated_command(known.command, known.receipt, command)
        record = self.store.record(command.invoice_id)
        if record is None or not self.policy.needs_confirmation(command.name, record.facts):
            return self._carry_out(command, now)
        receipt = on_command(record, command, self.policy, now).answer
        if receipt.result == "accepted":
            receipt = Receipt("requested", confirm_by=now + CONFIRMATION_PERIOD)
        self.store.add_command(AuditEntry(command, receipt))
        return receipt

    def handle_confirmation(self, confirmation: Confirmation, now: Instant) -> Receipt:
        """Carry out a requested command that another operator confirms. A repeated confirmation is a duplicate."""
        requested = self.store.command(confirmation.command_id)
        if requested is None:
            return Receipt("refused", f"there is no command {confirmation.command_id}")
        if requested.command.confirmed_by == confirmation.operator:
            return structs.replace(requested.receipt, result="duplicate")
        reason = refuse_confirmation(requested.command, requested.receipt, confirmation)
        if reason:
            return Receipt("refused", reason)
        confirmed = structs.replace(requested.command, accepted_at=confirmation.at, confirmed_by=confirmation.operator)
        return self._carry_out(confirmed, now)

    def _carry_out(self, command: Command, now: Instant) -> Receipt:
        receipt = self._decide(command.invoice_id, now, lambda record: on_command(record, command, self.policy, now))
        self.store.add_command(AuditEntry(command, receipt))
        return receipt

    def fire_next(self, before: Instant) -> Instant | None:
        """Fire the item that is due first, at its own instant, and return that instant.

        Return None, and do nothing, if no item is due before `before`.
        """
        due = self.store.next_due()
        if due is None or due.at >= before:
            return None
        self.fire_due(due, due.at)
        return due.at

    def fire_due(self, due: DueItem, now: Instant) -> None:
        """Fire a due item at `now`. An item that is not due yet, or was fired already, has no effect."""
        if due.kind == "timer":
            self.executions.fire(due.key, now)
        else:
            self._decide(due.key, now, lambda record: on_sweep(record, self.policy, now))

    def _decide(
        self, invoice_id: str, now: Instant, decide: Callable[[InvoiceRecord | None], Decision[AnswerT]]
    ) -> AnswerT:
        before = self.store.record(invoice_id)
        decision = decide(before)
        record = decision.record
        if record is not None and record is not before:
            self.store.put_record(clear_pending(record, now) if record.pending else record)
            self.store.add_transitions(decision.transitions)
        for action in decision.actions:
            if isinstance(action, StartExecution):
                self.executions.start(action, now)
            elif isinstance(action, SendTaskAnswer):
                self.executions.answer(action, now)
            else:
                self.store.add_alert(action.alert)
        return decision.answer

    def _on_execution_ended(self, started: dict[str, Any], now: Instant) -> None:
        run = started["run"]
        self._decide(started["invoice_id"], now, lambda record: on_sweep(record, self.policy, now, ended_run=run))

    def _register_wait(self, payload: dict[str, Any], now: Instant) -> dict[str, Any]:
        run, stamp = payload["run"], (parse(payload["entered_at"]), payload["retry_count"])

        def decide(record: InvoiceRecord | None) -> Decision[None]:
            # This runtime registers each wait immediately and once. So an older stamp is not a late repeat: the clock
            # went back.
            newest = max(stamp, record.run.stamp) if record and record.run.number == run else stamp
            return on_wait(record, WaitRequest(run, payload["stage"], payload["token"], newest), self.policy, now)

        self._decide(payload["invoice_id"], now, decide)
        return {}

    def _escalate(self, payload: dict[str, Any], now: Instant) -> dict[str, Any]:
        decide = on_dispute if payload["reason"] == "dispute" else on_timeout
        run, stage = payload["run"], payload["stage"]
        onward = self._decide(payload["invoice_id"], now, lambda record: decide(record, run, stage, self.policy, now))
        return onward.payload(now)

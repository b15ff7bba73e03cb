"""A runtime as its users see it: what they send, the time that passes, and what they can observe."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from msgspec import structs

from bems.tracker.actions import execution_name
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant, render
from bems.tracker.record import InvoiceRecord
from bems.tracker.requests import Role
from bems.tracker.status import status_of
from tests.aws.cloud import event_body

OPERATOR: Role = "operator"
"""Role and name of the key that sends all commands."""

ID = "INV-1"
"""Invoice of a clause that needs only one."""

MAX_STEPS = 1_000
"""Maximum number of instants at which something is due while time passes."""


class Reply(NamedTuple):
    """Answer of the API to events."""

    status: int
    content: Any


class CommandResult(NamedTuple):
    """Result of a command. `next_alert_at` is RFC 3339."""

    result: str
    reason: str
    next_alert_at: str | None


class ExecutionSummary(NamedTuple):
    """An execution: its name, status and input, and the states that it entered."""

    name: str
    status: str
    input: dict[str, Any]
    states: list[str]


class Runtime(ABC):
    """A running cell whose clock changes only by `pass_time`."""

    @property
    @abstractmethod
    def now(self) -> Instant: ...

    # -- what users send; each method returns when everything that follows at this instant is done

    @abstractmethod
    def post(self, stage: Stage, body: object, *, is_batch: bool = False) -> Reply:
        """Send a body to the API. A body that is not bytes is sent as JSON."""

    @abstractmethod
    def apply_command(self, body: dict[str, Any]) -> CommandResult:
        """Apply a valid command of the operator, given as the body of `POST /commands`."""

    def event(
        self, stage: Stage, status: str, invoice_id: str = ID, event_id: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Return the body of an event that occurs now."""
        given = {"occurred_at": render(self.now), **fields}
        return event_body(invoice_id, status, event_id or f"{invoice_id}:{stage}:{status}", **given)

    def send(
        self, stage: Stage, status: str, invoice_id: str = ID, event_id: str | None = None, **fields: Any
    ) -> Reply:
        """Send an event that occurs now."""
        return self.post(stage, self.event(stage, status, invoice_id, event_id, **fields))

    def command(self, verb: str, invoice_id: str = ID, command_id: str | None = None, **fields: Any) -> CommandResult:
        """Apply a command. The default id is that of the only command with this verb on this invoice."""
        named = {
            "command_id": command_id or f"{invoice_id}:{verb}",
            "invoice_id": invoice_id,
            "verb": verb,
            "note": "why",
        }
        return self.apply_command({**named, **fields})

    # -- time

    def pass_time(self, duration: Instant) -> None:
        """Advance the clock, stopping at each instant at which something is due."""
        end = self.now + duration
        self._handle_due(self.now)
        for _ in range(MAX_STEPS):
            dues = [at for at in self._due_instants() if at <= end]
            if not dues:
                break
            self._handle_due(max(self.now, min(dues)))
        else:
            raise AssertionError("the runtime does not become idle")
        self._handle_due(end)

    @abstractmethod
    def _due_instants(self) -> list[Instant]:
        """Return when timers of executions, checks of records and retries are due."""

    @abstractmethod
    def _handle_due(self, now: Instant) -> None:
        """Move the clock, and handle what is due at that instant."""

    # -- what can be observed

    @abstractmethod
    def find_record(self, invoice_id: str) -> InvoiceRecord | None: ...

    @abstractmethod
    def messages(self) -> list[dict[str, Any]]:
        """Return the messages of alerts and of their resolution that were published, in the order of publishing."""

    def alerts(self) -> list[dict[str, Any]]:
        """Return the messages of all alerts."""
        return [message for message in self.messages() if message["kind"] != "resolved"]

    def resolved(self) -> list[dict[str, Any]]:
        """Return the messages that waits with alerts were resolved."""
        return [message for message in self.messages() if message["kind"] == "resolved"]

    @abstractmethod
    def all_rows(self) -> list[dict[str, str]]:
        """Return the rows of the time series, those of an invoice in order, as `to_text_row` writes them."""

    @abstractmethod
    def executions(self, invoice_id: str = ID) -> list[ExecutionSummary]:
        """Return the executions of an invoice, the oldest first."""

    @abstractmethod
    def conflicts(self) -> list[str]:
        """Return the ids of events that were reported as conflicts."""

    @abstractmethod
    def dead_letters(self) -> list[str]:
        """Return the ids of events that were set aside or wait for a retry."""

    def record(self, invoice_id: str = ID) -> InvoiceRecord:
        """Return a record without `changes`, which only serve to carry rows to the time series."""
        record = self.find_record(invoice_id)
        assert record is not None, f"{invoice_id} has no record"
        return structs.replace(record, changes=())

    def status(self, invoice_id: str = ID) -> str:
        return status_of(self.record(invoice_id).outcomes)

    def rows(self, invoice_id: str = ID) -> list[dict[str, str]]:
        return [row for row in self.all_rows() if row["invoice_id"] == invoice_id]

    def execution_names(self, invoice_id: str) -> list[str]:
        """Return the names of all executions that the record has started."""
        record = self.find_record(invoice_id)
        return [execution_name(invoice_id, run) for run in range(1, record.run.number + 1)] if record else []

    # -- faults

    @abstractmethod
    def refuse_starts(self) -> AbstractContextManager[None]:
        """Let every start of an execution fail inside the block."""

    @abstractmethod
    def refuse_alerts(self) -> AbstractContextManager[None]:
        """Let every publishing of an alert fail inside the block."""

    @abstractmethod
    def redrive(self) -> None:
        """Handle all dead letters again."""

    @abstractmethod
    def lose_execution(self, invoice_id: str = ID) -> None:
        """Stop the newest execution of an invoice, and lose the notice that it ended."""


def as_answered_on_aws(reply: Reply, body: bytes) -> Reply:
    """Return the answer to `body` with repeats and conflicts answered as new events.

    On AWS the API answers before an event is compared with earlier ones.
    """
    if reply.status == 409 or (reply.status == 202 and reply.content["status"] == "duplicate"):
        return Reply(202, {"event_id": json.loads(body)["event_id"], "status": "accepted"})
    if reply.status != 207:
        return reply
    results = [
        {"status": "accepted", "code": 202, "event_id": one["event_id"]}
        if one["status"] in ("duplicate", "conflict")
        else one
        for one in reply.content["results"]
    ]
    return Reply(207, {"results": results})

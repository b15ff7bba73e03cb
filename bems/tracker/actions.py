"""Actions: the side effects that a decision requests.

A decision's actions are saved with the record as `pending` and carried out after the write, possibly more than once.
Each is idempotent: an execution starts by name, a task token accepts one answer, and an alert is identified by its id.
"""

import re
from hashlib import blake2b
from typing import Literal

from msgspec import Struct, field

from bems.tracker.contract import Facts, Stage
from bems.tracker.instants import DAY, SECOND, Instant

Severity = Literal["warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("warning", "critical")
AlertKind = Literal["stuck", "dispute", "failed", "identity", "contradiction", "resolved"]
"""`resolved` is no alert: it tells those who got the alerts of a wait that the wait has ended or was extended."""

TaskAnswer = Literal["ok", "Rejected", "Cancelled", "Parked", "Superseded", "Mismatched", "PostingFailed"]
"""Answer to a waiting execution: `ok` when its stage is complete, or the name of an error that its state machine
definition catches."""

MAX_WAIT = 30 * DAY
"""Longest timeout of one task, in microseconds; a longer wait is split into several tasks."""

_OUTSIDE_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def seconds_until(until: Instant, now: Instant) -> int:
    """Return a task's timeout in whole seconds, rounded up, from 1 second to 30 days.

    AWS fails a task whose timeout is 0 or less. After 30 days the execution asks again and receives the remaining time.
    """
    return -(-min(max(until - now, SECOND), MAX_WAIT) // SECOND)


def execution_name(invoice_id: str, run: int) -> str:
    """Return a run's execution name: readable, unique, and within Step Functions' 80 characters of [A-Za-z0-9_-]."""
    slug = _OUTSIDE_NAMES.sub("-", invoice_id)[:40].strip("-")
    return f"{slug}-{_short_hash(invoice_id)}-{run}"


def alert_id(*parts: str | int) -> str:
    """Return an alert's id. The same parts give the same id, so receivers can recognize an alert that is sent twice."""
    return _short_hash("\0".join(map(str, parts)))


def _short_hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=10).hexdigest()


class StartExecution(Struct, frozen=True, tag="start"):
    """Start the execution of a run.

    The decision fixes the input, because StartExecution is idempotent only for the same name and the same input.
    """

    invoice_id: str
    run: int
    deadline_seconds: int

    @property
    def name(self) -> str:
        return execution_name(self.invoice_id, self.run)

    @property
    def input(self) -> dict[str, str | int]:
        return {"invoice_id": self.invoice_id, "run": self.run, "deadline_seconds": self.deadline_seconds}


class SendTaskAnswer(Struct, frozen=True, tag="answer"):
    """Answer a waiting execution by its task token: SendTaskSuccess for `ok`, else SendTaskFailure with that error.

    `until` is the deadline of the next stage's wait. An answer to an expired or unknown token counts as delivered.
    """

    token: str
    answer: TaskAnswer = field(name="told")
    until: Instant

    def output(self, now: Instant) -> dict[str, int]:
        """Return the output of SendTaskSuccess. Computed when it is sent, because it depends on the time."""
        return {"deadline_seconds": seconds_until(self.until, now)}


class Alert(Struct, frozen=True, omit_defaults=True):
    """Alert that somebody must look at an invoice.

    `step` counts the alerts of one wait from 1; it is 0 for every other kind, except `resolved`, which has that of the
    last alert. `due_at`
    is the instant at which the alert was due, `raised_at` the instant at which it was decided. `waiting_since` is the
    start of the invoice's current wait, or `raised_at` if it waits for nothing. `last` marks the alert after which the
    invoice is parked. `detail` says what an identity alert or a contradiction found, or how the wait was resolved.
    `open_stages` are the stages without a positive outcome, and `negative_outcomes` the negative ones by stage.
    """

    id: str
    invoice_id: str
    kind: AlertKind
    stage: Stage
    severity: Severity
    step: int
    waiting_since: Instant
    due_at: Instant
    raised_at: Instant
    facts: Facts
    event_id: str | None = None
    last: bool = False
    detail: str | None = None
    open_stages: tuple[Stage, ...] = ()
    negative_outcomes: dict[Stage, str] = {}

    @property
    def incident(self) -> str:
        """Id that all alerts of one wait share."""
        return alert_id(self.invoice_id, self.stage, self.waiting_since)


class RaiseAlert(Struct, frozen=True, tag="alert"):
    """Send an alert to the destinations of its severity."""

    alert: Alert


Action = StartExecution | SendTaskAnswer | RaiseAlert

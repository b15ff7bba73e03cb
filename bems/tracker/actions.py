"""Actions: what a decision wants done outside the record.

They are saved with the record as `pending` and carried out after the write, possibly more than once. Each is harmless
to repeat: an execution starts by name, an answer uses up its token, an alert is known by its id.
"""

import re
from hashlib import blake2b
from typing import Literal

from msgspec import Struct, field

from bems.tracker.contract import Facts, Stage
from bems.tracker.instants import DAY, SECOND, Instant

Severity = Literal["warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("warning", "critical")
AlertKind = Literal["stuck", "dispute", "failed", "identity"]
TaskAnswer = Literal["ok", "Rejected", "Cancelled", "Parked", "Superseded", "Mismatched", "PostingFailed"]
"""What an execution is told: that its stage is complete, or the name of the error that its definition catches."""

MAX_WAIT = 30 * DAY
_OUTSIDE_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def seconds_until(until: Instant, now: Instant) -> int:
    """What a state machine is told to wait: whole seconds, rounded up, at least 1 (AWS fails a task whose timeout is 0
    or less) and at most 30 days, after which it asks again and is told the rest."""
    return -(-min(max(until - now, SECOND), MAX_WAIT) // SECOND)


def execution_name(invoice_id: str, run: int) -> str:
    """The name of a run's execution: readable, unique, and within Step Functions' 80 characters of [A-Za-z0-9_-]."""
    slug = _OUTSIDE_NAMES.sub("-", invoice_id)[:40].strip("-")
    return f"{slug}-{_short_hash(invoice_id)}-{run}"


def alert_id(*parts: str | int) -> str:
    """The same parts give the same id, so an alert that is raised twice is known to be one."""
    return _short_hash("\0".join(map(str, parts)))


def _short_hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=10).hexdigest()


class StartExecution(Struct, frozen=True, tag="start"):
    """Start the execution of a run. The input is fixed when it is decided: StartExecution repeats safely only with the
    same name and the same input."""

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

    `until` is the instant until which the next stage is waited for; an answer to a dead token counts as delivered.
    """

    token: str
    answer: TaskAnswer = field(name="told")
    until: Instant

    def output(self, now: Instant) -> dict[str, int]:
        """The output of a success, computed when it is sent."""
        return {"deadline_seconds": seconds_until(self.until, now)}


class Alert(Struct, frozen=True, omit_defaults=True):
    """Somebody should look at this invoice.

    `step` counts the alerts of one wait from 1; it is 0 for a dispute, a failed posting and an identity alert. `due_at`
    is the instant at which the alert was due, `raised_at` the one at which it was decided. `waiting_since` is when the
    invoice's present wait began, or `raised_at` if it waits for nothing. `detail` says what an identity alert found.
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


class RaiseAlert(Struct, frozen=True, tag="alert"):
    """Send an alert to the destinations of its severity."""

    alert: Alert


Action = StartExecution | SendTaskAnswer | RaiseAlert

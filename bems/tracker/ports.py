"""Ports: what the protocol of `apply_decision` needs from a runtime.

The AWS runtime runs that protocol over its adapters. The embedded cell has its own version, in which a decision and its
actions are one transaction; it implements only `Clock` and `Executions`. `tests/conformance` tests both runtimes.
"""

from typing import Protocol

from bems.tracker.actions import Alert, SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord


class Clock(Protocol):
    """Wall clock, which may go backwards."""

    def now(self) -> Instant: ...


class Records(Protocol):
    """Store with one record per invoice."""

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        """Return the newest version of a record, never a stale one; None if there is none."""
        ...

    def save(self, record: InvoiceRecord) -> bool:
        """Save `record` if the stored version is `record.version - 1` (0: no record). Return whether it did."""
        ...


class Executions(Protocol):
    """Executions of the state machine. Both methods are idempotent."""

    def start(self, execution: StartExecution, now: Instant) -> None:
        """Start an execution by name. Do nothing if an execution of that name exists."""
        ...

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        """Answer an execution by its token. An unknown, used or expired token counts as answered."""
        ...


class Alerts(Protocol):
    """Delivery of alerts to people."""

    def raise_alert(self, alert: Alert) -> None:
        """Send an alert to the destinations of its severity, at least once."""
        ...

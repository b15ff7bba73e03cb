"""The ports: what the tracker needs of a home. Each home has its adapters; the same contract tests hold them."""

from typing import Protocol

from bems.tracker.actions import Alert, SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord


class Clock(Protocol):
    """The time of day, which may go back."""

    def now(self) -> Instant: ...


class Records(Protocol):
    """One record per invoice."""

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        """The newest version, never a stale one."""
        ...

    def save(self, record: InvoiceRecord) -> bool:
        """Write `record` if the stored version is the one before it (0: there is none); False where it is not."""
        ...


class Executions(Protocol):
    """The state machine's executions. Both calls are harmless to repeat, and return once it is done or was done."""

    def start(self, execution: StartExecution, now: Instant) -> None:
        """Start by name; one that already exists is the same one."""
        ...

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        """Answer by token; an unknown, used or expired token counts as answered."""
        ...


class Alerts(Protocol):
    """The way out to people."""

    def raise_alert(self, alert: Alert) -> None:
        """Send to the destinations of the alert's severity, at least once."""
        ...

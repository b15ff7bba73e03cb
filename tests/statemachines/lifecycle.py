"""A cell on freezegun's clock, with the real core, engine and definition."""

from datetime import UTC, datetime, timedelta
from typing import Any

from freezegun.api import FrozenDateTimeFactory

from bems.clock import SystemClock
from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.store import MemoryStore
from bems.tracker.actions import execution_name
from bems.tracker.contract import Facts, Stage
from bems.tracker.decisions import Receipt
from bems.tracker.instants import to_datetime
from bems.tracker.policy import Policy
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import status_of
from tests.tracker.samples import FACTS, event

INVOICE = "INV/2026/000123"


class Lifecycle:
    """One invoice in a cell. Tests move the clock."""

    def __init__(self, frozen: FrozenDateTimeFactory, policy: Policy) -> None:
        self.frozen = frozen
        self.clock = SystemClock()
        self.store = MemoryStore(keep_history=True)
        self.cell = Cell(policy, load_machine(), self.store)
        self.sent = 0

    def send(self, stage: Stage, status: str, facts: Facts = FACTS, ago: timedelta = timedelta()) -> Receipt:
        """Send an event that occurred `ago`."""
        self.sent += 1
        now = self.clock.now()
        occurred_at = now - int(ago.total_seconds()) * 1_000_000
        return self.cell.handle_event(event(stage, status, occurred_at, f"e{self.sent}", INVOICE, facts), now)

    def advance(self, **duration: float) -> None:
        """Advance the clock, stopping at each instant at which something is due."""
        self.until(datetime.now(UTC) + timedelta(**duration))

    def until(self, end: datetime) -> None:
        while (due := self.store.next_due()) and to_datetime(due.at) <= end:
            self.frozen.move_to(max(to_datetime(due.at), datetime.now(UTC)))
            assert self.cell.fire_next(self.clock.now() + 1) is not None
        self.frozen.move_to(end)

    @property
    def record(self) -> InvoiceRecord:
        record = self.store.record(INVOICE)
        assert record
        return record

    @property
    def status(self) -> str:
        return status_of(self.record.outcomes)

    @property
    def alerts(self) -> list[tuple[str, str, int, str]]:
        """Kind, stage, step and severity of each alert, in the order of raising."""
        return [(alert.kind, alert.stage, alert.step, alert.severity) for alert in self.store.alerts]

    def due_at(self) -> list[datetime]:
        return [to_datetime(alert.due_at) for alert in self.store.alerts]

    def history(self, run: int = 1) -> list[dict[str, Any]]:
        return self.cell.executions.history(execution_name(INVOICE, run))

    def states(self, run: int = 1) -> list[str]:
        """Return the names of the states that a run entered, as the console shows them."""
        return [e["stateEnteredEventDetails"]["name"] for e in self.history(run) if e["type"].endswith("StateEntered")]

    def execution_status(self, run: int = 1) -> str:
        execution = self.store.execution(execution_name(INVOICE, run))
        assert execution
        return execution.status

"""Adapters of both runtimes, and what the contract tests need to inspect them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bems.aws.alerts import SnsAlerts
from bems.aws.executions import StepFunctionsExecutions
from bems.aws.records import DynamoRecords
from bems.embedded import executions as embedded
from bems.embedded.definition import load_machine
from bems.embedded.storage.store import Store
from bems.tracker.actions import Alert
from bems.tracker.instants import Instant
from bems.tracker.ports import Alerts, Executions, Records
from bems.tracker.record import InvoiceRecord
from tests.aws.cloud import CELL, Cloud
from tests.tracker.samples import NOW

MACHINE = load_machine()


class Adapter(Protocol):
    """The ports of a runtime, and their observable effects."""

    records: Records
    executions: Executions
    alerts: Alerts

    def waits(self) -> list[dict[str, Any]]:
        """Return the payloads of calls to RegisterWait, in order."""
        ...

    def status(self, name: str) -> str:
        """Return an execution's status."""
        ...

    def raised(self) -> list[str]:
        """Return the distinct ids of raised alerts, sorted."""
        ...

    def advance(self, seconds: int) -> None:
        """Advance the clock and fire timers."""
        ...


class StoreRecords:
    """The embedded store as a Records port.

    The store has a single writer and so does not check versions; this class does.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        return self._store.record(invoice_id)

    def save(self, record: InvoiceRecord) -> bool:
        known = self._store.record(record.invoice_id)
        if (known.version if known else 0) != record.version - 1:
            return False
        self._store.put_record(record)
        return True


class StoreAlerts:
    """The embedded store as an Alerts port."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def raise_alert(self, alert: Alert) -> None:
        self._store.add_alert(alert)


class EmbeddedAdapter:
    """The embedded runtime: executions on a store."""

    def __init__(self, store: Store, raised: Callable[[], list[str]]) -> None:
        self._store = store
        self._raised = raised
        self._waits: list[dict[str, Any]] = []
        self._now = NOW
        self.records: Records = StoreRecords(store)
        self.alerts: Alerts = StoreAlerts(store)
        functions: dict[str, embedded.TaskFunction] = {
            "RegisterWaitFunction": self._wait,
            "EscalateFunction": self._park,
        }
        self.executions: Executions = embedded.Executions(MACHINE, functions, store, self._ended)

    def _ended(self, started: dict[str, Any], now: Instant) -> None:
        """Start no further execution."""

    def waits(self) -> list[dict[str, Any]]:
        return self._waits

    def status(self, name: str) -> str:
        execution = self._store.execution(name)
        assert execution
        return execution.status

    def raised(self) -> list[str]:
        return self._raised()

    def advance(self, seconds: int) -> None:
        self._now += seconds * 1_000_000
        while (due := self._store.next_due()) and due.at <= self._now:
            assert isinstance(self.executions, embedded.Executions)
            self.executions.fire(due.key, due.at)

    def _wait(self, payload: dict[str, Any], now: Instant) -> dict[str, Any]:  # noqa: ARG002
        self._waits.append(payload)
        return {}

    def _park(self, payload: dict[str, Any], now: Instant) -> dict[str, Any]:  # noqa: ARG002
        return {"next": "Parked", "deadline_seconds": 1}


class AwsAdapter:
    """The AWS runtime: the boto3 adapters on a Cloud."""

    def __init__(self, cloud: Cloud, client: Callable[[str], Any], topics: dict[Any, str], table: str) -> None:
        self._cloud = cloud
        self._waits: list[dict[str, Any]] = []
        self.records: Records = DynamoRecords(client("dynamodb"), table)
        self.executions: Executions = StepFunctionsExecutions(
            client("stepfunctions"), "arn:aws:states:eu-west-1:123456789012:stateMachine:bems-test-invoice-lifecycle"
        )
        self.alerts: Alerts = SnsAlerts(client("sns"), CELL, topics)
        cloud.machine.functions = {"RegisterWaitFunction": self._wait, "EscalateFunction": self._park}

    def waits(self) -> list[dict[str, Any]]:
        self._process_all()
        return self._waits

    def status(self, name: str) -> str:
        self._process_all()
        return self._cloud.machine.executions[name].status

    def raised(self) -> list[str]:
        return sorted({alert["id"] for alert in self._cloud.alerts})

    def advance(self, seconds: int) -> None:
        self._process_all()
        self._cloud.now += seconds * 1_000_000
        self._cloud.machine.fire_timers()
        self._process_all()

    def _process_all(self) -> None:
        while self._cloud.machine.is_busy:
            self._cloud.machine.process_next()

    def _wait(self, payload: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG002
        self._waits.append(payload)
        return {}

    def _park(self, payload: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG002
        return {"next": "Parked", "deadline_seconds": 1}

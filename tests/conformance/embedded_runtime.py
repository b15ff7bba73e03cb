"""The embedded cell: the whole service over HTTP, in a folder, on a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bems.embedded.alerting.delivery import NotDelivered
from bems.embedded.analytics.time_series import DUCKDB_COLUMNS
from bems.embedded.definition import load_machine
from bems.embedded.executions import Executions
from bems.embedded.storage.reader import Reader, open_reader
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import Redrive
from bems.engine import Stop, step
from bems.tracker.actions import StartExecution
from bems.tracker.alert_messages import json_body
from bems.tracker.contract import Stage
from bems.tracker.control_totals import AlertMessage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from tests.aws.cloud import CELL
from tests.conformance.rows import to_text_row
from tests.conformance.runtime import ID, OPERATOR, CommandResult, ExecutionSummary, Reply, Runtime
from tests.embedded.api.calls import Cell, Inbox
from tests.embedded.submit import submit
from tests.waiting import SOON, until

MACHINE = load_machine()
ALL = 1_000_000


class MessageInbox(Inbox):
    """Destination that keeps the messages of alerts, as a webhook receives them."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.is_refusing = False

    def send(self, alert: AlertMessage) -> None:
        if self.is_refusing:
            raise NotDelivered("the receiver refuses everything", outage=False)
        self.messages.append(json.loads(msgspec.json.encode(json_body(alert, CELL))))


class EmbeddedRuntime(Runtime):
    """A service in a folder, and a reader of its committed store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inbox = MessageInbox()
        self._conflicts: list[str] = []
        self._cell, self._reader = self._open()

    def _open(self) -> tuple[Cell, Reader]:
        cell = Cell(self._folder, name=CELL, destinations=self._inbox.everything)
        return cell, open_reader(self._folder)

    def close(self) -> None:
        self._reader.close()
        self._cell.service.stop()

    @property
    def now(self) -> Instant:
        return self._cell.clock.now()

    def post(self, stage: Stage, body: object, *, is_batch: bool = False) -> Reply:
        answer = self._cell.ask("POST", f"/invoices/{stage}{'/batch' * is_batch}", body, "sender")
        content = answer.content
        if answer.status == 409:
            sent = body if isinstance(body, bytes) else json.dumps(body)
            self._conflicts.append(json.loads(sent)["event_id"])
        elif is_batch and answer.status == 207:
            self._conflicts += [one["event_id"] for one in content["results"] if one["status"] == "conflict"]
        return Reply(answer.status, content)

    def apply_command(self, body: dict[str, Any]) -> CommandResult:
        answer = self._cell.ask("POST", "/commands", body, OPERATOR)
        content = answer.content
        if answer.status == 200:
            return CommandResult(content["status"], "", content.get("next_alert_at"))
        assert answer.status in (404, 409), answer
        return CommandResult("refused", content["detail"], None)

    def _due_instants(self) -> list[Instant]:
        records = self._reader.invoices(limit=ALL)
        executions = [
            self._reader.execution(name) for record in records for name in self.execution_names(record.invoice_id)
        ]
        dues = [record.check_at for record in records]
        dues += [execution.due for execution in executions if execution]
        dues += [letter.retry_at for letter in self._reader.dead_letters(limit=ALL)]
        return [at for at in dues if at is not None]

    def _handle_due(self, now: Instant) -> None:
        self._cell.move_to(now)
        # The group that answers this item also fires what is due.
        assert submit(self._cell.service.writer, Redrive("none")).result(SOON).result == "refused"

    def find_record(self, invoice_id: str) -> InvoiceRecord | None:
        return self._reader.record(invoice_id)

    def messages(self) -> list[dict[str, Any]]:
        if not self._inbox.is_refusing:
            deliveries, raised = self._cell.service.deliveries, len(self._reader.newest_alerts(limit=ALL))
            deliveries.wake()
            deliveries.retry()
            until(lambda: len(self._inbox.messages) >= raised and deliveries.waiting() == 0)
        return list(self._inbox.messages)

    def all_rows(self) -> list[dict[str, str]]:
        recorded = self._reader.counts().transitions
        if recorded == 0:
            return []
        analytics = self._cell.service.analytics
        analytics.wake()
        until(lambda: analytics.watermark == recorded)
        names = [name for name in DUCKDB_COLUMNS if name != "seq"]
        rows = analytics.query(f"SELECT {', '.join(names)} FROM transitions ORDER BY seq")
        return [to_text_row(dict(zip(names, row, strict=True))) for row in rows]

    def executions(self, invoice_id: str = ID) -> list[ExecutionSummary]:
        found = []
        for name in self.execution_names(invoice_id):
            execution = self._reader.execution(name)
            assert execution is not None, name
            history = self._cell.get(f"/executions/{name}/history?limit=500")["items"]
            started = history[0]["executionStartedEventDetails"]
            entered = [event["stateEnteredEventDetails"] for event in history if "stateEnteredEventDetails" in event]
            states = [details["name"] for details in entered]
            found.append(ExecutionSummary(name, execution.status, json.loads(started["input"]), states))
        return found

    def conflicts(self) -> list[str]:
        return list(self._conflicts)

    def dead_letters(self) -> list[str]:
        return [letter["event_id"] for letter in self._cell.get("/dead-letters")["items"]]

    def redrive(self) -> None:
        assert self._cell.ask("POST", "/dead-letters/redrive", {"all": True}).status == 200

    @contextmanager
    def refuse_starts(self) -> Iterator[None]:
        """An event whose execution cannot be started is undone, and retried later: each item succeeds as a whole."""

        def refuse(_executions: Executions, execution: StartExecution, _now: Instant) -> None:
            raise RuntimeError(f"no start of {execution.name}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Executions, "start", refuse)
            yield

    @contextmanager
    def refuse_alerts(self) -> Iterator[None]:
        self._inbox.is_refusing = True
        yield
        self._inbox.is_refusing = False

    def lose_execution(self, invoice_id: str = ID) -> None:
        """A cell cannot lose an execution: it is stopped in the store between two starts of the cell."""
        name, now, keys = self.execution_names(invoice_id)[-1], self.now, self._cell.keys
        self.close()
        store = SqliteStore(self._folder)
        execution = store.execution(name)
        assert execution is not None
        stopped, _, _ = step(MACHINE, execution, Stop(), now)
        store.append_stimulus(stopped, Stop(), now)
        store.commit()
        store.close()
        self._cell, self._reader = self._open()
        self._cell.keys = keys
        self._handle_due(now)

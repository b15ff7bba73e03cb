"""The Lambda handlers on moto, with executions on the project's engine (`tests/engine` compares it with moto's)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bems.aws.settings import InvoiceSettings
from bems.tracker.commands import Command
from bems.tracker.contract import Stage
from bems.tracker.decisions import on_command
from bems.tracker.instants import Instant, render
from bems.tracker.record import InvoiceRecord
from bems.tracker.requests import read_command
from handlers.invoices import build_service
from tests.aws.cloud import Cloud, read_record
from tests.aws.recorded_calls import PASS_THROUGH, Fake, ServiceError
from tests.conformance.rows import to_text_row
from tests.conformance.runtime import ID, OPERATOR, CommandResult, ExecutionSummary, Reply, Runtime


class AwsRuntime(Runtime):
    """A `Cloud`, whose queue, stream, timers and schedule run until nothing is left to do.

    moto reads the whole table for each of a sweep's 128 queries, so a fake answers them from the saved items.
    `tests/aws/test_records.py` and `tests/handlers/test_sweeper.py` test them on moto.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        cloud.table.items = cloud.items
        cloud.aws.fakes["Query"] = cloud.table.fakes()["Query"]
        self._invoices = build_service(InvoiceSettings)[1]
        self._is_refusing = False

    @property
    def now(self) -> Instant:
        return self._cloud.now

    def post(self, stage: Stage, body: object, *, is_batch: bool = False) -> Reply:
        answer = self._cloud.post(stage, body, batch=is_batch)
        self._settle()
        return Reply(answer["statusCode"], json.loads(answer["body"]))

    def apply_command(self, body: dict[str, Any]) -> CommandResult:
        """No function on AWS takes commands yet: apply it with the service that all functions decide with."""
        command = read_command(json.dumps(body).encode(), OPERATOR, self.now)
        assert isinstance(command, Command), command
        invoices = self._invoices
        receipt = invoices.decide(
            command.invoice_id, lambda record, now: on_command(record, command, invoices.policy, now)
        )
        self._settle()
        next_alert_at = receipt.next_alert_at
        return CommandResult(receipt.result, receipt.reason, None if next_alert_at is None else render(next_alert_at))

    def _settle(self) -> None:
        """Handle messages, executions and the stream. A message that fails stays in the queue while calls are refused,
        and is delivered again when time passes."""
        cloud = self._cloud
        if self._is_refusing:
            cloud.deliver()
            while cloud.machine.is_busy:
                cloud.machine.process_next()
            cloud.record_stream()
            return
        cloud.settle()
        while cloud.machine.notices:
            cloud.sweep(cloud.machine.notices.popleft())
            cloud.settle()

    def _due_instants(self) -> list[Instant]:
        checks = [record.check_at for record in self._cloud.records() if record.check_at is not None]
        return [*checks, *self._cloud.machine.due_instants()]

    def _handle_due(self, now: Instant) -> None:
        """The schedule invokes the sweeper at each check, so that its alerts have the same time in both runtimes."""
        cloud = self._cloud
        cloud.now = now
        self._settle()
        cloud.machine.fire_timers()
        self._settle()
        if any(record.check_at is not None and record.check_at <= now for record in cloud.records()):
            cloud.sweep()
            self._settle()

    def find_record(self, invoice_id: str) -> InvoiceRecord | None:
        item = self._cloud.items.get(invoice_id)
        return read_record(item) if item else None

    def messages(self) -> list[dict[str, Any]]:
        return list(self._cloud.alerts)

    def all_rows(self) -> list[dict[str, str]]:
        rows = []
        for row in self._cloud.rows:
            values = {**row, "recorded_at": render(int(row["time"]))}
            del values["time"], values["version"]
            rows.append(to_text_row(values))
        return rows

    def executions(self, invoice_id: str = ID) -> list[ExecutionSummary]:
        machine = self._cloud.machine
        return [
            ExecutionSummary(name, execution.status, execution.input, list(machine.entered[name]))
            for name, execution in machine.executions.items()
            if execution.input["invoice_id"] == invoice_id
        ]

    def conflicts(self) -> list[str]:
        """A conflict is detected after the bus, so its message becomes a dead letter."""
        return self.dead_letters()

    def dead_letters(self) -> list[str]:
        details = [json.loads(message["body"])["detail"] for message in self._cloud.dead_letters]
        return [detail["event"]["event_id"] for detail in details]

    def redrive(self) -> None:
        """StartMessageMoveTask, which moto lacks."""
        for message in self._cloud.dead_letters:
            message["attributes"]["ApproximateReceiveCount"] = "0"
        self._cloud.messages.extend(self._cloud.dead_letters)
        self._cloud.dead_letters.clear()
        self._settle()

    @contextmanager
    def refuse_starts(self) -> Iterator[None]:
        with self._refuse("StartExecution", "ExecutionLimitExceeded"):
            yield

    @contextmanager
    def refuse_alerts(self) -> Iterator[None]:
        with self._refuse("Publish", "ThrottlingException"):
            yield

    @contextmanager
    def _refuse(self, operation: str, error: str) -> Iterator[None]:
        fakes = self._cloud.aws.fakes
        known: Fake = fakes.get(operation, lambda _: PASS_THROUGH)

        def refuse(_: dict[str, Any]) -> dict[str, Any]:
            raise ServiceError(error)

        fakes[operation], self._is_refusing = refuse, True
        yield
        fakes[operation], self._is_refusing = known, False

    def lose_execution(self, invoice_id: str = ID) -> None:
        self._cloud.machine.abort(self.execution_names(invoice_id)[-1])
        self._cloud.machine.notices.clear()

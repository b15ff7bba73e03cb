"""Implementations of the Executions port, and what the contract tests need to inspect them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from bems.aws.clients import client
from bems.aws.executions import StepFunctionsExecutions
from bems.embedded import executions as embedded
from bems.embedded.definition import ESCALATE, REGISTER_WAIT, load_machine
from bems.embedded.storage.store import Store
from bems.tracker.instants import Instant
from bems.tracker.ports import Executions
from tests.aws.cloud import MACHINE_ARN, Cloud
from tests.tracker.samples import NOW

MACHINE = load_machine()


class ExecutionsAdapter(ABC):
    """Executions whose RegisterWait only records its payloads, and whose Escalate ends the execution."""

    executions: Executions

    def __init__(self) -> None:
        self._waits: list[dict[str, Any]] = []

    @abstractmethod
    def waits(self) -> list[dict[str, Any]]:
        """Return the payloads of calls to RegisterWait, in order."""

    @abstractmethod
    def status(self, name: str) -> str:
        """Return an execution's status."""

    @abstractmethod
    def advance(self, seconds: int) -> None:
        """Advance the clock and fire timers."""

    def _register_wait(self, payload: dict[str, Any], _: Any) -> dict[str, Any]:
        self._waits.append(payload)
        return {}

    def _escalate(self, _payload: dict[str, Any], _: Any) -> dict[str, Any]:
        return {"next": "Parked", "deadline_seconds": 1}


class EmbeddedExecutions(ExecutionsAdapter):
    """The embedded runtime's executions on a store."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._now = NOW
        functions: dict[str, embedded.TaskFunction] = {REGISTER_WAIT: self._register_wait, ESCALATE: self._escalate}
        self.executions = self._executions = embedded.Executions(MACHINE, functions, store, self._on_ended)

    def _on_ended(self, started: dict[str, Any], now: Instant) -> None:
        """Start no further execution."""

    def waits(self) -> list[dict[str, Any]]:
        return self._waits

    def status(self, name: str) -> str:
        execution = self._store.execution(name)
        assert execution
        return execution.status

    def advance(self, seconds: int) -> None:
        self._now += seconds * 1_000_000
        while (due := self._store.next_due()) and due.at <= self._now:
            self._executions.fire(due.key, due.at)


class AwsExecutions(ExecutionsAdapter):
    """The AWS runtime's executions on a Cloud."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__()
        self._cloud = cloud
        self.executions = StepFunctionsExecutions(client("stepfunctions"), MACHINE_ARN)
        cloud.machine.functions = {REGISTER_WAIT: self._register_wait, ESCALATE: self._escalate}

    def waits(self) -> list[dict[str, Any]]:
        self._process_all()
        return self._waits

    def status(self, name: str) -> str:
        self._process_all()
        return self._cloud.machine.executions[name].status

    def advance(self, seconds: int) -> None:
        self._process_all()
        self._cloud.now += seconds * 1_000_000
        self._cloud.machine.fire_timers()
        self._process_all()

    def _process_all(self) -> None:
        while self._cloud.machine.is_busy:
            self._cloud.machine.process_next()

"""Histories: what an execution went through, computed from its stimuli and never stored."""

from typing import Any, Protocol

from bems.embedded.definition import compile_definition
from bems.engine import Machine, Stimulus, new_execution, replay_history
from bems.tracker.instants import Instant


class ExecutionLog(Protocol):
    """What is kept of executions."""

    def definition_of(self, execution_id: str) -> str | None: ...

    def definition(self, digest: str) -> str: ...

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]: ...


class ExecutionHistories:
    """Executions with the machines that they were started on. `machine` is that of new ones."""

    def __init__(self, machine: Machine, past: ExecutionLog) -> None:
        self._machines: dict[str | None, Machine] = {None: machine, machine.digest: machine}
        self._past = past

    def machine_of(self, execution_id: str) -> Machine:
        """The machine that the execution was started on, and stays on."""
        digest = self._past.definition_of(execution_id)
        machine = self._machines.get(digest)
        if machine is None:
            assert digest is not None
            machine = self._machines[digest] = compile_definition(self._past.definition(digest))
        return machine

    def history_of(self, execution_id: str, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """The execution's history in the shape of GetExecutionHistory; empty for one that never was. Behind the first
        `after` events, and `limit` at most: what comes behind those is not computed."""
        machine, execution = self.machine_of(execution_id), new_execution(execution_id)
        return replay_history(machine, execution, self._past.stimuli(execution_id), after, limit)

"""Execution histories, computed from the stored stimuli of an execution. Histories themselves are never stored."""

from typing import Any, Protocol

from bems.embedded.definition import compile_definition
from bems.engine import Machine, Stimulus, new_execution, replay_history
from bems.tracker.instants import Instant


class ExecutionLog(Protocol):
    """Stored stimuli and definitions of executions."""

    def definition_of(self, execution_id: str) -> str | None: ...

    def definition(self, digest: str) -> str: ...

    def stimuli(self, execution_id: str) -> list[tuple[Stimulus, Instant]]: ...


class ExecutionHistories:
    """Computes histories with the machine that each execution was started on. `machine` is that of new executions."""

    def __init__(self, machine: Machine, log: ExecutionLog) -> None:
        self._machines: dict[str | None, Machine] = {None: machine, machine.digest: machine}
        self._log = log

    def machine_of(self, execution_id: str) -> Machine:
        """Return the machine that the execution was started on. An execution never changes its machine."""
        digest = self._log.definition_of(execution_id)
        machine = self._machines.get(digest)
        if machine is None:
            assert digest is not None
            machine = self._machines[digest] = compile_definition(self._log.definition(digest))
        return machine

    def history_of(self, execution_id: str, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the execution's history in the shape of GetExecutionHistory; empty for an unknown execution.

        The first `after` events are skipped, and at most `limit` events are returned. Events after those are not
        computed.
        """
        machine, execution = self.machine_of(execution_id), new_execution(execution_id)
        return replay_history(machine, execution, self._log.stimuli(execution_id), after, limit)

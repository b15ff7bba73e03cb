"""Executions: the state machine's runs, on the engine instead of on Step Functions."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from bems.embedded.execution_histories import ExecutionHistories
from bems.embedded.storage.store import Store
from bems.engine import (
    ABORTED,
    FAILED,
    TIMED_OUT,
    CallbackFailed,
    CallbackSucceeded,
    Invoke,
    Machine,
    Start,
    Stimulus,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    execution_id,
    new_execution,
    step,
)
from bems.tracker.actions import SendTaskAnswer, StartExecution
from bems.tracker.instants import Instant

ENDED_BY_ITSELF = frozenset((FAILED, TIMED_OUT, ABORTED))

Function = Callable[[dict[str, Any], Instant], Any]
"""What a Lambda function is here: payload and instant to result."""


class Executions:
    """The Executions port. All that a stimulus sets off (functions, their answers) is done before the call returns.

    `ended` is told the input of an execution that fails, times out or is aborted, as EventBridge tells the sweeper. New
    executions run on `machine`; one that was started on another stays on that, whose definition the store keeps.
    """

    def __init__(
        self,
        machine: Machine,
        functions: Mapping[str, Function],
        store: Store,
        ended: Callable[[dict[str, Any], Instant], object],
    ) -> None:
        self._machine = machine
        self._ended = ended
        self._histories = ExecutionHistories(machine, store)
        self._functions = functions
        self._store = store
        self._waiting: deque[tuple[str, Stimulus]] = deque()
        self._busy = False

    def start(self, execution: StartExecution, now: Instant) -> None:
        """Start by name; one that already exists is the same one."""
        name = execution.name
        if self._store.execution(name) is None:
            self._store.add_execution(new_execution(name), self._machine.digest)
            self._enqueue(name, Start(execution.input), now)

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        """Answer by token; an unknown, used or expired token counts as answered."""
        token = answer.token
        stimulus = (
            CallbackSucceeded(token, answer.output(now))
            if answer.answer == "ok"
            else CallbackFailed(token, answer.answer)
        )
        self._enqueue(execution_id(token), stimulus, now)

    def fire(self, id: str, now: Instant) -> None:
        """An execution's timer is due."""
        self._enqueue(id, TimerFired(), now)

    def history(self, id: str) -> list[dict[str, Any]]:
        """The execution's history in the shape of GetExecutionHistory, computed from what happened to it."""
        return self._histories.history_of(id)

    def _enqueue(self, id: str, stimulus: Stimulus, now: Instant) -> None:
        """Queue it behind what is already happening: a function may answer the very execution that called it."""
        self._waiting.append((id, stimulus))
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._step(*self._waiting.popleft(), now)
        finally:
            self._waiting.clear()
            self._busy = False

    def _step(self, id: str, stimulus: Stimulus, now: Instant) -> None:
        execution = self._store.execution(id)
        if execution is None or execution.is_finished:
            return
        execution, effects, _ = step(self._histories.machine_of(id), execution, stimulus, now)
        self._store.append_stimulus(execution, stimulus, now)
        if execution.status in ENDED_BY_ITSELF:
            self._ended(execution.input, now)
        for effect in effects:
            if isinstance(effect, Invoke):
                self._waiting.append((id, self._call(effect, now)))

    def _call(self, invoke: Invoke, now: Instant) -> Stimulus:
        """The `lambda:invoke` integration."""
        arguments = invoke.arguments
        function = self._functions.get(arguments["FunctionName"])
        if function is None:
            return TaskFailed(invoke.invocation, "Lambda.ResourceNotFoundException", f"no {arguments['FunctionName']}")
        result = function(arguments["Payload"], now)
        return TaskSucceeded(invoke.invocation, {"ExecutedVersion": "$LATEST", "Payload": result, "StatusCode": 200})

"""Executions of the state machine on the embedded engine instead of Step Functions."""

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

UNSUCCESSFUL = frozenset((FAILED, TIMED_OUT, ABORTED))
"""Final states of an execution that no answer ended."""

TaskFunction = Callable[[dict[str, Any], Instant], Any]
"""A Lambda function of this runtime: takes the payload and the instant of the call, returns the result."""


class Executions:
    """Implementation of the Executions port.

    Each call returns after everything that its stimulus causes (function calls and their results) is done.

    `on_ended` is called with the input of an execution that fails, times out or is aborted, as EventBridge notifies the
    sweeper on AWS. New executions run on `machine`. An execution that was started on another machine stays on it; the
    store keeps the definition.
    """

    def __init__(
        self,
        machine: Machine,
        functions: Mapping[str, TaskFunction],
        store: Store,
        on_ended: Callable[[dict[str, Any], Instant], object],
    ) -> None:
        self._machine = machine
        self._on_ended = on_ended
        self._histories = ExecutionHistories(machine, store)
        self._functions = functions
        self._store = store
        self._queue: deque[tuple[str, Stimulus]] = deque()
        self._is_running = False

    def start(self, execution: StartExecution, now: Instant) -> None:
        """Start the execution. Idempotent: a name that exists already is the same execution."""
        name = execution.name
        if self._store.execution(name) is None:
            self._store.add_execution(new_execution(name), self._machine.digest)
            self._enqueue(name, Start(execution.input), now)

    def answer(self, answer: SendTaskAnswer, now: Instant) -> None:
        """Answer the task with this token. An unknown, used or expired token counts as answered."""
        token = answer.token
        stimulus = (
            CallbackSucceeded(token, answer.output(now))
            if answer.answer == "ok"
            else CallbackFailed(token, answer.answer)
        )
        self._enqueue(execution_id(token), stimulus, now)

    def fire(self, id: str, now: Instant) -> None:
        """Fire the timer of an execution."""
        self._enqueue(id, TimerFired(), now)

    def history(self, id: str) -> list[dict[str, Any]]:
        """Return the execution's history in the shape of GetExecutionHistory, computed from its stimuli."""
        return self._histories.history_of(id)

    def _enqueue(self, id: str, stimulus: Stimulus, now: Instant) -> None:
        """Run the stimulus, or queue it while another one runs: a function may answer the execution that called it."""
        self._queue.append((id, stimulus))
        if self._is_running:
            return
        self._is_running = True
        try:
            while self._queue:
                self._step(*self._queue.popleft(), now)
        finally:
            self._queue.clear()
            self._is_running = False

    def _step(self, id: str, stimulus: Stimulus, now: Instant) -> None:
        execution = self._store.execution(id)
        if execution is None or execution.is_finished:
            return
        execution, effects, _ = step(self._histories.machine_of(id), execution, stimulus, now)
        self._store.append_stimulus(execution, stimulus, now)
        if execution.status in UNSUCCESSFUL:
            self._on_ended(execution.input, now)
        for effect in effects:
            if isinstance(effect, Invoke):
                self._queue.append((id, self._call(effect, now)))

    def _call(self, invoke: Invoke, now: Instant) -> Stimulus:
        """Call a function as the `lambda:invoke` integration does, and return the result as a stimulus."""
        arguments = invoke.arguments
        function = self._functions.get(arguments["FunctionName"])
        if function is None:
            return TaskFailed(invoke.invocation, "Lambda.ResourceNotFoundException", f"no {arguments['FunctionName']}")
        result = function(arguments["Payload"], now)
        return TaskSucceeded(invoke.invocation, {"ExecutedVersion": "$LATEST", "Payload": result, "StatusCode": 200})

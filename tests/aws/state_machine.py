"""Fake Step Functions: runs the real definition on `bems.engine` and calls the real handlers."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bems.aws.errors import Unavailable
from bems.embedded.definition import ESCALATE, REGISTER_WAIT, load_machine
from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Execution,
    Invoke,
    Rejected,
    Start,
    Stimulus,
    Stop,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    execution_id,
    new_execution,
    step,
)
from bems.tracker.eventbridge_names import FAILED_EXECUTION_STATUSES
from bems.tracker.instants import Instant
from handlers import escalate, register_wait
from tests.aws.recorded_calls import Context, Fake, FunctionKilled, ServiceError

if TYPE_CHECKING:
    from tests.aws.cloud import Cloud

MACHINE = load_machine()
FUNCTIONS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    REGISTER_WAIT: register_wait.handler,
    ESCALATE: escalate.handler,
}


class FakeStepFunctions:
    """Implements names, tokens and errors as in the API reference."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.functions = dict(FUNCTIONS)
        self.reset()

    def reset(self) -> None:
        """Delete all executions."""
        self.executions: dict[str, Execution] = {}
        self.queue: deque[tuple[str, Stimulus | Invoke]] = deque()
        self.entered: defaultdict[str, list[str]] = defaultdict(list)
        self.answered: list[tuple[str, str]] = []
        self.notices: deque[dict[str, Any]] = deque()
        """EventBridge events of executions that failed, timed out or were stopped. A test delivers or loses them."""

    def fakes(self) -> dict[str, Fake]:
        return {
            "StartExecution": self._start,
            "SendTaskSuccess": self._succeed,
            "SendTaskFailure": self._fail,
            "DescribeExecution": self._describe,
        }

    @property
    def is_busy(self) -> bool:
        return bool(self.queue)

    def process_next(self) -> None:
        """Process the next item: apply a stimulus to an execution, or call a function."""
        id, what = self.queue.popleft()
        if isinstance(what, Invoke):
            self.queue.append((id, self._call(what)))
            return
        self._step(id, what)

    def _step(self, id: str, stimulus: Stimulus) -> None:
        before = self.executions[id]
        after, effects, history = step(MACHINE, before, stimulus, self._cloud.now, record=True)
        self.executions[id] = after
        self.entered[id] += [str(event.details[0]) for event in history if event.type.endswith("StateEntered")]
        if not before.is_finished and after.status in FAILED_EXECUTION_STATUSES:
            self.notices.append(self._notice(id))
        for effect in effects:
            if isinstance(effect, Rejected):
                raise ServiceError(effect.error)
            self.queue.append((id, effect))

    def due_instants(self) -> list[Instant]:
        return [one.due for one in self.executions.values() if one.due is not None]

    def fire_timers(self) -> None:
        for id, one in self.executions.items():
            if one.due is not None and one.due <= self._cloud.now:
                self.queue.append((id, TimerFired()))

    def abort(self, name: str) -> dict[str, Any]:
        """Stop an execution as in the console. Returns the EventBridge event of the status change."""
        self._step(name, Stop())
        return self.notices[-1]

    def _notice(self, name: str) -> dict[str, Any]:
        execution = self.executions[name]
        detail = {
            "executionArn": self._arn(name),
            "name": name,
            "status": execution.status,
            "input": json.dumps(execution.input),
        }
        return {"source": "aws.states", "detail-type": "Step Functions Execution Status Change", "detail": detail}

    def _call(self, invoke: Invoke) -> Stimulus:
        function = self.functions[invoke.arguments["FunctionName"]]
        try:
            result = function(invoke.arguments["Payload"], Context())
        except FunctionKilled:
            return TaskFailed(invoke.invocation, "Lambda.ServiceException", "the function was killed")
        except Unavailable as error:
            # Lambda reports the class name of an exception.
            return TaskFailed(invoke.invocation, type(error).__name__, str(error))
        return TaskSucceeded(invoke.invocation, {"ExecutedVersion": "$LATEST", "Payload": result, "StatusCode": 200})

    def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        name, given = params["name"], json.loads(params["input"])
        known = self.executions.get(name)
        if known is None:
            self.executions[name] = new_execution(name)
            self.executions[name].input = given
            self.queue.append((name, Start(given)))
        elif known.is_finished or known.input != given:
            raise ServiceError("ExecutionAlreadyExists")
        return {"executionArn": self._arn(name), "startDate": 0}

    def _succeed(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            params["taskToken"], "ok", CallbackSucceeded(params["taskToken"], json.loads(params["output"]))
        )

    def _fail(self, params: dict[str, Any]) -> dict[str, Any]:
        token, error = params["taskToken"], params["error"]
        return self._answer(token, error, CallbackFailed(token, error, params["cause"]))

    def _answer(self, token: str, answer: str, stimulus: Stimulus) -> dict[str, Any]:
        name = execution_id(token)
        if name not in self.executions:
            raise ServiceError("InvalidToken")
        self._step(name, stimulus)
        self.answered.append((name, answer))
        return {}

    def _describe(self, params: dict[str, Any]) -> dict[str, Any]:
        execution = self.executions.get(params["executionArn"].rpartition(":")[2])
        if execution is None:
            raise ServiceError("ExecutionDoesNotExist")
        return {"input": json.dumps(execution.input)}

    def _arn(self, name: str) -> str:
        return f"arn:aws:states:eu-west-1:123456789012:execution:bems-test-invoice-lifecycle:{name}"

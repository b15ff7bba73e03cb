"""Runs a definition and a script on moto's interpreter and on ours, and normalizes the histories for comparison."""

import functools
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackPoolManager
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

from bems.engine import (
    CallbackFailed,
    CallbackSucceeded,
    Execution,
    Heartbeat,
    Invoke,
    Rejected,
    Start,
    Stimulus,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
    load,
    new_execution,
    replay_history,
    step,
)
from tests.aws.service_models import cache_service_models
from tests.engine.sfn_clock import SfnClock, sfn_clock

cache_service_models()

FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:Function"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Answer:
    """Response of a function `after` a number of seconds: a payload, or an error name and a message."""

    payload: Any = None
    error: str | None = None
    message: str = ""
    after: float = 0

    @property
    def error_payload(self) -> dict[str, Any]:
        return {"errorType": self.error, "errorMessage": self.message}


@dataclass(frozen=True)
class Advance:
    seconds: float


@dataclass(frozen=True)
class Succeed:
    """SendTaskSuccess with the newest task token, or with the previous one if `stale`."""

    output: Any
    stale: bool = False


@dataclass(frozen=True)
class Fail:
    """SendTaskFailure. Without a cause, because moto drops it."""

    error: str
    cause: str | None = None
    stale: bool = False


@dataclass(frozen=True)
class SendHeartbeat:
    pass


Action = Advance | Succeed | Fail | SendHeartbeat


@dataclass(frozen=True)
class Script:
    """A test case.

    Invocations get the answers in order, and the last one again and again. `functions` has separate answers by function
    name.
    """

    definition: dict[str, Any]
    input: Any = field(default_factory=dict)
    answers: tuple[Answer, ...] = (Answer(),)
    actions: tuple[Action, ...] = ()
    functions: dict[str, tuple[Answer, ...]] = field(default_factory=dict)


class Answers:
    def __init__(self, script: Script) -> None:
        self._any = _repeat_last(script.answers)
        self._own = {name: _repeat_last(answers) for name, answers in script.functions.items()}

    def next(self, function: str) -> Answer:
        return next(self._own.get(function, self._any))


@dataclass(frozen=True)
class Outcome:
    """Result of a script. `history` is normalized; `rejected` lists the error names of callbacks."""

    status: str
    output: Any
    history: list[dict[str, Any]]
    rejected: list[str]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.history]


class EngineRunner:
    """Runs scripts on our engine."""

    def __init__(self, now: datetime, arn: str = "arn:aws:states:us-east-1:123456789012:execution:machine:1") -> None:
        self._now = _microseconds(now)
        self._arn = arn
        self.execution: Execution

    def run(self, script: Script) -> Outcome:
        machine_arn = self._arn.replace(":execution:", ":stateMachine:").rpartition(":")[0]
        self._machine = load(script.definition, resources={"lambda:invoke", FUNCTION_ARN}, id=machine_arn)
        self._blank = self.execution = new_execution(self._arn)
        self._answers = Answers(script)
        self._pending: list[tuple[int, Stimulus]] = []
        self._taken: list[tuple[Stimulus, int]] = []
        self._tokens: list[str] = []
        self._rejected: list[str] = []
        self._take(Start(script.input))
        for action in script.actions:
            self._act(action)
        history = replay_history(self._machine, self._blank, self._taken)
        return Outcome(
            self.execution.status, self.execution.output, _normalize(history, set(self._tokens)), self._rejected
        )

    def _act(self, action: Action) -> None:
        match action:
            case Advance(seconds):
                self._advance(self._now + round(seconds * 1_000_000))
            case Succeed(output, stale):
                self._take(CallbackSucceeded(self._token(stale), output))
            case Fail(error, cause, stale):
                self._take(CallbackFailed(self._token(stale), error, cause))
            case SendHeartbeat():
                self._take(Heartbeat(self._token()))

    def _token(self, stale: bool = False) -> str:
        return self._tokens[-2 if stale else -1]

    def _advance(self, target: int) -> None:
        while True:
            instant, stimulus = min(
                [*self._pending, *([(self.execution.due, TimerFired())] if self.execution.due is not None else [])],
                default=(target + 1, None),
                key=lambda entry: entry[0],
            )
            if stimulus is None or instant > target:
                break
            self._now = max(self._now, instant)
            self._pending = [entry for entry in self._pending if entry[1] is not stimulus]
            self._take(stimulus)
        self._now = target

    def _take(self, stimulus: Stimulus) -> None:
        self.execution, effects, _ = step(self._machine, self.execution, stimulus, self._now)
        self._taken.append((stimulus, self._now))
        for effect in effects:
            match effect:
                case Rejected(_, error):
                    self._rejected.append(error)
                case Invoke() as invoke:
                    self._invoke(invoke)

    def _invoke(self, invoke: Invoke) -> None:
        if invoke.token is not None:
            self._tokens.append(invoke.token)
        function = FUNCTION_ARN if invoke.resource == FUNCTION_ARN else invoke.arguments["FunctionName"]
        answer = self._answers.next(function)
        result: Stimulus
        if answer.error is not None:
            result = TaskFailed(invoke.invocation, answer.error, _compact(answer.error_payload))
        elif invoke.resource == FUNCTION_ARN:
            result = TaskSucceeded(invoke.invocation, answer.payload)
        else:
            output = {"ExecutedVersion": "$LATEST", "Payload": answer.payload, "StatusCode": 200}
            result = TaskSucceeded(invoke.invocation, output)
        if answer.after:
            self._pending.append((self._now + round(answer.after * 1_000_000), result))
        else:
            self._take(result)


class MotoRunner:
    """Runs scripts on moto's interpreter. Create it with `moto_runner()`."""

    def __init__(self, clock: SfnClock, client: Any) -> None:
        self.clock = clock
        self._client = client
        self._count = itertools.count(1)
        self._answers: Answers
        self.tokens: list[str] = []
        self.arn = ""

    def run(self, script: Script) -> Outcome:
        self._answers = Answers(script)
        self.tokens.clear()
        machine = self._client.create_state_machine(
            name=f"machine-{next(self._count)}",
            definition=json.dumps(script.definition),
            roleArn="arn:aws:iam::123456789012:role/role",
        )
        self.arn = self._client.start_execution(
            stateMachineArn=machine["stateMachineArn"], name="execution", input=json.dumps(script.input)
        )["executionArn"]
        self.clock.settle()
        rejected: list[str] = []
        for action in script.actions:
            try:
                self._act(action)
            except self._client.exceptions.ClientError as error:
                rejected.append(error.response["Error"]["Code"])
            self.clock.settle()
        execution = self._client.describe_execution(executionArn=self.arn)
        pages = self._client.get_paginator("get_execution_history").paginate(executionArn=self.arn)
        history = [event for page in pages for event in page["events"]]
        # An open execution would consume answers and time of the next one.
        self.clock.close()
        return Outcome(
            execution["status"],
            json.loads(execution["output"]) if "output" in execution else None,
            _normalize(history, set(self.tokens)),
            rejected,
        )

    def _act(self, action: Action) -> None:
        match action:
            case Advance(seconds):
                self.clock.advance(seconds)
            case Succeed(output, stale):
                self._client.send_task_success(taskToken=self._token(stale), output=json.dumps(output))
            case Fail(error, _, stale):
                self._client.send_task_failure(taskToken=self._token(stale), error=error)
            case SendHeartbeat():
                self._client.send_task_heartbeat(taskToken=self._token())

    def _token(self, stale: bool = False) -> str:
        return self.tokens[-2 if stale else -1]

    def invoke(self, parameters: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace the call to Lambda."""
        answer = self._answers.next(parameters["FunctionName"])
        if answer.after:
            sleep = lambda_eval_utils.time.sleep  # type: ignore[attr-defined]
            sleep(answer.after)
        if answer.error is not None:
            return {"FunctionError": "Unhandled", "Payload": answer.error_payload}
        return {"ExecutedVersion": "$LATEST", "Payload": answer.payload, "StatusCode": 200}


@contextmanager
def moto_runner() -> Iterator[MotoRunner]:
    """Run moto with its interpreter on a frozen clock and without Docker: functions answer from the script."""
    with (
        mock_aws(config={"stepfunctions": {"execute_state_machine": True}}),
        pytest.MonkeyPatch.context() as patch,
        sfn_clock() as clock,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        runner = MotoRunner(clock, boto3.client("stepfunctions", region_name="us-east-1"))
        patch.setattr(lambda_eval_utils, "time", clock.replacements()["time"], raising=False)
        patch.setattr(lambda_eval_utils, "_invoke_lambda_function", runner.invoke)
        # Parsing a definition takes longer than running it, and moto parses at every start.
        patch.setattr(AmazonStateLanguageParser, "parse", functools.cache(AmazonStateLanguageParser.parse))
        patch.setattr(CallbackPoolManager, "add", _recording(CallbackPoolManager.add, runner.tokens))
        yield runner


def _recording(add: Any, tokens: list[str]) -> Any:
    def record(self: CallbackPoolManager, callback_id: str) -> Any:
        tokens.append(callback_id)
        return add(self, callback_id)

    return record


def run_both(moto: MotoRunner, script: Script) -> tuple[Outcome, Outcome]:
    """Return the outcomes of moto and of our engine, started at the same instant with the same ARN."""
    started_at = moto.clock.now
    expected = moto.run(script)
    return expected, EngineRunner(started_at, moto.arn).run(script)


def _repeat_last(answers: tuple[Answer, ...]) -> Iterator[Answer]:
    return itertools.chain(answers, itertools.repeat(answers[-1]))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(?:\+00:00|Z)")
_CAUSE_PREFIX = re.compile(r"^An error occurred while executing the state '.*' \(entered at the event id #\d+\)\. ")
_JSON_FIELDS = ("input", "output", "parameters")


def _normalize(history: list[dict[str, Any]], tokens: set[str]) -> list[dict[str, Any]]:
    return [_normalize_event(event, tokens) for event in history]


def _normalize_event(event: dict[str, Any], tokens: set[str]) -> dict[str, Any]:
    normal: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, dict):
            details = {key: _normalize_value(key, item, tokens) for key, item in value.items() if key != "roleArn"}
            normal[name] = details
        else:
            normal[name] = _microseconds(value) // 1000 if name == "timestamp" else value
    return normal


def _normalize_value(key: str, value: Any, tokens: set[str]) -> Any:
    if not isinstance(value, str):
        return value
    for token in sorted(tokens, key=len, reverse=True):
        value = value.replace(token, "<token>")
    if key == "cause":
        # moto omits the sentence with the location of the error, and formats JSON with other spaces.
        return _CAUSE_PREFIX.sub("", value).replace(" ", "")
    # moto renders instants of the context object with an offset and without milliseconds.
    value = _ISO.sub(lambda found: f"{found[1]}{(found[2] or '.')[:4]:0<4}Z", value)
    return json.loads(value) if key in _JSON_FIELDS else value

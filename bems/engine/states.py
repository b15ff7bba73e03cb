"""Compiler of a state: checks its fields and compiles its paths and templates to functions."""

from collections.abc import Collection
from typing import Any, Final

from bems.engine import machine
from bems.engine.choices import Predicate, compile_rule
from bems.engine.errors import RUNTIME, InvalidDefinition, StatesError
from bems.engine.execution import Execution
from bems.engine.paths import (
    MachineIdentity,
    Path,
    PathNotFound,
    PathReader,
    PathWriter,
    check_context_path,
    compile_reader,
    compile_writer,
    constant,
    parse_path,
)
from bems.engine.payloads import dumps
from bems.engine.problems import MAX_SECONDS, Problems
from bems.engine.resources import parse_resource
from bems.engine.retries import compile_catch, compile_retry
from bems.engine.templates import compile_template
from bems.engine.timestamps import SECOND, parse_timestamp

_COMMON_FIELDS: Final = frozenset({"Type", "Comment", "QueryLanguage"})
_FLOW_FIELDS: Final = frozenset({"InputPath", "OutputPath", "Next", "End"})
_WAIT_FIELDS: Final = ("Seconds", "SecondsPath", "Timestamp", "TimestampPath")
_FIELDS: Final[dict[str, frozenset[str]]] = {
    "Task": _COMMON_FIELDS
    | _FLOW_FIELDS
    | {"Resource", "Parameters", "ResultSelector", "ResultPath", "Retry", "Catch"}
    | {"TimeoutSeconds", "TimeoutSecondsPath", "HeartbeatSeconds", "HeartbeatSecondsPath"},
    "Pass": _COMMON_FIELDS | _FLOW_FIELDS | {"Result", "Parameters", "ResultPath"},
    "Wait": _COMMON_FIELDS | _FLOW_FIELDS | set(_WAIT_FIELDS),
    "Choice": _COMMON_FIELDS | {"InputPath", "OutputPath", "Choices", "Default"},
    "Succeed": _COMMON_FIELDS | {"InputPath", "OutputPath"},
    "Fail": _COMMON_FIELDS | {"Error", "ErrorPath", "Cause", "CausePath"},
}
_UNSUPPORTED_TYPES: Final = frozenset({"Map", "Parallel"})
_UNSUPPORTED_FIELDS: Final = frozenset({"Arguments", "Assign", "Credentials", "Output"})
_MAX_NAME_LENGTH: Final = 80
_MAX_WAIT_SECONDS: Final = 2**31 - 1


class StateCompiler:
    """Compiles one state. Adds problems to `problems` and the names of possible next states to `targets`."""

    def __init__(
        self,
        name: str,
        document: Any,
        names: Collection[str],
        problems: Problems,
        identity: MachineIdentity,
        resources: frozenset[str],
    ) -> None:
        self.name = name
        self.document: dict[str, Any] = document if isinstance(document, dict) else {}
        self.where = f"States.{name}"
        self.names = names
        self.problems = problems
        self.identity = identity
        self.resources = resources
        self.targets: set[str] = set()
        self._allows_token = False

    def compile(self) -> machine.State | None:
        kind = self.document.get("Type")
        if len(self.name) > _MAX_NAME_LENGTH:
            self.problems.add(self.where, f"a state name has at most {_MAX_NAME_LENGTH} characters")
        if kind in _UNSUPPORTED_TYPES:
            self.problems.add_unsupported(f"{self.where}.Type", f"state type {kind} is not supported")
            self._add_next_target()
            return None
        if kind not in _FIELDS:
            self.problems.add(f"{self.where}.Type", "required field is missing or not a state type")
            return None
        self._check_fields(kind)
        compiled: machine.State = getattr(self, f"_compile_{kind.lower()}")()
        return compiled

    def _check_fields(self, kind: str) -> None:
        for field in self.document.keys() - _FIELDS[kind]:
            if field in _UNSUPPORTED_FIELDS:
                self.problems.add_unsupported(f"{self.where}.{field}", f"field {field} is not supported")
            else:
                self.problems.add(f"{self.where}.{field}", f"unknown field of a {kind} state")
        query_language = self.document.get("QueryLanguage", "JSONPath")
        if query_language != "JSONPath":
            self.problems.add_unsupported(f"{self.where}.QueryLanguage", f"{query_language} is not supported")

    def _add_next_target(self) -> None:
        target = self.document.get("Next")
        if isinstance(target, str) and target in self.names:
            self.targets.add(target)

    # Fields that several state types have

    def _target(self, target: Any, where: str) -> str:
        if not isinstance(target, str) or target not in self.names:
            self.problems.add(where, f"no state is named {dumps(target)}")
            return ""
        self.targets.add(target)
        return target

    def _next(self) -> str | None:
        ends = self.document.get("End", False)
        if not isinstance(ends, bool):
            self.problems.add(f"{self.where}.End", "expected true")
        if ("Next" in self.document) == (ends is True):
            self.problems.add(self.where, "exactly one of Next and End is required")
            return None
        return self._target(self.document["Next"], f"{self.where}.Next") if "Next" in self.document else None

    def _path(self, text: Any, where: str) -> Path | None:
        try:
            path = parse_path(text)
            check_context_path(path)
        except InvalidDefinition as error:
            self.problems.include(error, where)
            return None
        return path

    def _reader(self, text: Any, where: str) -> PathReader:
        path = self._path(text, where)
        if path is None:
            return constant(None)
        if path.context and path.steps[:1] == ("Task",) and not self._allows_token:
            self.problems.add(where, "the task token exists only in the Parameters of a .waitForTaskToken task")
        return compile_reader(path, self.identity)

    def _filter(self, field: str) -> PathReader | None:
        """Compile InputPath or OutputPath. Absent or $ selects the whole value (None); null selects an empty object."""
        text = self.document.get(field, "$")
        if text is None:
            return constant({})
        if text == "$":
            return None
        read = self._reader(text, f"{self.where}.{field}")

        def read_or_explain(data: Any, execution: Execution) -> Any:
            try:
                return read(data, execution)
            except PathNotFound as missing:
                raise StatesError(RUNTIME, missing.explain()) from None

        return read_or_explain

    def _template(self, field: str) -> PathReader | None:
        if field not in self.document:
            return None
        try:
            return compile_template(self.document[field], f"{self.where}.{field}", self._reader)
        except InvalidDefinition as error:
            self.problems.include(error)
            return None

    def _writer(self, text: Any, where: str) -> PathWriter | None:
        if text is None:
            return None
        path = self._path(text, where)
        if path is not None and path.context:
            self.problems.add(where, "a result cannot be written to the context object")
        return None if path is None else compile_writer(path)

    def _result_path(self) -> PathWriter | None:
        return self._writer(self.document.get("ResultPath", "$"), f"{self.where}.ResultPath")

    def _exclusive_field(self, *fields: str, required: bool) -> str | None:
        given = [field for field in fields if field in self.document]
        if len(given) > 1 or (required and not given):
            self.problems.add(
                self.where, f"{'exactly' if required else 'at most'} one of {', '.join(fields)} is allowed"
            )
        return given[0] if given else None

    def _flow(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "next": self._next(),
            "input_path": self._filter("InputPath"),
            "output_path": self._filter("OutputPath"),
        }

    # State types

    def _compile_task(self) -> machine.Task:
        resource = parse_resource(
            self.document.get("Resource"), self.resources, f"{self.where}.Resource", self.problems
        )
        if resource.service is not None and "Parameters" not in self.document:
            self.problems.add(f"{self.where}.Parameters", "required field of a service integration is missing")
        if resource.waits_for_token is False and self._exclusive_field(
            "HeartbeatSeconds", "HeartbeatSecondsPath", required=False
        ):
            self.problems.add_unsupported(self.where, "heartbeats are supported in .waitForTaskToken tasks only")
        self._allows_token = resource.waits_for_token
        parameters = self._template("Parameters")
        self._allows_token = False
        timeout, heartbeat = self._timeout("Timeout"), self._timeout("Heartbeat")
        limits = self.document.get("HeartbeatSeconds"), self.document.get("TimeoutSeconds")
        if all(isinstance(limit, int) for limit in limits) and limits[0] >= limits[1]:  # type: ignore[operator]
            self.problems.add(f"{self.where}.HeartbeatSeconds", "expected less than TimeoutSeconds")
        return machine.Task(
            **self._flow(),
            resource=resource.name,
            service=resource.service,
            waits_for_token=resource.waits_for_token,
            parameters=parameters,
            result_selector=self._template("ResultSelector"),
            result_path=self._result_path(),
            timeout=timeout,
            heartbeat=heartbeat,
            retry=compile_retry(self.document.get("Retry", []), f"{self.where}.Retry", self.problems),
            catch=compile_catch(
                self.document.get("Catch", []), f"{self.where}.Catch", self.problems, self._target, self._writer
            ),
        )

    def _timeout(self, prefix: str) -> machine.Seconds | None:
        field = self._exclusive_field(f"{prefix}Seconds", f"{prefix}SecondsPath", required=False)
        if field is None:
            return None
        value, where = self.document[field], f"{self.where}.{field}"
        if field.endswith("Path"):
            return self._seconds(field, minimum=1)
        self.problems.check_integer(value, where, minimum=1)
        return constant(value)

    def _seconds(self, field: str, *, minimum: int) -> machine.Seconds:
        text = self.document[field]
        read = self._reader(text, f"{self.where}.{field}")

        def seconds(data: Any, execution: Execution) -> int:
            try:
                value = read(data, execution)
            except PathNotFound as missing:
                cause = (
                    missing.explain() if minimum else f"The {field} parameter does not reference an input value: {text}"
                )
                raise StatesError(RUNTIME, cause) from None
            if type(value) is not int:
                cause = f"The {field} parameter cannot be parsed as a long value: {text} == {dumps(value)}"
                raise StatesError(RUNTIME, cause)
            if value < minimum:
                sign = "non-positive" if minimum else "negative"
                raise StatesError(RUNTIME, f"The {field} parameter references a {sign} value: {text} == {value}")
            if value > MAX_SECONDS:
                raise StatesError(RUNTIME, f"The {field} parameter references too large a value: {text} == {value}")
            return value

        return seconds

    def _compile_wait(self) -> machine.Wait:
        flow = self._flow()
        field = self._exclusive_field(*_WAIT_FIELDS, required=True)
        if field is None:
            return machine.Wait(**flow, until=lambda _data, _execution, now: now)
        value, where = self.document[field], f"{self.where}.{field}"
        if field == "SecondsPath":
            seconds = self._seconds(field, minimum=0)
            return machine.Wait(**flow, until=lambda data, execution, now: now + SECOND * seconds(data, execution))
        if field == "TimestampPath":
            return machine.Wait(**flow, until=self._timestamp(value, self._reader(value, where)))
        if field == "Seconds":
            self.problems.check_integer(value, where, minimum=0)
            return machine.Wait(**flow, until=lambda _data, _execution, now: now + SECOND * int(value))
        if parse_timestamp(value) is None:
            self.problems.add(where, "expected a timestamp such as 2026-11-23T10:15:00Z")
        return machine.Wait(**flow, until=self._timestamp(value, constant(value)))

    @staticmethod
    def _timestamp(text: Any, read: PathReader) -> Any:
        def until(data: Any, execution: Execution, now: int) -> int:
            try:
                value = read(data, execution)
            except PathNotFound:
                cause = f"The TimestampPath parameter does not reference an input value: {text}"
                raise StatesError(RUNTIME, cause) from None
            instant = parse_timestamp(value)
            if instant is None:
                raise StatesError(
                    RUNTIME,
                    "The TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time format "
                    f"string: {text} == {value if isinstance(value, str) else dumps(value)}",
                )
            if instant - now > _MAX_WAIT_SECONDS * SECOND:
                raise StatesError(RUNTIME, "Wait state delay is too long.")
            return instant

        return until

    def _compile_pass(self) -> machine.Pass:
        parameters = self._template("Parameters")
        result = self.document.get("Result")
        return machine.Pass(
            **self._flow(),
            result=constant(result) if "Result" in self.document else parameters,
            result_path=self._result_path(),
        )

    def _compile_choice(self) -> machine.Choice:
        rules = self.document.get("Choices")
        where = f"{self.where}.Choices"
        if not isinstance(rules, list) or not rules:
            self.problems.add(where, "required field is missing or not a list of rules")
            rules = []
        choices = [self._choice(rule, f"{where}[{index}]") for index, rule in enumerate(rules)]
        default = self.document.get("Default")
        return machine.Choice(
            name=self.name,
            input_path=self._filter("InputPath"),
            output_path=self._filter("OutputPath"),
            choices=tuple(choices),
            default=None if default is None else self._target(default, f"{self.where}.Default"),
        )

    def _choice(self, rule: Any, where: str) -> tuple[Predicate, str]:
        target = self._target(rule.get("Next") if isinstance(rule, dict) else None, f"{where}.Next")
        try:
            return compile_rule(rule, where, self._reader), target
        except InvalidDefinition as error:
            self.problems.include(error)
            return lambda _data, _execution: False, target

    def _compile_succeed(self) -> machine.Succeed:
        return machine.Succeed(
            name=self.name, input_path=self._filter("InputPath"), output_path=self._filter("OutputPath")
        )

    def _compile_fail(self) -> machine.Fail:
        return machine.Fail(name=self.name, error=self._text_field("Error"), cause=self._text_field("Cause"))

    def _text_field(self, prefix: str) -> PathReader | None:
        field = self._exclusive_field(prefix, f"{prefix}Path", required=False)
        if field is None:
            return None
        text = self.document[field]
        if field == prefix:
            if not isinstance(text, str):
                self.problems.add(f"{self.where}.{field}", "expected a string")
            return constant(text)
        read = self._reader(text, f"{self.where}.{field}")

        def read_text(data: Any, execution: Execution) -> Any:
            try:
                value = read(data, execution)
            except PathNotFound:
                raise StatesError(
                    RUNTIME,
                    f"The JSONPath '{text}' specified for the field '{field}' could not be found in the input "
                    f"'{dumps(data)}'",
                ) from None
            if not isinstance(value, str):
                raise StatesError(RUNTIME, f"The {field} parameter does not reference a string: {text}")
            return value

        return read_text

"""Paths and reference paths, compiled to functions.

Supported is the part of JSONPath that selects at most one value: `$`, `.name`, `['name']`, `[0]`; and `$$` for the
context object. Whatever can select more (wildcards, slices, filters, recursive descent) is refused.
Source: Amazon States Language, "Paths" and "Reference Paths".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bems.engine.errors import RESULT_PATH_MATCH_FAILURE, InvalidDefinition, StatesError, UnsupportedDefinition
from bems.engine.execution import Execution
from bems.engine.payloads import dumps
from bems.engine.timestamps import render_timestamp

Reader = Callable[[Any, Execution], Any]
"""Reads a value out of a state's data, or out of the context of its execution. Raises PathNotFound."""

Writer = Callable[[Any, Any], Any]
"""writer(data, value): the data with the value put at its place; neither is changed. Raises StatesError."""

_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What the context object says of a state machine."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path: its text, whether it starts in the context object, and its names and indexes."""

    text: str
    context: bool
    steps: tuple[str | int, ...]


class PathNotFound(Exception):
    """The path selects nothing; `depth` counts the steps that could be taken."""

    def __init__(self, path: Path, depth: int) -> None:
        super().__init__(path.text)
        self.path = path
        self.depth = depth

    def explain(self) -> str:
        """The cause that Step Functions gives for InputPath, OutputPath and the like."""
        missing = self.path.steps[: self.depth + 1]
        where = "$" + "".join(f"[{step}]" if isinstance(step, int) else f"['{step}']" for step in missing)
        what = "No results for path:" if len(missing) == len(self.path.steps) else "Missing property in path"
        return f"Invalid path '{self.path.text}' : {what} {where}"


def parse_path(text: Any) -> Path:
    """The path that `text` is. Raises InvalidDefinition, or UnsupportedDefinition where more than one may be meant."""
    if not isinstance(text, str):
        raise InvalidDefinition([f"{dumps(text)} is not a path"])
    if text.startswith("States."):
        raise UnsupportedDefinition([f"intrinsic function {text.partition('(')[0]} is not supported"])
    context = text.startswith("$$")
    position = 2 if context else 1
    if not text.startswith("$"):
        raise InvalidDefinition([f"'{text}' is not a path: it does not start with $"])
    if not context and re.match(r"[A-Za-z_]", text[1:]):
        raise UnsupportedDefinition([f"variable {text} is not supported"])
    steps: list[str | int] = []
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None:
            raise _path_error(text, position)
        plain, index, single, double = step.groups()
        if index is not None:
            steps.append(int(index))
        else:
            quoted = single if single is not None else double
            steps.append(plain if quoted is None else _ESCAPE.sub(r"\1", quoted))
        position = step.end()
    return Path(text, context, tuple(steps))


def _path_error(text: str, position: int) -> InvalidDefinition:
    rest = text[position:]
    if re.match(r"\.\.|\.\*|\[\s*(\*|\?|-?\d*\s*:|-\d|\d+\s*,|@|\()|\['.*',", rest):
        return UnsupportedDefinition([f"path '{text}' may select more than one value, which is not supported"])
    return InvalidDefinition([f"'{text}' is not a path: unexpected '{rest}'"])


def compile_reader(path: Path, identity: MachineIdentity) -> Reader:
    """A function that reads the value at the path."""
    if path.context:
        return _context_reader(path, identity)
    if not path.steps:
        return lambda data, _execution: data
    if len(path.steps) == 1 and isinstance(path.steps[0], str):
        return _field_reader(path, path.steps[0])
    return _compile_walk(path, 0)


def _field_reader(path: Path, key: str) -> Reader:
    def read(data: Any, _execution: Execution) -> Any:
        try:
            return data[key]
        except (KeyError, TypeError):
            raise PathNotFound(path, 0) from None

    return read


def _compile_walk(path: Path, skip: int) -> Reader:
    """A reader that takes the path's steps but the first `skip`, which led to the data already."""
    steps = path.steps[skip:]

    def walk(data: Any, _execution: Execution) -> Any:
        for depth, step in enumerate(steps, skip):
            if type(data) is str:  # It has items too, but to Python only.
                raise PathNotFound(path, depth)
            try:
                data = data[step]
            except (IndexError, KeyError, TypeError):
                raise PathNotFound(path, depth) from None
        return data

    def walk_names(data: Any, execution: Execution) -> Any:
        found = data
        try:
            for name in steps:
                found = found[name]
        except (KeyError, TypeError):
            return walk(data, execution)  # It raises, and knows where.
        return found

    return walk_names if all(isinstance(step, str) for step in steps) else walk


_CONTEXT_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "Execution": ("Id", "Input", "Name", "StartTime"),
    "State": ("EnteredTime", "Name", "RetryCount"),
    "StateMachine": ("Id", "Name"),
    "Task": ("Token",),
}


def _context_reader(path: Path, identity: MachineIdentity) -> Reader:
    steps = path.steps
    if len(steps) > 1:
        field = f"{steps[0]}.{steps[1]}"
        if field == "Execution.Input":
            return _input_reader(path)
        if len(steps) == 2 and field in _FIELD_READERS:
            return _FIELD_READERS[field]
        if field == "Task.Token":
            return _token_reader(path)
    walk = _compile_walk(path, 0)
    return lambda _data, execution: walk(_context(execution, identity), execution)


def _input_reader(path: Path) -> Reader:
    if len(path.steps) != 3 or not isinstance(path.steps[2], str):
        walk = _compile_walk(path, 2)
        return lambda _data, execution: walk(execution.input, execution)
    key = path.steps[2]

    def read(_data: Any, execution: Execution) -> Any:
        try:
            return execution.input[key]
        except (KeyError, TypeError):
            raise PathNotFound(path, 2) from None

    return read


def _token_reader(path: Path) -> Reader:
    def read(_data: Any, execution: Execution) -> Any:
        if execution.token is None:
            raise PathNotFound(path, 0)
        return execution.token

    return read


_FIELD_READERS: Final[dict[str, Reader]] = {
    "Execution.Id": lambda _data, execution: execution.id,
    "Execution.Name": lambda _data, execution: execution.name,
    "Execution.StartTime": lambda _data, execution: render_timestamp(execution.started_at),
    "State.Name": lambda _data, execution: execution.state,
    "State.EnteredTime": lambda _data, execution: render_timestamp(execution.entered_at),
    "State.RetryCount": lambda _data, execution: execution.retry_count,
}


def _context(execution: Execution, identity: MachineIdentity) -> dict[str, Any]:
    context: dict[str, Any] = {
        "Execution": {
            "Id": execution.id,
            "Input": execution.input,
            "Name": execution.name,
            "StartTime": render_timestamp(execution.started_at),
        },
        "State": {
            "EnteredTime": render_timestamp(execution.entered_at),
            "Name": execution.state,
            "RetryCount": execution.retry_count,
        },
        "StateMachine": {"Id": identity.id, "Name": identity.name},
    }
    if execution.token is not None:
        context["Task"] = {"Token": execution.token}
    return context


def check_context_path(path: Path) -> None:
    """Raises UnsupportedDefinition for a field of the context object that this engine does not have."""
    head = path.steps[:2]
    if not path.context or not head:
        return
    fields = _CONTEXT_FIELDS.get(str(head[0]))
    if fields is None or (len(head) > 1 and head[1] not in fields):
        raise UnsupportedDefinition([f"context object field {path.text} is not supported"])


def constant(value: Any) -> Reader:
    """A reader of a value that is known already."""
    return lambda _data, _execution: value


def compile_writer(path: Path) -> Writer:
    """A function that puts a value at a ResultPath, making the objects that are missing on the way."""
    steps = path.steps
    if not steps:
        return lambda _data, value: value

    def write(data: Any, value: Any, depth: int = 0) -> Any:
        if depth == len(steps):
            return value
        step = steps[depth]
        if isinstance(step, str):
            if not isinstance(data, dict):
                raise _match_failure(step, data)
            return {**data, step: write(data.get(step, {}), value, depth + 1)}
        if not isinstance(data, list) or step >= len(data):
            raise _match_failure(step, data)
        return [*data[:step], write(data[step], value, depth + 1), *data[step + 1 :]]

    return write


def _match_failure(step: str | int, data: Any) -> StatesError:
    return StatesError(RESULT_PATH_MATCH_FAILURE, f'Unable to apply step "{step}" to input {dumps(data)}')

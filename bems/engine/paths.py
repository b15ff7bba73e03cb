"""Paths and reference paths, compiled to functions.

Supports the subset of JSONPath that selects at most one value (`$`, `.name`, `['name']`, `[0]`), and `$$` for the
context object. Rejects wildcards, slices, filters and recursive descent, which may select more than one.
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

PathReader = Callable[[Any, Execution], Any]
"""reader(data, execution) returns the value at a path in the data or the context object. Raises PathNotFound."""

PathWriter = Callable[[Any, Any], Any]
"""writer(data, value) returns a copy of the data with the value at a path. Raises StatesError."""

_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """Fields of `$$.StateMachine` in the context object."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. `context`: whether it starts in the context object; `steps`: its names and indexes."""

    text: str
    context: bool
    steps: tuple[str | int, ...]


class PathNotFound(Exception):
    """The path selects nothing. `depth` is the number of steps that could be resolved."""

    def __init__(self, path: Path, depth: int) -> None:
        super().__init__(path.text)
        self.path = path
        self.depth = depth

    def explain(self) -> str:
        """Return the cause that Step Functions reports for fields such as InputPath and OutputPath."""
        missing = self.path.steps[: self.depth + 1]
        where = "$" + "".join(f"[{step}]" if isinstance(step, int) else f"['{step}']" for step in missing)
        what = "No results for path:" if len(missing) == len(self.path.steps) else "Missing property in path"
        return f"Invalid path '{self.path.text}' : {what} {where}"


def parse_path(text: Any) -> Path:
    """Parse a path.

    Raises UnsupportedDefinition if the path may select more than one value or is an intrinsic function or a variable,
    and InvalidDefinition if it is not a path.
    """
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


def compile_reader(path: Path, identity: MachineIdentity) -> PathReader:
    """Return a function that reads the value at the path."""
    if path.context:
        return _context_reader(path, identity)
    if not path.steps:
        return lambda data, _execution: data
    if len(path.steps) == 1 and isinstance(path.steps[0], str):
        return _field_reader(path, path.steps[0])
    return _compile_walk(path, 0)


def _field_reader(path: Path, key: str) -> PathReader:
    def read(data: Any, _execution: Execution) -> Any:
        try:
            return data[key]
        except (KeyError, TypeError):
            raise PathNotFound(path, 0) from None

    return read


def _compile_walk(path: Path, skip: int) -> PathReader:
    """Return a reader that starts after the first `skip` steps: its data is the value that those select."""
    steps = path.steps[skip:]

    def walk(data: Any, _execution: Execution) -> Any:
        for depth, step in enumerate(steps, skip):
            if type(data) is str:  # Python can index a string; JSONPath cannot.
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
            return walk(data, execution)  # Raises PathNotFound with the depth.
        return found

    return walk_names if all(isinstance(step, str) for step in steps) else walk


_CONTEXT_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "Execution": ("Id", "Input", "Name", "StartTime"),
    "State": ("EnteredTime", "Name", "RetryCount"),
    "StateMachine": ("Id", "Name"),
    "Task": ("Token",),
}


def _context_reader(path: Path, identity: MachineIdentity) -> PathReader:
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


def _input_reader(path: Path) -> PathReader:
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


def _token_reader(path: Path) -> PathReader:
    def read(_data: Any, execution: Execution) -> Any:
        if execution.token is None:
            raise PathNotFound(path, 0)
        return execution.token

    return read


_FIELD_READERS: Final[dict[str, PathReader]] = {
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
    """Raise UnsupportedDefinition for a context object field that this engine does not implement."""
    head = path.steps[:2]
    if not path.context or not head:
        return
    fields = _CONTEXT_FIELDS.get(str(head[0]))
    if fields is None or (len(head) > 1 and head[1] not in fields):
        raise UnsupportedDefinition([f"context object field {path.text} is not supported"])


def constant(value: Any) -> PathReader:
    """Return a reader that always returns `value`."""
    return lambda _data, _execution: value


def compile_writer(path: Path) -> PathWriter:
    """Return a function that writes a value at a ResultPath and creates missing objects along the path."""
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

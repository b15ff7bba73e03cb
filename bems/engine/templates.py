"""Payload templates (Parameters and ResultSelector), compiled to functions.

Source: Amazon States Language, "Payload Template".
"""

from collections.abc import Callable
from typing import Any

from bems.engine.errors import RUNTIME, InvalidDefinition, StatesError
from bems.engine.execution import Execution
from bems.engine.paths import PathNotFound, PathReader, constant
from bems.engine.payloads import dumps

PathCompiler = Callable[[Any, str], PathReader]
"""compile_path(text, where) returns the reader of a path; the caller's `Problems` collects what is wrong with it."""


def compile_template(template: Any, where: str, compile_path: PathCompiler) -> PathReader:
    """Return a function that fills in the template. Raises InvalidDefinition for a field that is given twice."""
    if isinstance(template, dict):
        return _compile_object(template, where, compile_path)
    if isinstance(template, list):
        return _compile_array(template, where, compile_path)
    return constant(template)


def _is_constant(template: Any) -> bool:
    if isinstance(template, dict):
        return not any(key.endswith(".$") or not _is_constant(value) for key, value in template.items())
    if isinstance(template, list):
        return all(map(_is_constant, template))
    return True


def _compile_object(template: dict[str, Any], where: str, compile_path: PathCompiler) -> PathReader:
    if _is_constant(template):
        return constant(template)
    blank: dict[str, Any] = {}
    readers: list[tuple[str, PathReader]] = []
    for key, value in template.items():
        name = key[:-2] if key.endswith(".$") else key
        if name in blank:
            raise InvalidDefinition([f"{where}.{name}: given both with and without .$"])
        blank[name] = value
        if key.endswith(".$"):
            readers.append((name, compile_path(value, f"{where}.{key}")))
        elif not _is_constant(value):
            readers.append((name, compile_template(value, f"{where}.{key}", compile_path)))

    def render(data: Any, execution: Execution) -> Any:
        # `blank` has every field in order, so the result keeps the order of the template.
        result = blank.copy()
        try:
            for name, read in readers:
                result[name] = read(data, execution)
        except PathNotFound as missing:
            # The path is of this template: a nested template raises StatesError itself.
            raise StatesError(
                RUNTIME,
                f"The JSONPath '{missing.path.text}' specified for the field '{name}.$' could not be found in the "
                f"input '{dumps(data)}'",
            ) from None
        return result

    return render


def _compile_array(template: list[Any], where: str, compile_path: PathCompiler) -> PathReader:
    if _is_constant(template):
        return constant(template)
    readers = [compile_template(item, f"{where}[{index}]", compile_path) for index, item in enumerate(template)]
    return lambda data, execution: [read(data, execution) for read in readers]

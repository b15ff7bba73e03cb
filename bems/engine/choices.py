"""Choice rules, compiled to predicates.

A comparison is false unless both values have the operator's type. Source: Amazon States Language, "Choice State".
"""

import re
from collections.abc import Callable, Iterable
from operator import eq, ge, gt, le, lt
from typing import Any, Final

from bems.engine.errors import RUNTIME, InvalidDefinition, StatesError, UnsupportedDefinition
from bems.engine.execution import Execution
from bems.engine.paths import PathNotFound, PathReader
from bems.engine.templates import PathCompiler
from bems.engine.timestamps import parse_timestamp

Predicate = Callable[[Any, Execution], bool]
"""Returns whether a rule matches a state's data. Raises PathNotFound when its Variable selects nothing."""


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _string(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _boolean(value: Any) -> Any:
    return value if isinstance(value, bool) else None


_OPERAND: Final[dict[str, Callable[[Any], Any]]] = {
    "Boolean": _boolean,
    "Numeric": _number,
    "String": _string,
    "Timestamp": parse_timestamp,
}
_TYPE_NAMES: Final = {"Boolean": "boolean", "Numeric": "number", "String": "string", "Timestamp": "timestamp"}
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "Equals": eq,
    "GreaterThan": gt,
    "GreaterThanEquals": ge,
    "LessThan": lt,
    "LessThanEquals": le,
}
_COMPARISON: Final = re.compile(r"(Boolean|Numeric|String|Timestamp)([A-Z][A-Za-z]*?)(Path)?")
_TYPE_TESTS: Final[dict[str, Callable[[Any], bool]]] = {
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsNull": lambda value: value is None,
    "IsNumeric": lambda value: _number(value) is not None,
    "IsString": lambda value: isinstance(value, str),
    "IsTimestamp": lambda value: parse_timestamp(value) is not None,
}
_COMBINATORS: Final = ("And", "Or", "Not")


def choose(
    choices: Iterable[tuple[Predicate, str]], default: str | None, data: Any, execution: Execution
) -> str | None:
    """Return the target of the first matching rule, or the default.

    Raises StatesError when a Variable selects nothing.
    """
    try:
        for test, target in choices:
            if test(data, execution):
                return target
    except PathNotFound as missing:
        raise StatesError(
            RUNTIME,
            f"Invalid path '{missing.path.text}': The choice state's condition path references an invalid value.",
        ) from None
    return default


def compile_rule(rule: Any, where: str, compile_path: PathCompiler, *, top: bool = True) -> Predicate:
    """Compile a choice rule. Raises InvalidDefinition or UnsupportedDefinition, whose message starts with the path."""
    if not isinstance(rule, dict):
        raise InvalidDefinition([f"{where}: expected an object"])
    plain = {key for key in rule if key != "Comment" and not (top and key == "Next")}
    for key in ("Assign", "Condition", "Output"):
        if key in plain:
            raise UnsupportedDefinition([f"{where}.{key}: field {key} is not supported"])
    for key in _COMBINATORS:
        if key in plain:
            if len(plain) > 1:
                raise InvalidDefinition([f"{where}: {key} must be the only field of its rule"])
            return _compile_combination(key, rule[key], f"{where}.{key}", compile_path)
    if "Variable" not in plain:
        raise InvalidDefinition([f"{where}: required field Variable is missing"])
    operators = plain - {"Variable"}
    if len(operators) != 1:
        raise InvalidDefinition([f"{where}: expected exactly one comparison operator"])
    (operator,) = operators
    variable = compile_path(rule["Variable"], f"{where}.Variable")
    return _compile_comparison(operator, rule[operator], f"{where}.{operator}", variable, compile_path)


def _compile_combination(key: str, operand: Any, where: str, compile_path: PathCompiler) -> Predicate:
    if key == "Not":
        test = compile_rule(operand, where, compile_path, top=False)
        return lambda data, execution: not test(data, execution)
    if not isinstance(operand, list) or not operand:
        raise InvalidDefinition([f"{where}: expected a list of rules"])
    tests = [compile_rule(rule, f"{where}[{index}]", compile_path, top=False) for index, rule in enumerate(operand)]
    if key == "And":
        return lambda data, execution: all(test(data, execution) for test in tests)
    return lambda data, execution: any(test(data, execution) for test in tests)


def _compile_comparison(
    operator: str, operand: Any, where: str, read: PathReader, compile_path: PathCompiler
) -> Predicate:
    if operator == "IsPresent":
        return _compile_presence(read, _expect_boolean(operand, where))
    if operator in _TYPE_TESTS:
        is_kind, expected = _TYPE_TESTS[operator], _expect_boolean(operand, where)
        return lambda data, execution: is_kind(read(data, execution)) is expected
    if operator == "StringMatches":
        return _compile_match(operand, where, read)
    parsed = _COMPARISON.fullmatch(operator)
    if parsed is None or parsed[2] not in _COMPARE or (parsed[1] == "Boolean" and parsed[2] != "Equals"):
        raise InvalidDefinition([f"{where}: unknown comparison operator"])
    convert, compare = _OPERAND[parsed[1]], _COMPARE[parsed[2]]
    if parsed[3]:
        other = compile_path(operand, where)

        def test(data: Any, execution: Execution) -> bool:
            left, right = convert(read(data, execution)), convert(other(data, execution))
            return left is not None and right is not None and compare(left, right)

        return test
    constant = convert(operand)
    if constant is None:
        raise InvalidDefinition([f"{where}: expected a {_TYPE_NAMES[parsed[1]]}"])
    if operator == "StringEquals":
        # Fast path for the most common operator: no type check, because only a string equals a string.
        return lambda data, execution: read(data, execution) == constant

    def test_constant(data: Any, execution: Execution) -> bool:
        left = convert(read(data, execution))
        return left is not None and compare(left, constant)

    return test_constant


def _expect_boolean(operand: Any, where: str) -> bool:
    if not isinstance(operand, bool):
        raise InvalidDefinition([f"{where}: expected true or false"])
    return operand


def _compile_presence(variable: PathReader, expected: bool) -> Predicate:
    def test(data: Any, execution: Execution) -> bool:
        try:
            variable(data, execution)
        except PathNotFound:
            return not expected
        return expected

    return test


def _compile_match(pattern: Any, where: str, read: PathReader) -> Predicate:
    if not isinstance(pattern, str):
        raise InvalidDefinition([f"{where}: expected a string"])
    pieces = re.findall(r"\\.|\\$|[^\\]", pattern, re.DOTALL)
    if any(piece[0] == "\\" and piece not in (r"\*", r"\\") for piece in pieces):
        raise InvalidDefinition([f"{where}: only * and \\ can be escaped"])
    matches = re.compile("".join(".*" if piece == "*" else re.escape(piece[-1]) for piece in pieces), re.DOTALL)

    def test(data: Any, execution: Execution) -> bool:
        value = read(data, execution)
        return isinstance(value, str) and matches.fullmatch(value) is not None

    return test

from typing import Any

import pytest

from bems.engine import new_execution
from bems.engine.choices import choose, compile_rule
from bems.engine.errors import StatesError
from bems.engine.paths import MachineIdentity, PathReader, compile_reader, parse_path


def compile_path(text: str, _where: str) -> PathReader:
    return compile_reader(parse_path(text), MachineIdentity("", ""))


def holds(rule: dict[str, Any], data: Any) -> bool:
    choices = [(compile_rule(rule, "rule", compile_path), "Next")]
    return choose(choices, None, data, new_execution("arn")) == "Next"


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("foo*.log", "foo23.log", True),
        ("foo*.log", "foo.log", True),
        ("foo*.log", "foo.log.zip", False),
        ("*.log", "zebra.log", True),
        ("foo*.*", "foobar.zebra", True),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        (r"a\*c", "a*c", True),
        (r"a\*c", "abc", False),
        (r"a\\*", r"a\bc", True),
        ("a*", "a\nb", True),
        ("*", 5, False),
    ],
)
def test_string_matches(pattern: str, value: Any, matches: bool) -> None:
    assert holds({"Variable": "$", "StringMatches": pattern}, value) is matches


@pytest.mark.parametrize(
    ("first", "operator", "second", "true"),
    [
        ("2026-01-01T01:00:00+01:00", "Equals", "2026-01-01T00:00:00Z", True),
        ("2026-01-01T00:00:00.5Z", "GreaterThan", "2026-01-01T00:00:00Z", True),
        ("2026-01-01T00:00:00Z", "LessThan", "2026-01-01T00:00:00.000001Z", True),
        ("2026-01-01", "Equals", "2026-01-01T00:00:00Z", False),
    ],
)
def test_timestamps_are_compared_as_instants(first: str, operator: str, second: str, true: bool) -> None:
    assert holds({"Variable": "$", f"Timestamp{operator}": second}, first) is true


@pytest.mark.parametrize(
    "operator", ["NumericEqualsPath", "StringEqualsPath", "BooleanEqualsPath", "TimestampEqualsPath"]
)
@pytest.mark.parametrize(("left", "right"), [(1, "1"), (True, 1), (None, None), ([], []), ("x", None)])
def test_values_of_other_types_are_not_equal(operator: str, left: Any, right: Any) -> None:
    # moto fails on some of these.
    assert not holds({"Variable": "$.l", operator: "$.r"}, {"l": left, "r": right})


def test_a_second_path_without_a_value_is_an_error() -> None:
    with pytest.raises(StatesError, match=r"Invalid path '\$\.r'"):
        holds({"Variable": "$.l", "NumericEqualsPath": "$.r"}, {"l": 1})


def test_presence_of_null() -> None:
    assert holds({"Variable": "$.x", "IsPresent": True}, {"x": None})
    assert holds({"Variable": "$.x.y", "IsPresent": False}, {"x": None})


def test_and_stops_at_the_first_false() -> None:
    rule = {"And": [{"Variable": "$.x", "IsPresent": True}, {"Variable": "$.x", "NumericEquals": 1}]}
    assert not holds(rule, {})


@pytest.mark.parametrize(("value", "target"), [("a", "First"), ("b", "Third"), ("c", "Default")])
def test_the_first_matching_rule_decides(value: str, target: str) -> None:
    rules = [("a", "First"), ("a", "Second"), ("b", "Third")]
    choices = [(compile_rule({"Variable": "$", "StringEquals": text}, "rule", compile_path), to) for text, to in rules]
    assert choose(choices, "Default", value, new_execution("arn")) == target


@pytest.mark.parametrize("value", [None, True, 1, 1.0, [], ["a"], {}, {"a": "a"}, "A", ""])
def test_only_a_string_equals_a_string(value: Any) -> None:
    assert not holds({"Variable": "$", "StringEquals": "a"}, value)

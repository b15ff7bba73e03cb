from typing import Any

import pytest

from bems.engine import InvalidDefinition, UnsupportedDefinition, new_execution
from bems.engine.errors import StatesError
from bems.engine.paths import MachineIdentity, PathNotFound, compile_reader, compile_writer, parse_path

DATA = {"a": {"b-c": [1, {"x.y": "deep"}], "": 0}, "é": 2, "7": 3, "it's": 4, '"': 5}


def read(text: str, data: Any = DATA) -> Any:
    return compile_reader(parse_path(text), MachineIdentity("id", "name"))(data, new_execution("arn"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$", DATA),
        ("$.a.b-c[0]", 1),
        ("$.a['b-c'][1]['x.y']", "deep"),
        ('$["a"]["b-c"][0]', 1),
        ("$.é", 2),
        ("$.7", 3),
        (r"$['it\'s']", 4),
        (r'$["\""]', 5),
        ("$['a']['']", 0),
    ],
)
def test_path_selects_a_value(text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "data", "explanation"),
    [
        ("$.x", {}, "No results for path: $['x']"),
        ("$.x", None, "No results for path: $['x']"),
        ("$.x", "x", "No results for path: $['x']"),
        ("$.x", [], "No results for path: $['x']"),
        ("$.x.y", {}, "Missing property in path $['x']"),
        ("$.x.y", {"x": {}}, "No results for path: $['x']['y']"),
        ("$.x[0]", {"x": []}, "No results for path: $['x'][0]"),
        ("$.x[0]", {"x": "text"}, "No results for path: $['x'][0]"),
        ("$.x[0]", {"x": {"0": 1}}, "No results for path: $['x'][0]"),
        ("$.x.y.z", {"x": {"y": 5}}, "No results for path: $['x']['y']['z']"),
    ],
)
def test_path_selects_nothing(text: str, data: Any, explanation: str) -> None:
    with pytest.raises(PathNotFound) as caught:
        read(text, data)
    assert caught.value.explain() == f"Invalid path '{text}' : {explanation}"


@pytest.mark.parametrize(
    "text", ["$.*", "$..a", "$.a[*]", "$.a[0:1]", "$.a[:1]", "$.a[-1]", "$.a[0,1]", "$.a[?(@.x)]", "$['a','b']"]
)
def test_a_path_that_may_select_several_values_is_not_supported(text: str) -> None:
    with pytest.raises(UnsupportedDefinition):
        parse_path(text)


@pytest.mark.parametrize("text", ["", "a", "$.", "$a.", "$.a.", "$.a[", "$.a]", "$.a b", "$['a", 5, None, {}])
def test_invalid_paths_are_rejected(text: Any) -> None:
    with pytest.raises(InvalidDefinition):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "data", "written"),
    [
        ("$", {"x": 1}, 9),
        ("$.x", {"x": 1, "y": 2}, {"x": 9, "y": 2}),
        ("$.a.b.c", {}, {"a": {"b": {"c": 9}}}),
        ("$.a.b", {"a": {"c": 1}}, {"a": {"c": 1, "b": 9}}),
        ("$.a[1].b", {"a": [0, {"c": 1}, 2]}, {"a": [0, {"c": 1, "b": 9}, 2]}),
    ],
)
def test_a_writer_sets_a_value_in_a_copy(text: str, data: Any, written: Any) -> None:
    before = repr(data)
    assert compile_writer(parse_path(text))(data, 9) == written
    assert repr(data) == before


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("$.x", []),
        ("$.x", None),
        ("$.x.y", {"x": "text"}),
        ("$.x[0]", {"x": []}),
        ("$.x[0]", {"x": {}}),
        ("$.x[0]", {}),
    ],
)
def test_a_writer_whose_path_does_not_match(text: str, data: Any) -> None:
    with pytest.raises(StatesError) as caught:
        compile_writer(parse_path(text))(data, 9)
    assert caught.value.error == "States.ResultPathMatchFailure"


@pytest.mark.parametrize(
    ("text", "data", "depth"),
    [("$.x", {}, 0), ("$.x.y.z", {"x": {}}, 1), ("$.x.y.z", {"x": {"y": 5}}, 2), ("$.x[1].y", {"x": [0, {}]}, 2)],
)
def test_depth_counts_the_steps_that_were_taken(text: str, data: Any, depth: int) -> None:
    with pytest.raises(PathNotFound) as caught:
        read(text, data)
    assert caught.value.depth == depth

import json
import marshal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.engine.payloads import _SMALL_BYTES, MAX_BYTES, dumps, fits

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


TEXT = st.text(st.characters(min_codepoint=0, exclude_categories=())) | st.text('\x00\x1f"\\\x7fé\ud800\udfff😀')
EVERYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**4299), 10**4299) | st.floats() | TEXT,
    lambda children: st.lists(children) | st.dictionaries(TEXT, children),
)


def size(value: Any) -> int:
    return len(dumps(value).encode("utf-8", "surrogatepass"))


def marshalled(value: Any) -> int:
    return len(marshal.dumps(value, 2))


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(EVERYTHING)
def test_json_takes_at_most_six_times_the_bytes_of_marshal(value: Any) -> None:
    # With the comma that may follow, so that the bound also holds for lists and objects of such values.
    assert size(value) + 1 <= 6 * marshalled(value)


LARGE_IN_JSON = [None, True, False, 0, -(2**31), 2**31, -(2**63), 10**4299, -(10**4299), -2.2250738585072014e-308]
ODD = [
    float("nan"),
    float("-inf"),
    "",
    "\x00",
    "\x00" * 100,
    "\ud800",
    "😀",
    [],
    {},
    {"": None},
    {"\x00": False},
    [False],
]


@pytest.mark.parametrize("value", [*LARGE_IN_JSON, *ODD])
def test_list_of_one_value_takes_at_most_six_times_the_bytes_of_marshal(value: Any) -> None:
    assert size(value) + 1 <= 6 * marshalled(value)
    same = [value, value] * 100
    assert size(same) + 1 <= 6 * marshalled(same)
    keyed = {str(number): value for number in range(100)}
    assert size(keyed) + 1 <= 6 * marshalled(keyed)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"": value}])
def test_level_takes_at_least_five_bytes_of_marshal(wrap: Any) -> None:
    value: Any = None
    for depth in range(_SMALL_BYTES // 5 + 1):
        assert marshalled(value) > 5 * depth
        value = wrap(value)
    assert marshalled(value) > _SMALL_BYTES


def test_small_values_can_be_written() -> None:
    assert 6 * _SMALL_BYTES <= MAX_BYTES
    assert marshalled(10**4300) > _SMALL_BYTES
    assert not fits(10**4300)


@pytest.mark.parametrize("item", ["x", "\x00", "é", 7, None, [], {"k": 0.5}])
def test_fits_is_exact(item: Any) -> None:
    # At every size around the threshold for encoding as JSON, and around the limit.
    step = size(item) + 1
    for limit in (_SMALL_BYTES // 6, _SMALL_BYTES, MAX_BYTES):
        for count in range(max(limit // step - 3, 0), limit // step + 3):
            value = [item] * count
            assert fits(value) is (size(value) <= MAX_BYTES)


@settings(deadline=None, derandomize=True, database=None)
@given(VALUES)
def test_dumps_can_be_read_back(value: Any) -> None:
    assert json.loads(dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * (MAX_BYTES - 2), True),
        ("x" * (MAX_BYTES - 1), False),
        ("é" * (MAX_BYTES // 2 - 1), True),
        ("é" * (MAX_BYTES // 2), False),
        ("\n" * (MAX_BYTES // 2 - 1), True),
        ("\n" * (MAX_BYTES // 2), False),
        ([0] * (MAX_BYTES // 2 - 1), True),
        ([0] * (MAX_BYTES // 2), False),
        ({"x" * MAX_BYTES: 1}, False),
        ("\ud800" * 1000, True),
        ("\ud800" * MAX_BYTES, False),
    ],
)
def test_limit_is_in_bytes_of_utf_8(value: Any, expected: bool) -> None:
    assert fits(value) is expected


@pytest.mark.parametrize("levels", [100_000])
@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"": value}])
def test_a_deeply_nested_value_does_not_fit(wrap: Any, levels: int) -> None:
    value: Any = None
    for _ in range(levels):
        value = wrap(value)
    assert not fits(value)


def test_a_recursive_value_does_not_fit() -> None:
    value: list[Any] = []
    value.append(value)
    assert not fits(value)


def test_a_string_subclass_fits() -> None:
    class Name(StrEnum):
        ONE = "one"

    assert fits({Name.ONE: Name.ONE})

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.engine.payloads import MAX_BYTES, _upper_bound, dumps, fits

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@settings(deadline=None, derandomize=True, database=None)
@given(VALUES)
def test_upper_bound_is_one(value: Any) -> None:
    assert len(dumps(value).encode("utf-8", "surrogatepass")) <= _upper_bound(value)


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


def test_bottomless_value_does_not_fit() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert not fits(value)

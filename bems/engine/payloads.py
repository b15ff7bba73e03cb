"""JSON payloads: how large they are, how they are written."""

import json
from typing import Any, Final

MAX_BYTES: Final = 256 * 1024
"""The largest input or output of a state, in bytes of UTF-8. Source: Step Functions service quotas."""


def dumps(value: Any) -> str:
    """Compact JSON, as history events carry it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fits(value: Any) -> bool:
    """Whether the value's JSON is within MAX_BYTES; one that is nested too deeply to be written is not.

    It is serialized only where a cheap upper bound is not enough.
    """
    try:
        return _upper_bound(value) <= MAX_BYTES or len(dumps(value).encode("utf-8", "surrogatepass")) <= MAX_BYTES
    except RecursionError:
        return False


def _upper_bound(value: Any) -> int:
    # A character takes six bytes at most, as \u0000 does.
    kind = type(value)
    if kind is str:
        return 6 * len(value) + 3
    if kind is dict:
        size = 2
        for key, item in value.items():
            size += 6 * len(key) + 4 + (6 * len(item) + 3 if type(item) is str else _upper_bound(item))
        return size
    if kind is list:
        return 2 + sum(map(_upper_bound, value)) + len(value)
    if kind is int:
        return 3 + int(value.bit_length()) // 3
    return 26

"""JSON payloads: how large they are, how they are written."""

import json
import marshal
from typing import Any, Final

MAX_BYTES: Final = 256 * 1024
"""The largest input or output of a state, in bytes of UTF-8. Source: Step Functions service quotas."""

_SMALL_BYTES: Final = 1900
"""A value that takes so many bytes in marshal's format, version 2, can be written as JSON, and fits.

That version writes each value out: 5 bytes and its UTF-8 for a string, where JSON makes six bytes of one at most
(\\u0000); 5 for a small integer, or 5 and two for every 15 bits; 9 for a float; 1 for null, true and false; 5 and its
items for a list, 2 and its items for an object. So JSON takes at most six times as much, each value's comma or colon
included; a level of nesting takes 5 bytes, which leaves 380 levels; and no integer has the 4,301 digits that Python
refuses to write.
"""


def dumps(value: Any) -> str:
    """Compact JSON, as history events carry it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fits(value: Any) -> bool:
    """Whether the value's JSON is within MAX_BYTES; a value that is nested too deeply to be written is not.

    It is written only where its size in marshal's format, which is had for a quarter of the work, does not tell.
    """
    try:
        if len(marshal.dumps(value, 2)) <= _SMALL_BYTES:
            return True
    except ValueError:
        pass  # It has too many levels for marshal, or a class that only JSON takes.
    try:
        return len(dumps(value).encode("utf-8", "surrogatepass")) <= MAX_BYTES
    except (RecursionError, ValueError):
        return False

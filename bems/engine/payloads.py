"""Size limit and encoding of JSON payloads."""

import json
import marshal
from typing import Any, Final

MAX_BYTES: Final = 256 * 1024
"""Maximum size of a state's input or output, in bytes of UTF-8. Source: Step Functions service quotas."""

_SMALL_BYTES: Final = 1900
"""Maximum size in marshal's format, version 2, of a value that certainly fits as JSON.

Version 2 has no references, so every value takes its full size: a string takes 5 bytes plus its UTF-8, a small integer
5 bytes, a larger one 5 bytes plus 2 for every 15 bits, a float 9, null, true and false 1, a list 5 plus its items, an
object 2 plus its items. JSON takes at most six times as many bytes, including the comma or colon after each value: its
worst case is the escape \\u0000. A level of nesting takes at least 5 bytes, so there are at most 380 levels, and an
integer has fewer than the 4,301 digits that Python refuses to convert.
"""


def dumps(value: Any) -> str:
    """Return compact JSON, as in history events."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fits(value: Any) -> bool:
    """Return whether the value's JSON has at most MAX_BYTES. False for a value that is nested too deeply to encode.

    marshal takes a quarter of the time of JSON, so the value is encoded as JSON only if its size in marshal's format
    exceeds _SMALL_BYTES.
    """
    try:
        if len(marshal.dumps(value, 2)) <= _SMALL_BYTES:
            return True
    except ValueError:
        pass  # Nested too deeply for marshal, or of a class that only JSON accepts.
    try:
        return len(dumps(value).encode("utf-8", "surrogatepass")) <= MAX_BYTES
    except (RecursionError, ValueError):
        return False

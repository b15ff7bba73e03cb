"""Reading: JSON read patiently, by the standard library, to tell what is wrong with what msgspec would not read.

It accepts what msgspec stops at (lone surrogates, huge numbers, NaN) and keeps what msgspec drops (a name sent twice),
so that each can be named with its place. Far slower, so only for what has already failed.
"""

import json

from bems.tracker.faults import MOST_FAULTS, Fault, child
from bems.tracker.wording import show

NOT_A_NUMBER = "not a number"


class Number(float):
    """A number that keeps the text it was written in, which `1e400` would lose."""

    text: str

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


class Doubled(dict[str, object]):
    """An object some of whose names were sent more than once; each has its last value."""

    names: list[str]


class Reading:
    """What the bytes say.

    `data`   with `Number` for all but whole numbers, and `Doubled` for objects with a name sent twice.
    `fault`  why they say nothing.
    `odd`    whether `oddities` would find any.
    """

    def __init__(self, body: bytes) -> None:
        self.data: object = None
        self.fault: Fault | None = None
        self.odd = False
        try:
            self.data = self._decode(body.decode())
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} is not UTF-8: use UTF-8, the encoding of JSON (RFC 8259, section 8.1)"
            self.fault = Fault("", detail, "not UTF-8")
        except json.JSONDecodeError as error:
            self.fault = Fault("", f"{error.msg}: line {error.lineno}, column {error.colno}", "not JSON")
        except RecursionError:
            self.fault = Fault("", "is nested too deep", "nested too deep")

    def _decode(self, text: str) -> object:
        if not text or text.isspace():
            raise json.JSONDecodeError("there is nothing to read", text, 0)
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("a byte order mark is not JSON (RFC 8259, section 8.1)", text, 0)
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=Number,
            parse_int=_whole,
        )

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        data = dict(pairs)
        if len(data) == len(pairs):
            return data
        self.odd = True
        doubled, left = Doubled(data), set(data)
        doubled.names = []
        for name, _ in pairs:
            if name in left:
                left.remove(name)
            else:
                doubled.names.append(name)
        return doubled

    def _constant(self, text: str) -> Number:
        self.odd = True
        return Number(text)


def _whole(text: str) -> int:
    """The number; in place of one with more digits than Python cares to read, another that has as many."""
    if len(text) <= 500:
        return int(text)
    return (-1 if text.startswith("-") else 1) << (len(text) * 332193 // 100000)


def doubled_names(data: object, pointer: str = "") -> list[Fault]:
    """A fault for every name that was sent twice in this object itself."""
    names = dict.fromkeys(data.names[:MOST_FAULTS]) if isinstance(data, Doubled) else {}
    return [
        Fault(child(pointer, name), f"{show(name)} is sent more than once: use it once", "repeated") for name in names
    ]


def oddities(data: object) -> list[Fault]:
    """A fault for every name sent twice, and for every NaN and Infinity, however deep; at most `MOST_FAULTS`."""
    found: list[Fault] = []
    todo: list[tuple[str, object]] = [("", data)]
    while todo and len(found) < MOST_FAULTS:
        pointer, value = todo.pop()
        if isinstance(value, dict):
            found += doubled_names(value, pointer)
            todo += [(child(pointer, name), inner) for name, inner in reversed(value.items()) if _may_be_odd(inner)]
        elif isinstance(value, list):
            todo += [(f"{pointer}/{index}", inner) for index, inner in enumerate(value) if _may_be_odd(inner)][::-1]
        elif isinstance(value, Number) and not value.text[-1].isdigit():
            found.append(Fault(pointer, f"{value.text} is not a number in JSON (RFC 8259, section 6)", NOT_A_NUMBER))
    return found[:MOST_FAULTS]


def _may_be_odd(value: object) -> bool:
    return isinstance(value, dict | list | Number)

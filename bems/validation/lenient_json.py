"""Reading: JSON read patiently, by the standard library, to tell what is wrong with what msgspec would not read.

It accepts what msgspec stops at (lone surrogates, huge numbers, NaN) and keeps what msgspec drops (a name sent twice),
so that each can be named with its place. Far slower, so only for what has already failed.
"""

import json

from bems.validation.error_messages import format_value
from bems.validation.field_errors import MAX_ERRORS, FieldError, append_pointer

NOT_A_NUMBER = "not a number"


class RawNumber(float):
    """A number that keeps the text it was written in, which `1e400` would lose."""

    text: str

    def __new__(cls, text: str) -> "RawNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


class DuplicateKeys(dict[str, object]):
    """An object some of whose names were sent more than once; each has its last value."""

    names: list[str]


class LenientJson:
    """What the bytes say.

    `data`   with `Number` for all but whole numbers, and `DuplicateKeys` for objects with a name sent twice.
    `fault`  why they say nothing.
    `odd`    whether `find_anomalies` would find any.
    """

    def __init__(self, body: bytes) -> None:
        self.data: object = None
        self.error: FieldError | None = None
        self.has_anomalies = False
        try:
            self.data = self._decode(body.decode())
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} is not UTF-8: use UTF-8, the encoding of JSON (RFC 8259, section 8.1)"
            self.error = FieldError("", detail, "not UTF-8")
        except json.JSONDecodeError as error:
            self.error = FieldError("", f"{error.msg}: line {error.lineno}, column {error.colno}", "not JSON")
        except RecursionError:
            self.error = FieldError("", "is nested too deep", "nested too deep")

    def _decode(self, text: str) -> object:
        if not text or text.isspace():
            raise json.JSONDecodeError("there is nothing to read", text, 0)
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("a byte order mark is not JSON (RFC 8259, section 8.1)", text, 0)
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=RawNumber,
            parse_int=_parse_int,
        )

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        data = dict(pairs)
        if len(data) == len(pairs):
            return data
        self.has_anomalies = True
        doubled, left = DuplicateKeys(data), set(data)
        doubled.names = []
        for name, _ in pairs:
            if name in left:
                left.remove(name)
            else:
                doubled.names.append(name)
        return doubled

    def _constant(self, text: str) -> RawNumber:
        self.has_anomalies = True
        return RawNumber(text)


def _parse_int(text: str) -> int:
    """The number; in place of one with more digits than Python cares to read, another that has as many."""
    if len(text) <= 500:
        return int(text)
    return (-1 if text.startswith("-") else 1) << (len(text) * 332193 // 100000)


def duplicate_key_errors(data: object, pointer: str = "") -> list[FieldError]:
    """A fault for every name that was sent twice in this object itself."""
    names = dict.fromkeys(data.names[:MAX_ERRORS]) if isinstance(data, DuplicateKeys) else {}
    return [
        FieldError(
            append_pointer(pointer, name), f"{format_value(name)} is sent more than once: use it once", "repeated"
        )
        for name in names
    ]


def find_anomalies(data: object) -> list[FieldError]:
    """A fault for every name sent twice, and for every NaN and Infinity, however deep; at most `MAX_ERRORS`."""
    found: list[FieldError] = []
    todo: list[tuple[str, object]] = [("", data)]
    while todo and len(found) < MAX_ERRORS:
        pointer, value = todo.pop()
        if isinstance(value, dict):
            found += duplicate_key_errors(value, pointer)
            todo += [
                (append_pointer(pointer, name), inner)
                for name, inner in reversed(value.items())
                if _may_have_anomalies(inner)
            ]
        elif isinstance(value, list):
            todo += [(f"{pointer}/{index}", inner) for index, inner in enumerate(value) if _may_have_anomalies(inner)][
                ::-1
            ]
        elif isinstance(value, RawNumber) and not value.text[-1].isdigit():
            found.append(
                FieldError(pointer, f"{value.text} is not a number in JSON (RFC 8259, section 6)", NOT_A_NUMBER)
            )
    return found[:MAX_ERRORS]


def _may_have_anomalies(value: object) -> bool:
    return isinstance(value, dict | list | RawNumber)

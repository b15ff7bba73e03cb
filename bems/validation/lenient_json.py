"""Lenient JSON parser, based on the standard library, that finds the errors of JSON that msgspec refuses.

It accepts what msgspec refuses (lone surrogates, huge numbers, NaN) and keeps what msgspec drops (duplicate keys), so
that each can be reported with its location. It is much slower, so use it only for input that msgspec refused.
"""

import json

from bems.validation.error_messages import format_value
from bems.validation.field_errors import MAX_ERRORS, FieldError, append_pointer

NOT_A_NUMBER = "not a number"


class RawNumber(float):
    """Float that keeps its text, because a float cannot represent numbers such as `1e400`."""

    text: str

    def __new__(cls, text: str) -> "RawNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


class DuplicateKeys(dict[str, object]):
    """Object with duplicate keys, which are in `names`; each key has its last value."""

    names: list[str]


class LenientJson:
    """Result of parsing bytes as JSON.

    `data`           the value, with a `RawNumber` for each number that is not an integer, and a `DuplicateKeys` for
                     each object with duplicate keys.
    `error`          why the bytes are not JSON, or None.
    `has_anomalies`  whether `find_anomalies` finds any in `data`.
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
        result, unseen = DuplicateKeys(data), set(data)
        result.names = []
        for name, _ in pairs:
            if name in unseen:
                unseen.remove(name)
            else:
                result.names.append(name)
        return result

    def _constant(self, text: str) -> RawNumber:
        self.has_anomalies = True
        return RawNumber(text)


def _parse_int(text: str) -> int:
    """Return the number; if it has over 500 digits, another number of about as many: Python limits int() to 4300."""
    if len(text) <= 500:
        return int(text)
    return (-1 if text.startswith("-") else 1) << (len(text) * 332193 // 100000)


def duplicate_key_errors(data: object, pointer: str = "") -> list[FieldError]:
    """Return an error for each duplicate key of this object, not of nested ones."""
    names = dict.fromkeys(data.names[:MAX_ERRORS]) if isinstance(data, DuplicateKeys) else {}
    return [
        FieldError(
            append_pointer(pointer, name), f"{format_value(name)} is sent more than once: use it once", "repeated"
        )
        for name in names
    ]


def find_anomalies(data: object) -> list[FieldError]:
    """Return an error for each duplicate key, NaN and Infinity at any depth; at most `MAX_ERRORS`."""
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

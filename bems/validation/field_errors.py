"""Validation that reports every error of a value, each with its location and how to fix it.

msgspec stops at the first error. `validate` is a second pass, for data that msgspec refused.
"""

import operator
import re
from collections.abc import Callable, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import inspect

from bems.validation.error_messages import (
    TYPE_NAMES,
    describe_type,
    describe_value,
    find_closest_match,
    find_description,
    format_value,
    has_json_type,
    is_encodable,
    join_choices,
    pluralize,
    strip_metadata,
    unwrap_metadata,
)

MAX_ERRORS = 100
"""Maximum number of errors of one value. More do not help a sender, and a hostile sender must not cause more work."""

MAX_DEPTH = 64
"""Maximum nesting depth of data."""

_MAX_SUGGESTIONS = 10

_Constant = inspect.NoneType | inspect.BoolType
_Numeric = inspect.IntType | inspect.FloatType
_Object = dict[object, object]


class FieldError(msgspec.Struct, frozen=True):
    """Error of a value.

    `pointer`  JSON Pointer (RFC 6901) from the root of the data; empty for the root itself. For a missing field, the
               pointer where it belongs. A name longer than 128 characters is cut, a lone surrogate is escaped.
    `detail`   the value, what is wrong with it, and how to fix it.
    `kind`     two or three words to count by, such as `missing`, `wrong type`, `not a choice`.
    """

    pointer: str
    detail: str
    kind: str = "not valid"


def validate(data: object, expected: Any) -> list[FieldError]:
    """Return all errors (at most `MAX_ERRORS`) of `data` as an `expected`; an empty list if it is valid.

    `data` is the result of a JSON or YAML decoder: dicts, lists, strings, numbers, booleans, None, dates. `expected` is
    any type that `msgspec.convert` accepts. The result is empty if and only if `msgspec.convert(data, expected)`
    succeeds, with three exceptions that only this function refuses: a string with a lone surrogate (which UTF-8 cannot
    encode), a string that does not match the `pattern` of its `extra_json_schema`, and more than `MAX_DEPTH` levels of
    a recursive type. Never raises, whatever the data.
    """
    validator = _Validator()
    validator.check(data, _type_info(expected), "", None)
    if not validator.errors and (error := _msgspec_error(data, expected)):
        validator.errors.append(error)
    return validator.errors


def append_pointer(pointer: str, name: object) -> str:
    """Return the pointer to a member (a name) or an item (an index), escaped as in RFC 6901, section 3."""
    text = name if isinstance(name, str) else format_value(name)
    if len(text) > 128:
        text = text[:128] + "…"
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return f"{pointer}/{text.replace('~', '~0').replace('/', '~1')}"


@lru_cache(maxsize=256)
def _cached_type_info(expected: Any) -> inspect.Type:
    return inspect.type_info(expected)


def _type_info(expected: Any) -> inspect.Type:
    try:
        return _cached_type_info(expected)
    except TypeError:
        return inspect.type_info(expected)


def _msgspec_error(data: object, expected: Any) -> FieldError | None:
    """Return msgspec's own error, if any: the fallback for rules that only msgspec knows, such as `__post_init__`."""
    try:
        msgspec.convert(data, expected)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        pointer = ""
        for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", path):
            pointer = append_pointer(pointer, name or index)
        return FieldError(pointer, message, "not valid")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        return FieldError("", f"cannot be read: {error}", "not valid")
    return None


class _Validator:
    """Recursive validator: each check appends to `errors`."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._depth = 0
        self._suggestions = 0

    @property
    def is_full(self) -> bool:
        return len(self.errors) >= MAX_ERRORS

    def add_error(self, pointer: str, kind: str, problem: str, expected_form: str | None) -> None:
        if not self.is_full:
            self.errors.append(
                FieldError(pointer, f"{problem}: use {expected_form}" if expected_form else problem, kind)
            )

    def check(self, data: object, expected: inspect.Type, pointer: str, hint: str | None) -> None:
        """Check a value of any type. `hint` is the description in the type's metadata."""
        if self.is_full:
            return
        if isinstance(expected, inspect.Metadata):
            described = (expected.extra_json_schema or {}).get("description")
            self.check(data, unwrap_metadata(expected), pointer, described or hint)
            return
        checker = _CHECKERS.get(type(expected))
        if checker is None:
            return
        if self._depth >= MAX_DEPTH:
            self.add_error(pointer, "nested too deep", f"is nested more than {MAX_DEPTH} levels deep", None)
            return
        self._depth += 1
        checker(self, data, expected, pointer, hint)
        self._depth -= 1

    def add_wrong_type(self, data: object, expected: inspect.Type, pointer: str, hint: str | None) -> None:
        wanted = TYPE_NAMES.get(type(expected)) if hint else describe_type(expected)
        self.add_error(
            pointer, "wrong type", f"{describe_value(data, expected)} not {wanted or describe_type(expected)}", hint
        )

    def check_constant(self, data: object, expected: _Constant, pointer: str, hint: str | None) -> None:
        if data is not None if isinstance(expected, inspect.NoneType) else not isinstance(data, bool):
            self.add_wrong_type(data, expected, pointer, hint)

    def check_number(self, data: object, expected: _Numeric, pointer: str, hint: str | None) -> None:
        allowed = int if isinstance(expected, inspect.IntType) else (int, float)
        if isinstance(data, bool) or not isinstance(data, allowed):
            self.add_wrong_type(data, expected, pointer, hint)
            return
        assert isinstance(data, int | float)
        if isinstance(expected, inspect.FloatType):
            try:
                data = float(data)
            except OverflowError:
                self.add_error(
                    pointer, "out of range", f"{format_value(data)} is out of range", hint or describe_type(expected)
                )
                return
        expected_form = hint or describe_type(expected)
        for bound, keeps, kind, problem in _BOUNDS:
            limit = getattr(expected, bound)
            if limit is not None and not keeps(data, limit):
                self.add_error(pointer, kind, f"{format_value(data)} is {problem} {limit}", expected_form)
                return
        if expected.multiple_of is not None and data % expected.multiple_of:
            problem = f"{format_value(data)} is not a multiple of {expected.multiple_of}"
            self.add_error(pointer, "not a multiple", problem, expected_form if hint else None)

    def check_string(self, data: object, expected: inspect.StrType, pointer: str, hint: str | None) -> None:
        if not isinstance(data, str):
            self.add_wrong_type(data, expected, pointer, hint)
            return
        expected_form = hint or describe_type(expected)
        if not is_encodable(data):
            problem = f"{format_value(data)} has half of a surrogate pair, which is not a character"
            self.add_error(pointer, "not text", problem, expected_form)
        elif expected.min_length is not None and len(data) < expected.min_length:
            problem = f"{format_value(data)} has {pluralize(len(data), 'character')}, fewer than {expected.min_length}"
            self.add_error(pointer, "too short" if data else "empty", problem if data else '"" is empty', expected_form)
        elif expected.max_length is not None and len(data) > expected.max_length:
            problem = f"{format_value(data)} has {pluralize(len(data), 'character')}, more than {expected.max_length}"
            self.add_error(pointer, "too long", problem, expected_form)
        elif expected.pattern is not None and not re.search(expected.pattern, data):
            self.add_error(pointer, "wrong form", f"{format_value(data)} does not have the right form", expected_form)

    def check_literal(self, data: object, expected: inspect.LiteralType, pointer: str, hint: str | None) -> None:
        if not any(type(value) is type(data) and value == data for value in expected.values):
            self.add_not_a_choice(data, list(expected.values), pointer, hint)

    def add_not_a_choice(self, data: object, values: Sequence[object], pointer: str, hint: str | None) -> None:
        suggestion = self.suggest_name(data, [value for value in values if isinstance(value, str)])
        suffix = f"; did you mean {format_value(suggestion)}?" if suggestion is not None else ""
        meaning = f" ({hint})" if hint else ""
        one_of = "one of " if len(values) > 1 else ""
        self.add_error(
            pointer,
            "not a choice",
            f"{format_value(data)} is not {one_of}{join_choices(values)}{meaning}{suffix}",
            None,
        )

    def check_scalar(self, data: object, expected: inspect.Type, pointer: str, hint: str | None) -> None:
        """Check a type by msgspec's own rules, and describe why it refuses the value."""
        if isinstance(data, str) and not is_encodable(data):
            self.add_error(
                pointer,
                "not text",
                f"{format_value(data)} has half of a surrogate pair",
                hint or describe_type(expected),
            )
            return
        try:
            msgspec.convert(data, _python_type(expected))
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError):
            pass
        else:
            return
        expected_form = hint or describe_type(expected)
        if isinstance(expected, inspect.EnumType):
            self.add_not_a_choice(data, [member.value for member in expected.cls], pointer, hint)
        elif isinstance(expected, inspect.DateTimeType) and _is_naive_or_aware(data):
            lacks = "has no offset" if expected.tz else "has an offset, and none is wanted"
            self.add_error(
                pointer, "no offset" if expected.tz else "offset", f"{format_value(data)} {lacks}", expected_form
            )
        elif isinstance(data, str):
            wanted = TYPE_NAMES.get(type(expected), "valid")
            self.add_error(pointer, "wrong form", f"{format_value(data)} is not {wanted}", expected_form)
        else:
            self.add_wrong_type(data, expected, pointer, hint)

    def check_union(self, data: object, expected: inspect.UnionType, pointer: str, hint: str | None) -> None:
        if data is None and expected.includes_none:
            return
        members = [strip_metadata(member) for member in expected.types]
        wanted = [(member, description) for member, description in members if not isinstance(member, inspect.NoneType)]
        fitting = (
            [(member, description) for member, description in wanted if has_json_type(data, member)]
            if len(wanted) > 1
            else wanted
        )
        structs = [member for member, _ in fitting if isinstance(member, inspect.StructType)]
        if not fitting:
            self.add_wrong_type(data, expected, pointer, hint)
        elif len(structs) > 1 and isinstance(data, dict):
            self.check_tagged_union(data, structs, pointer, hint)
        else:
            self.check_any_of(data, [(member, description or hint) for member, description in fitting], pointer)

    def check_any_of(self, data: object, members: list[tuple[inspect.Type, str | None]], pointer: str) -> None:
        """Add no error if a member accepts the data, else the errors of the first member."""
        found, errors = len(self.errors), self.errors
        first: list[FieldError] | None = None
        for member, hint in members:
            self.check(data, member, pointer, hint)
            new = errors[found:]
            if not new:
                return
            first = new if first is None else first
            del errors[found:]
        errors.extend(first or [])

    def check_tagged_union(
        self, data: _Object, structs: list[inspect.StructType], pointer: str, hint: str | None
    ) -> None:
        field = structs[0].tag_field or "type"
        tags = [struct.tag for struct in structs]
        if field not in data:
            self.add_error(
                append_pointer(pointer, field),
                "missing",
                f"{format_value(field)} is missing",
                f"one of {join_choices(tags)}",
            )
            return
        for struct in structs:
            if type(struct.tag) is type(data[field]) and struct.tag == data[field]:
                self.check(data, struct, pointer, hint)
                return
        self.add_not_a_choice(data[field], tags, append_pointer(pointer, field), None)

    def check_array(self, data: object, expected: inspect.CollectionType, pointer: str, hint: str | None) -> None:
        if not isinstance(data, list | tuple | Set):
            self.add_wrong_type(data, expected, pointer, hint)
            return
        self.check_size(len(data), "item", expected.min_length, expected.max_length, pointer, hint)
        for index, item in enumerate(data):
            if self.is_full:
                return
            self.check(item, expected.item_type, append_pointer(pointer, str(index)), None)

    def check_dict(self, data: object, expected: inspect.DictType, pointer: str, hint: str | None) -> None:
        if not isinstance(data, dict):
            self.add_wrong_type(data, expected, pointer, hint)
            return
        self.check_size(len(data), "entry", expected.min_length, expected.max_length, pointer, hint)
        for name, value in data.items():
            if self.is_full:
                return
            found = len(self.errors)
            self.check(name, expected.key_type, append_pointer(pointer, name), None)
            self.errors[found:] = [
                FieldError(error.pointer, f"the name {error.detail}", error.kind) for error in self.errors[found:]
            ]
            self.check(value, expected.value_type, append_pointer(pointer, name), None)

    def check_size(
        self, size: int, unit: str, least: int | None, most: int | None, pointer: str, hint: str | None
    ) -> None:
        if least is not None and size < least:
            self.add_error(pointer, "too few", f"has {pluralize(size, unit)}, fewer than {least}", hint)
        elif most is not None and size > most:
            self.add_error(pointer, "too many", f"has {pluralize(size, unit)}, more than {most}", hint)

    def check_object(self, data: object, expected: Any, pointer: str, hint: str | None) -> None:
        """Check a struct, a dataclass or a typed dict."""
        if isinstance(expected, inspect.StructType) and expected.array_like:
            return
        if not isinstance(data, dict):
            if isinstance(expected, inspect.TypedDictType) or not isinstance(data, expected.cls):
                self.add_wrong_type(data, expected, pointer, hint)
            return
        found = len(self.errors)
        fields = {field.encode_name: field for field in expected.fields}
        tag_field = expected.tag_field if isinstance(expected, inspect.StructType) else None
        for name, field in fields.items():
            if name in data:
                self.check(data[name], field.type, append_pointer(pointer, name), None)
            elif field.required:
                expected_form = find_description(field.type) or describe_type(field.type)
                self.add_error(
                    append_pointer(pointer, name), "missing", f"{format_value(name)} is missing", expected_form
                )
        if tag_field is not None and tag_field in data:
            tag = data[tag_field]
            if not (type(tag) is type(expected.tag) and tag == expected.tag):
                self.add_not_a_choice(tag, [expected.tag], append_pointer(pointer, tag_field), None)
        self.check_unknown_fields(data, {**fields, tag_field: None} if tag_field else fields, expected, pointer)
        if len(self.errors) == found and hasattr(expected.cls, "__post_init__"):
            error = _msgspec_error(data, expected.cls)
            if error is not None:
                self.errors.append(FieldError(pointer + error.pointer, error.detail, error.kind))

    def check_unknown_fields(self, data: _Object, fields: dict[str, Any], expected: Any, pointer: str) -> None:
        forbidden = isinstance(expected, inspect.StructType) and expected.forbid_unknown_fields
        for name in data:
            if self.is_full:
                return
            if not isinstance(name, str):
                self.add_error(
                    append_pointer(pointer, name), "wrong type", f"the name {format_value(name)} is not a string", None
                )
            elif name not in fields and (forbidden or not is_encodable(name)):
                absent = [field for field in fields if field not in data]
                suggestion = self.suggest_name(name, absent) or self.suggest_name(name, list(fields))
                advice = (
                    f"did you mean {format_value(suggestion)}?"
                    if suggestion
                    else f"use {join_choices(fields)}"
                    if fields
                    else "leave it out"
                )
                self.add_error(
                    append_pointer(pointer, name),
                    "unknown field",
                    f"{format_value(name)} is not a field here: {advice}",
                    None,
                )

    def suggest_name(self, data: object, names: list[str]) -> str | None:
        """Return the name that was probably meant. Limited to `_MAX_SUGGESTIONS` calls, because comparing is slow."""
        self._suggestions += 1
        return find_closest_match(data, names) if self._suggestions <= _MAX_SUGGESTIONS else None


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str, str], ...] = (
    ("ge", operator.ge, "too small", "less than"),
    ("gt", operator.gt, "too small", "not more than"),
    ("le", operator.le, "too large", "more than"),
    ("lt", operator.lt, "too large", "not less than"),
)

_CHECKERS: dict[type[inspect.Type], Callable[[_Validator, object, Any, str, str | None], None]] = {
    inspect.NoneType: _Validator.check_constant,
    inspect.BoolType: _Validator.check_constant,
    inspect.IntType: _Validator.check_number,
    inspect.FloatType: _Validator.check_number,
    inspect.StrType: _Validator.check_string,
    inspect.LiteralType: _Validator.check_literal,
    inspect.EnumType: _Validator.check_scalar,
    inspect.DateType: _Validator.check_scalar,
    inspect.DateTimeType: _Validator.check_scalar,
    inspect.DecimalType: _Validator.check_scalar,
    inspect.UnionType: _Validator.check_union,
    inspect.ListType: _Validator.check_array,
    inspect.SetType: _Validator.check_array,
    inspect.FrozenSetType: _Validator.check_array,
    inspect.VarTupleType: _Validator.check_array,
    inspect.DictType: _Validator.check_dict,
    inspect.StructType: _Validator.check_object,
    inspect.DataclassType: _Validator.check_object,
    inspect.TypedDictType: _Validator.check_object,
}
"""Checks by type. Other types are left to msgspec."""

_SCALARS: dict[type[inspect.Type], Any] = {
    inspect.DateType: date,
    inspect.DecimalType: Decimal,
}


def _python_type(expected: inspect.Type) -> Any:
    match expected:
        case inspect.DateTimeType():
            return datetime if expected.tz is None else Annotated[datetime, msgspec.Meta(tz=expected.tz)]
        case inspect.EnumType():
            return expected.cls
        case _:
            return _SCALARS[type(expected)]


def _is_naive_or_aware(data: object) -> bool:
    """Return whether the data is a date and time, with or without an offset."""
    try:
        msgspec.convert(data, datetime)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True

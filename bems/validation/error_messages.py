"""Texts of validation errors: descriptions of values and types, always short and on one line."""

import difflib
import json
from collections.abc import Iterable, Set
from datetime import date, datetime, time
from decimal import Decimal

from msgspec import inspect, structs

_MAX_SHOWN_CHARACTERS = 60


def format_value(value: object) -> str:
    """Format a value as JSON would, shortened and on one line."""
    if isinstance(value, str):
        cut = value[:_MAX_SHOWN_CHARACTERS]
        plain = cut.isprintable()
        # An escape takes six characters.
        cut = cut if plain else cut[: _MAX_SHOWN_CHARACTERS // 2]
        shown = json.dumps(cut, ensure_ascii=not plain)
        return shown if len(cut) == len(value) else f'{shown[:-1]}…"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a whole number of about {value.bit_length() * 30103 // 100000 + 1} digits"
    if isinstance(value, int | float | Decimal):
        text = repr(value) if not isinstance(value, Decimal) else str(value)
        return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "…"
    if isinstance(value, date | time):
        return value.isoformat()
    return json_type_name(value)


def join_choices(values: Iterable[object]) -> str:
    """Format and join values, such as `"approved", "rejected"`."""
    return ", ".join(format_value(value) for value in values)


def describe_type(expected: inspect.Type) -> str:
    """Return a noun phrase for an expected type, such as `a whole number from 0 to 3650`."""
    plain, _ = strip_metadata(expected)
    match plain:
        case inspect.UnionType():
            return " or ".join(dict.fromkeys(describe_type(member) for member in plain.types))
        case inspect.LiteralType():
            return f"one of {join_choices(plain.values)}" if len(plain.values) > 1 else join_choices(plain.values)
        case inspect.EnumType():
            return f"one of {join_choices(member.value for member in plain.cls)}"
        case inspect.IntType() | inspect.FloatType():
            return TYPE_NAMES[type(plain)] + _range(plain)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            required = [field.encode_name for field in plain.fields if field.required]
            return f"an object with {join_choices(required)}" if required else "an object"
        case inspect.DateTimeType():
            return (
                TYPE_NAMES[inspect.DateTimeType] + {True: " with offset", False: " without offset", None: ""}[plain.tz]
            )
        case inspect.StrType() if plain.min_length or plain.max_length is not None:
            most = "" if plain.max_length is None else f" to {plain.max_length}"
            return f"a string of {plain.min_length or 0}{most or ' or more'} characters"
        case inspect.StrType() if plain.pattern:
            return f"a string that matches {plain.pattern}"
        case _:
            return TYPE_NAMES.get(type(plain), "another value")


def _range(bounds: inspect.IntType | inspect.FloatType) -> str:
    if bounds.ge is not None and bounds.le is not None:
        return f" from {bounds.ge} to {bounds.le}"
    words = [(" of at least", bounds.ge), (" above", bounds.gt), (" of at most", bounds.le), (" below", bounds.lt)]
    return " and".join(f"{word} {bound}" for word, bound in words if bound is not None)


TYPE_NAMES: dict[type[inspect.Type], str] = {
    inspect.NoneType: "null",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a string",
    inspect.DateType: "a date",
    inspect.DateTimeType: "a date and time",
    inspect.DecimalType: "a decimal number",
    inspect.ListType: "a list",
    inspect.SetType: "a list",
    inspect.FrozenSetType: "a list",
    inspect.VarTupleType: "a list",
    inspect.TupleType: "a list",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
    inspect.DataclassType: "an object",
    inspect.TypedDictType: "an object",
}


def strip_metadata(expected: inspect.Type) -> tuple[inspect.Type, str | None]:
    """Return the type without its metadata, and the metadata's description."""
    description = None
    while isinstance(expected, inspect.Metadata):
        description = (expected.extra_json_schema or {}).get("description") or description
        expected = unwrap_metadata(expected)
    return expected, description


def unwrap_metadata(expected: inspect.Metadata) -> inspect.Type:
    """Return the inner type, with the `pattern` of the metadata's `extra_json_schema`, which msgspec ignores."""
    pattern = (expected.extra_json_schema or {}).get("pattern")
    if pattern and isinstance(expected.type, inspect.StrType):
        return structs.replace(expected.type, pattern=pattern)
    return expected.type


def find_description(expected: inspect.Type) -> str | None:
    """Return the description in the type's metadata, also if the type is `... | None`."""
    plain, description = strip_metadata(expected)
    if description is None and isinstance(plain, inspect.UnionType):
        wanted = [member for member in plain.types if not isinstance(member, inspect.NoneType)]
        return strip_metadata(wanted[0])[1] if len(wanted) == 1 else None
    return description


def describe_value(value: object, expected: inspect.Type) -> str:
    """Return the start of a "wrong type" message: `12 is a number,`, or `12.5 is` if its type adds nothing."""
    shown, kind = format_value(value), json_type_name(value)
    adds_nothing = (
        shown == kind or value is None or (kind == "a number" and "number" in TYPE_NAMES.get(type(expected), ""))
    )
    return f"{shown} is" if adds_nothing else f"{shown} is {kind},"


def has_json_type(data: object, expected: inspect.Type) -> bool:
    """Return whether the data has the JSON type of `expected`, which is enough to choose a member of a union."""
    match expected:
        case inspect.AnyType():
            return True
        case inspect.BoolType():
            return isinstance(data, bool)
        case inspect.IntType():
            return isinstance(data, int) and not isinstance(data, bool)
        case inspect.FloatType():
            return isinstance(data, int | float) and not isinstance(data, bool)
        case inspect.LiteralType():
            return any(type(data) is type(value) for value in expected.values)
        case inspect.EnumType():
            return any(type(data) is type(member.value) for member in expected.cls)
        case inspect.DictType() | inspect.DataclassType() | inspect.TypedDictType():
            return isinstance(data, dict)
        case inspect.StructType():
            return isinstance(data, list | tuple if expected.array_like else dict)
        case inspect.CollectionType() | inspect.TupleType():
            return isinstance(data, list | tuple | Set)
        case inspect.StrType():
            return isinstance(data, str)
        case inspect.DateType():
            return isinstance(data, str) or type(data) is date
        case inspect.DateTimeType():
            return isinstance(data, str | datetime)
        case _:
            return not isinstance(data, dict | list | bool | None)


def json_type_name(data: object) -> str:
    match data:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float() | Decimal():
            return "a number"
        case str():
            return "a string"
        case dict():
            return "an object"
        case list() | tuple() | Set():
            return "a list"
        case datetime():
            return "a date and time"
        case date():
            return "a date"
        case _:
            return f"a {type(data).__name__[:40]}"


def pluralize(number: int, unit: str) -> str:
    plural = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{number} {unit if number == 1 else plural}"


def find_closest_match(data: object, names: list[str]) -> str | None:
    """Return the name that was probably meant, or None."""
    if not isinstance(data, str) or len(data) > 64:
        return None
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(data.casefold(), folded, n=1, cutoff=0.75)
    return folded[near[0]] if near else None


def is_encodable(text: str) -> bool:
    """Return whether UTF-8 can encode the text, that is, whether it has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

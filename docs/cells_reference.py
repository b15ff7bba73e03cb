"""Reference of `cells.yaml` and its JSON Schema, generated from the structs of the file.

The docstring of a field is the meaning of its key. The types say which values are allowed.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Struct, structs
from msgspec.inspect import CollectionType, Metadata, StructType, Type, UnionType, type_info

from bems.tracker.cells import CellsFile
from bems.tracker.policy import DEFAULT_STAGES, StagesSpec

DRAFT_07 = "http://json-schema.org/draft-07/schema#"
"""The newest draft that editors support for YAML."""

INTRODUCTION = """# cells.yaml

The configuration of all cells of an installation. Whatever reads the file names every mistake in it with its line. Only
`name` and `region` of a cell are required.

- [An example](cells-example.yaml) has a cell with every key. The `policy` of a cell is explained in
  [Operations](../operations.md#the-policy) too.
- Secrets are never written in the file: give the name of the environment variable that holds one.
- The format is YAML 1.2. Text that reads as a number, `true` or `false` needs quotes, such as the id of an account.
  `NO` is Norway, `on` is text, and `2026-12-24` is a date.
- An editor with a YAML language server checks the file, and shows these explanations, if the first line is
  `# yaml-language-server: $schema=docs/reference/cells.schema.json`.
"""

Schema = dict[str, Any]


class Key(NamedTuple):
    """Key of a section of the file, and the JSON Schema of its value."""

    name: str
    meaning: str
    is_required: bool
    default: Any
    """As written in the file; None without a default."""
    value: Schema


def find_structs() -> dict[type[Struct], list[str]]:
    """Return every struct of the file in its order, and the keys that have it as their value, such as `limits.key`."""
    found: dict[type[Struct], list[str]] = {}
    _add_structs(type_info(CellsFile), "", found)
    return found


def _add_structs(expected: Type, path: str, found: dict[type[Struct], list[str]]) -> None:
    match expected:
        case Metadata():
            _add_structs(expected.type, path, found)
        case UnionType():
            for member in expected.types:
                _add_structs(member, path, found)
        case CollectionType():
            _add_structs(expected.item_type, path, found)
        case StructType():
            found.setdefault(expected.cls, []).append(path)
            # The keys of a cell are named without `cells.`, which would begin every name.
            prefix = "" if path in ("", "cells") else f"{path}."
            for field in expected.fields:
                _add_structs(field.type, f"{prefix}{field.encode_name}", found)


def find_keys(struct: type[Struct]) -> Iterator[Key]:
    """Yield the keys of a struct. Raise ValueError for a field without a docstring."""
    # A struct has the fields of those that it extends.
    meanings: dict[str, str] = {}
    for extended in reversed(struct.__mro__[: struct.__mro__.index(Struct)]):
        meanings |= _read_field_docstrings(extended)
    properties = msgspec.json.schema(struct)["$defs"][struct.__name__]["properties"]
    for field in structs.fields(struct):
        if field.name not in meanings:
            raise ValueError(f"the field {field.name} of {struct.__name__} has no docstring")
        # An omitted stage has the rules of the default policy, not those of an empty struct.
        default = getattr(DEFAULT_STAGES, field.name) if struct is StagesSpec else _default_of(field)
        name, value = field.encode_name, _without_null(properties[field.encode_name])
        yield Key(name, meanings[field.name], field.required, _as_written(default), value)


def _read_field_docstrings(struct: type[Struct]) -> dict[str, str]:
    """Return the docstrings of a struct's fields, inherited ones included."""
    classes = (one for one in reversed(struct.__mro__) if one is not Struct and issubclass(one, Struct))
    return {name: text for one in classes for name, text in _read_own_docstrings(one).items()}


def _read_own_docstrings(struct: type[Struct]) -> dict[str, str]:
    [definition] = ast.parse(inspect.getsource(struct)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(after.value.value.split())
        for field, after in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def _default_of(field: structs.FieldInfo) -> Any:
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return None if field.default is NODEFAULT else field.default


def _as_written(value: Any) -> Any:
    """Return a value as plain data, in which a struct has only the keys that differ from their defaults."""
    if isinstance(value, Struct):
        return {
            field.encode_name: _as_written(getattr(value, field.name))
            for field in structs.fields(value)
            if getattr(value, field.name) != _default_of(field)
        }
    return [_as_written(item) for item in value] if isinstance(value, tuple) else value


def _without_null(value: Schema) -> Schema:
    """Return the schema of a value without null, which the file cannot contain, and without msgspec's default."""
    kept = {keyword: content for keyword, content in value.items() if keyword != "default"}
    given = [member for member in kept.pop("anyOf", []) if member != {"type": "null"}]
    return {**given[0], **kept} if len(given) == 1 else {**kept, "anyOf": given} if given else kept


# -- the JSON Schema


def json_schema() -> str:
    """Return the JSON Schema of the file, in which each key has its meaning and its default."""
    schema = {"$schema": DRAFT_07, **msgspec.json.schema(CellsFile)}
    for struct in find_structs():
        schema["$defs"][struct.__name__]["properties"] = {key.name: _property(key) for key in find_keys(struct)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _property(key: Key) -> Schema:
    allowed = key.value.get("description")
    description = f"{key.meaning} Value: {allowed}." if allowed else key.meaning
    return {**key.value, "description": description, **({} if key.default is None else {"default": key.default})}


# -- the page


def page() -> str:
    """Return the page with a table of keys for every struct of the file."""
    found, lines = find_structs(), [INTRODUCTION]
    links = {struct.__name__: f"[{paths[0]}](#{paths[0].replace('.', '')})" for struct, paths in found.items()}
    for struct, paths in found.items():
        if struct is not CellsFile:
            paragraphs = (inspect.getdoc(struct) or "").split("\n\n")
            lines += [f"## {paths[0]}\n", *(" ".join(text.split()) + "\n" for text in paragraphs)]
        if len(paths) > 1:
            lines.append(f"The same keys: {', '.join(f'`{path}`' for path in paths[1:])}.\n")
        rows = [_row(key, links) for key in find_keys(struct)]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def _row(key: Key, links: dict[str, str]) -> str:
    is_section = "$ref" in key.value and not key.default
    default = "required" if key.is_required else "" if key.default is None or is_section else f"`{_flow(key.default)}`"
    return f"| `{key.name}` | {_describe(key.value, links)} | {default} | {key.meaning} |"


def _describe(value: Schema, links: dict[str, str]) -> str:
    """Return the type and the allowed values of a schema in a few words."""
    allowed = value.get("description")
    if "$ref" in value:
        return f"mapping: {links[value['$ref'].rpartition('/')[2]]}"
    if "anyOf" in value:
        return ", or ".join(_describe(member, links) for member in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    match value["type"]:
        case "boolean":
            return "`true`, `false`"
        case "array":
            kind = "list of " + re.sub("^[a-z]+", r"\g<0>s", _describe(value["items"], links))
            return f"{kind} ({allowed})" if allowed else kind
        case "object":
            name, item = value["propertyNames"]["description"], value["additionalProperties"]
            kind = f"mapping of {name}, to {item.get('description') or _describe(item, links)}"
            return f"{kind} ({allowed})" if allowed else kind
        case "integer" | "number":
            kind = "whole number" if value["type"] == "integer" else "number"
            return f"{kind}: {allowed or '{minimum:,} to {maximum:,}'.format_map(value)}"
        case _:
            kind = value.get("format", "text")
            return f"{kind}: {allowed}" if allowed else kind


def _flow(value: Any) -> str:
    """Return plain data in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)

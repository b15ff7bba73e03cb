"""Reader of policies and of `cells.yaml`: returns typed values, or reports every error with its line.

Scalars follow YAML 1.2's JSON schema, so `country: NO` is Norway and `days_off: [2026-12-24]` is a date: only `true`
and `false` are booleans, plain whole numbers are numbers, and everything else is text.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct

from bems.tracker.calendars import load_zone
from bems.tracker.cells import CellsFile
from bems.tracker.contract import STAGES
from bems.tracker.durations import parse_deadline, parse_duration
from bems.tracker.policy import TWO_INTERVALS, PolicySpec
from bems.validation.error_messages import format_value
from bems.validation.field_errors import MAX_ERRORS, FieldError, append_pointer, validate

MAX_CHARACTERS = 256 * 1024
MAX_YAML_DEPTH = 16

_Config = TypeVar("_Config")

# A leading zero makes it text, so an account id keeps its zeros. 18 digits fit into a 64-bit integer.
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}

_MOVED_KEYS = {
    "policy_file": '"policy_file" is now "policy": use "policy: PATH"',
    "provisioned_concurrency": (
        '"provisioned_concurrency" is now "provisioned" of "concurrency": use "concurrency: {provisioned: NUMBER}"'
    ),
}
"""Keys of a cell in earlier versions, and the error that names the new form."""


class ConfigFieldError(Struct, frozen=True):
    """Error in a file: its line (from 1), a JSON Pointer, and what is wrong and how to fix it."""

    line: int
    pointer: str
    detail: str


class ConfigError(Exception):
    """Every error of a file. Its text has one line per error: `name:line: path: what is wrong: how to fix it`."""

    def __init__(self, name: str, errors: list[ConfigFieldError]) -> None:
        self.name = name
        self.errors = errors
        super().__init__(
            "\n".join(f"{name}:{error.line}: {error.pointer or 'the file'}: {error.detail}" for error in errors)
        )


CheckCountry = Callable[[str, str | None], object]
"""Function that raises ValueError for an unknown country or subdivision; the exception's attribute `key` is `country`
or `subdivision`. The tracker has no list of countries, so the runtime passes `bems.calendars.check_country`."""


def read_policy(text: str, name: str, check_country: CheckCountry | None = None) -> PolicySpec:
    """Read a policy from YAML text. Raise ConfigError with every error; `name` is the file's name in its messages."""
    return _read(text, name, PolicySpec, lambda data: _check_policy(data, "", check_country))


def read_cells(text: str, name: str, check_country: CheckCountry | None = None) -> CellsFile:
    """Read cells from YAML text. Raise ConfigError with every error; `name` is the file's name in its messages."""
    return _read(text, name, CellsFile, lambda data: _check_cells(data, check_country))


def _read(text: str, name: str, expected: type[_Config], check: Callable[[Any], Iterator[FieldError]]) -> _Config:
    document = _Document(text)
    errors = document.errors
    if not document.is_unreadable:
        found = [_explain_moved_key(error) for error in validate(document.data, expected)]
        invalid = {error.pointer for error in found}
        found += [error for error in islice(check(document.data), MAX_ERRORS) if error.pointer not in invalid]
        own = [error for error in found if not document.is_consequence(error)]
        errors += [ConfigFieldError(document.line_of(error.pointer), error.pointer, error.detail) for error in own]
    if errors:
        raise ConfigError(name, sorted(errors, key=lambda error: (error.line, error.pointer)))
    return msgspec.convert(document.data, expected)


def _explain_moved_key(error: FieldError) -> FieldError:
    """Return an error that names the new form of a cell's key from an earlier version; any other error is unchanged."""
    cell, _, key = error.pointer.rpartition("/")
    is_moved = key in _MOVED_KEYS and re.fullmatch(r"/cells/\d+", cell) is not None
    return FieldError(error.pointer, _MOVED_KEYS[key], error.kind) if is_moved else error


def _check_cells(data: Any, check_country: CheckCountry | None) -> Iterator[FieldError]:
    """Yield violations of rules that the types cannot express. Parts of the wrong type are skipped."""
    names: dict[str, int] = {}
    for index, cell in enumerate(_items(_get(data, "cells"))):
        name = _get(cell, "name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield FieldError(
                f"/cells/{index}/name", f"{format_value(name)} is the name of cell {names[name]} too: use another"
            )
        yield from _check_policy(_get(cell, "policy"), f"/cells/{index}/policy", check_country)


def _check_policy(data: Any, pointer: str, check_country: CheckCountry | None) -> Iterator[FieldError]:
    """Yield violations of a policy's rules that the types cannot express. Parts of the wrong type are skipped."""
    yield from _check_calendar(_get(data, "calendar"), f"{pointer}/calendar", check_country)
    for stage in STAGES:
        rule, here = _get(_get(data, "stages"), stage), f"{pointer}/stages/{stage}"
        yield from _check_rule(rule, here)
        for index, override in enumerate(_items(_get(rule, "overrides"))):
            yield from _check_rule(override, f"{here}/overrides/{index}")


def _check_calendar(data: Any, pointer: str, check_country: CheckCountry | None) -> Iterator[FieldError]:
    yield from _check_text(data, "timezone", pointer, load_zone)
    off = {day for day in _items(_get(data, "days_off")) if isinstance(day, str)}
    for index, day in enumerate(_items(_get(data, "days_on"))):
        if isinstance(day, str) and day in off:
            yield FieldError(
                f"{pointer}/days_on/{index}", f"{format_value(day)} is in days_off too: leave it out of one"
            )
    country, subdivision = _get(data, "country"), _get(data, "subdivision")
    if check_country is None or not isinstance(country, str):
        return
    try:
        check_country(country, subdivision if isinstance(subdivision, str) else None)
    except ValueError as error:
        yield FieldError(f"{pointer}/{getattr(error, 'key', 'country')}", str(error))


def _check_rule(rule: Any, pointer: str) -> Iterator[FieldError]:
    yield from _check_text(rule, "deadline", pointer, parse_deadline)
    yield from _check_text(rule, "escalate_every", pointer, parse_duration)
    yield from _check_text(_get(rule, "escalate"), "every", f"{pointer}/escalate", parse_duration)
    if _get(rule, "escalate") is not None and _get(rule, "escalate_every") is not None:
        yield FieldError(f"{pointer}/escalate_every", TWO_INTERVALS)


def _check_text(data: Any, key: str, pointer: str, parse: Callable[[str], object]) -> Iterator[FieldError]:
    text = _get(data, key)
    try:
        parse(text) if isinstance(text, str) else None
    except ValueError as error:
        yield FieldError(f"{pointer}/{key}", str(error))


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _items(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []


class _Document:
    """YAML text as plain data, built from the parser's events so that no alias, tag or merge key is resolved.

    `errors` are those of the YAML itself. If `is_unreadable`, there is no data. A value with an error is None.
    """

    def __init__(self, text: str) -> None:
        self.data: Any = None
        self.errors: list[ConfigFieldError] = []
        self.is_unreadable = True
        self._lines: dict[str, int] = {}
        self._invalid_pointers: set[str] = set()
        self._depth = 0
        if len(text) > MAX_CHARACTERS:
            self._add_error(1, "", f"has {len(text)} characters, more than {MAX_CHARACTERS}: split it")
            return
        try:
            loader = yaml.SafeLoader(text)
            self._get_event: Callable[[], Any] = loader.get_event
            self._read()
        except yaml.MarkedYAMLError as error:
            tab, mark = "character '\\t'" in str(error.problem), error.problem_mark
            problem = "has a tab where only spaces may be: use spaces" if tab else f"cannot be read: {error.problem}"
            self._add_error(mark.line + 1 if mark else 1, "", problem)
        except (ValueError, OverflowError):
            # PyYAML raises these for an escape, or a YAML version, that is out of range.
            self._add_error(loader.line + 1, "", "cannot be read: a number in an escape is out of range")
        except yaml.reader.ReaderError as error:
            line, shown = text.count("\n", 0, error.position) + 1, format_value(text[error.position])
            self._add_error(line, "", f"has the character {shown}, which YAML does not allow: leave it out")

    def line_of(self, pointer: str) -> int:
        """Return the line of a value, or of its nearest enclosing value if it is missing."""
        while pointer not in self._lines and pointer:
            pointer = pointer.rpartition("/")[0]
        return self._lines.get(pointer, 1)

    def is_consequence(self, error: FieldError) -> bool:
        """Return whether an error only follows from an error of the YAML itself."""
        pointer = error.pointer
        while pointer not in self._invalid_pointers and pointer:
            pointer = pointer.rpartition("/")[0]
        return pointer in self._invalid_pointers

    def _read(self) -> None:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._add_error(1, "", "is empty: write at least one key")
            return
        event = self._next()
        self.data = self._node(event, "", event.start_mark.line + 1)
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            self.is_unreadable = False
        else:
            self._add_error(event.start_mark.line + 1, "", "has a second document: put it in a separate file")

    def _node(self, event: Any, pointer: str, line: int) -> Any:
        self._lines[pointer] = line
        if isinstance(event, yaml.AliasEvent):
            return self._add_invalid_value(
                line, pointer, f"{format_value(f'*{event.anchor}')} is an alias: repeat the value itself"
            )
        if event.tag is not None:
            self._skip(event)
            return self._add_invalid_value(line, pointer, f"{format_value(event.tag)} is a tag: leave it out")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(pointer)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(item, f"{pointer}/{len(items)}", item.start_mark.line + 1))
            return items
        value = _scalar(event)
        if value is None:
            self._add_invalid_value(line, pointer, "has no value: give it one, or leave it out")
        return value

    def _mapping(self, pointer: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            name = _scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if isinstance(name, str) and name not in mapping:
                mapping[name] = self._node(self._next(), append_pointer(pointer, name), line)
                continue
            if isinstance(name, str):
                here = append_pointer(pointer, name)
                self._add_error(
                    line, here, f"{format_value(name)} is already in line {self._lines[here]}: keep one of them"
                )
            else:
                self._skip(event)
                shown = format_value(name) if isinstance(event, yaml.ScalarEvent) else "this"
                self._add_error(line, pointer, f"{shown} is not a name: use text, in quotes if need be")
            self._skip(self._next())
        return mapping

    def _skip(self, event: Any) -> None:
        outside = self._depth - isinstance(event, yaml.CollectionStartEvent)
        while self._depth > outside:
            self._next()

    def _next(self) -> Any:
        event = self._get_event()
        self._depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._depth > MAX_YAML_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"over {MAX_YAML_DEPTH} levels deep", problem_mark=event.start_mark)
        return event

    def _add_invalid_value(self, line: int, pointer: str, detail: str) -> None:
        self._invalid_pointers.add(pointer)
        self._add_error(line, pointer, detail)

    def _add_error(self, line: int, pointer: str, detail: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(ConfigFieldError(line, pointer, detail))


def _scalar(event: yaml.ScalarEvent) -> str | int | bool | None:
    if event.style is not None:
        return event.value
    if event.value in _CONSTANTS:
        return _CONSTANTS[event.value]
    return int(event.value) if _WHOLE_NUMBER.fullmatch(event.value) else event.value

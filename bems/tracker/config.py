"""Configuration: the text of a policy or of `cells.yaml` in, typed values out, or every fault with its line.

Scalars are read as YAML 1.2's JSON schema reads them, so that `country: NO` is Norway and `days_off: [2026-12-24]` a
date: only `true` and `false` are booleans, plain whole numbers are numbers, and all else is text.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct

from bems.tracker.calendars import load_zone
from bems.tracker.contract import STAGES, Name
from bems.tracker.durations import parse_deadline, parse_duration
from bems.tracker.faults import MOST_FAULTS, Fault, child, find_faults
from bems.tracker.policy import PolicySpec
from bems.tracker.wording import show

MOST_CHARACTERS = 256 * 1024
MOST_LEVELS = 16

_Config = TypeVar("_Config")

# No number with a leading zero, so that an account keeps it; 18 digits fit wherever numbers go.
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}

CellName = Annotated[
    str, Meta(max_length=20, pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*(?!\n)$", description="1 to 20 of a-z, 0-9 and -")
]
Region = Annotated[
    str, Meta(pattern=r"^[a-z]{2,4}(-[a-z]+){1,2}-[0-9]{1,2}(?!\n)$", description="an AWS Region, such as eu-west-1")
]
Account = Annotated[str, Meta(pattern=r"^[0-9]{12}(?!\n)$", description='12 digits in quotes, such as "123456789012"')]
_URL = r"^(https://[^\s/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)([/?#]\S*)?(?!\n)$"
Url = Annotated[
    str, Meta(max_length=2048, pattern=_URL, description="https, without user or password (http for localhost only)")
]
VariableName = Annotated[
    str, Meta(pattern=r"^[A-Z_][A-Z0-9_]{0,127}(?!\n)$", description="an environment variable's name, not the secret")
]
Address = Annotated[
    str, Meta(max_length=254, pattern=r"^[^\s@]+@[^\s@]+\.[^\s@]+(?!\n)$", description="an e-mail address")
]
TagName = Annotated[
    str,
    Meta(max_length=128, pattern=r"^(?![aA][wW][sS]:)[\w .:/=+@-]+(?!\n)$", description="a tag's name, not of aws:"),
]
TagValue = Annotated[str, Meta(max_length=256, pattern=r"^[\w .:/=+@-]*(?!\n)$", description="a tag's value")]
RetentionDays = Literal[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]
"""What CloudWatch Logs takes (API reference of PutRetentionPolicy)."""


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """A token bucket: so many requests a second on average, so many at once."""

    requests_per_second: Annotated[int, Meta(ge=1, le=100_000)]
    burst: Annotated[int, Meta(ge=1, le=100_000)]


class StageRates(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one key may send to each stage. The default is twice what 60,000 events a minute come to."""

    ingestion: Rate = Rate(500, 1000)
    authorization: Rate = Rate(500, 1000)
    reconciliation: Rate = Rate(500, 1000)
    posting: Rate = Rate(500, 1000)


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much a cell takes; over a rate it answers 429. The default takes 60,000 events a minute, unbatched."""

    key: Rate = Rate(1000, 2000)
    """How fast one API key may send to all stages together."""
    stages: StageRates = StageRates()
    max_batch: Annotated[int, Meta(ge=1, le=100)] = 100
    """The most events in one batch request."""
    open_executions: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    """The Step Functions quota of the cell's account and Region; beyond it new waits are dormant."""


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP POST per alert, to exactly one of `url` and `url_env`."""

    url: Url | None = None
    url_env: VariableName | None = None
    """For a URL that is itself a secret, as those of chat services are."""
    secret_env: VariableName | None = None
    """Where the key that signs the requests is found; without one they are not signed."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_env is None):
            raise ValueError('a webhook has one address: use either "url" or "url_env"')


class Email(Struct, frozen=True, forbid_unknown_fields=True):
    """A message per alert; `sender`, in the file `from`, defaults to what the home is set up with."""

    to: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=50, description="1 to 50 e-mail addresses")]
    sender: Address | None = msgspec.field(name="from", default=None)


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """A line in the cell's log per alert."""


class Destination(Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts go: exactly one of the three."""

    webhook: Webhook | None = None
    email: Email | None = None
    log: Log | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.webhook, self.email, self.log)) != 1:
            raise ValueError('a destination is one way to send: use one of "webhook", "email", "log" in each list item')


Destinations = Annotated[tuple[Destination, ...], Meta(min_length=1, max_length=20, description="1 to 20 destinations")]


class Alerts(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the alerts of each severity go. An empty list would silence them, so it is refused: `log` is the least."""

    warning: Destinations = (Destination(log=Log()),)
    critical: Destinations = (Destination(log=Log()),)


class Embedded(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the cell listens when it runs on one machine."""

    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+(?!\n)$", description="a host to bind")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="0 to 65535; 0 takes a free one")] = 8080


class Cell(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One independent cell: its place, its variants, its policy, its limits. At most one of `policy`, `policy_file`."""

    name: CellName
    """Unique in the file; part of the names of resources, so a renamed cell is a new one."""
    region: Region
    account: Account | None = None
    """Where the cell is deployed; without one, the account of whoever deploys it."""
    delivery: Literal["fifo", "standard"] = "fifo"
    """`fifo` needs EventBridge's Custom Event Bus in the Region; `standard` works in every Region and in emulators."""
    time_series: Literal["timestream", "s3tables"] = "s3tables"
    """`timestream` needs an account with access to Timestream for LiveAnalytics, which takes no new customers."""
    policy: PolicySpec | None = None
    policy_file: Name | None = None
    """The path of a policy, relative to the file of the cells. With neither, the default policy holds."""
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    embedded: Embedded = Embedded()
    removal: Literal["retain", "destroy"] = "retain"
    """What becomes of the cell's data when its stack is deleted."""
    termination_protection: bool = True
    """Whether the stack refuses to be deleted."""
    tags: Annotated[dict[TagName, TagValue], Meta(max_length=40, description="up to 40 tags")] = {}
    """On every resource, besides those that the product sets."""
    provisioned_concurrency: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How many instances of each function on an event's path are kept warm."""
    tracing: bool = True
    """Whether X-Ray samples requests."""
    log_retention_days: RetentionDays = 30

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy_file is not None:
            raise ValueError('a cell has one policy: use either "policy" or "policy_file"')


class CellsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`cells.yaml`: every cell of an installation."""

    cells: Annotated[tuple[Cell, ...], Meta(min_length=1, max_length=100, description="a list of 1 to 100 cells")]


class ConfigFault(Struct, frozen=True):
    """One thing that is wrong in a file: its line (from 1), a JSON Pointer, and what is wrong and would be right."""

    line: int
    pointer: str
    detail: str


class ConfigError(Exception):
    """Every fault of a file; as text, one `name:line: path: what is wrong: what would be right` a line."""

    def __init__(self, name: str, faults: list[ConfigFault]) -> None:
        self.name = name
        self.faults = faults
        super().__init__(
            "\n".join(f"{name}:{fault.line}: {fault.pointer or 'the file'}: {fault.detail}" for fault in faults)
        )


def read_policy(text: str, name: str) -> PolicySpec:
    """The policy that a file's text says; `name` is how messages call the file. ConfigError has all its faults."""
    return _read(text, name, PolicySpec, lambda data: _check_policy(data, ""))


def read_cells(text: str, name: str) -> CellsFile:
    """The cells that a file's text says; `name` is how messages call the file. ConfigError has all its faults."""
    return _read(text, name, CellsFile, _check_cells)


def _read(text: str, name: str, expected: type[_Config], check: Callable[[Any], Iterator[Fault]]) -> _Config:
    document = _Document(text)
    faults = document.faults
    if not document.unreadable:
        found = find_faults(document.data, expected)
        refused = {fault.pointer for fault in found}
        found += [fault for fault in islice(check(document.data), MOST_FAULTS) if fault.pointer not in refused]
        own = [fault for fault in found if not document.spoilt(fault)]
        faults += [ConfigFault(document.line(fault.pointer), fault.pointer, fault.detail) for fault in own]
    if faults:
        raise ConfigError(name, sorted(faults, key=lambda fault: (fault.line, fault.pointer)))
    return msgspec.convert(document.data, expected)


def _check_cells(data: Any) -> Iterator[Fault]:
    """What the types cannot say of the cells, of whatever parts of the data have the right form."""
    names: dict[str, int] = {}
    for index, cell in enumerate(_items(_get(data, "cells"))):
        name = _get(cell, "name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield Fault(f"/cells/{index}/name", f"{show(name)} is the name of cell {names[name]} too: use another")
        yield from _check_policy(_get(cell, "policy"), f"/cells/{index}/policy")


def _check_policy(data: Any, pointer: str) -> Iterator[Fault]:
    """What the types cannot say of a policy, of whatever parts of the data have the right form."""
    yield from _check_text(_get(data, "calendar"), "timezone", f"{pointer}/calendar", load_zone)
    for stage in STAGES:
        rule, here = _get(_get(data, "stages"), stage), f"{pointer}/stages/{stage}"
        yield from _check_rule(rule, here)
        for index, override in enumerate(_items(_get(rule, "overrides"))):
            yield from _check_rule(override, f"{here}/overrides/{index}")


def _check_rule(rule: Any, pointer: str) -> Iterator[Fault]:
    yield from _check_text(rule, "deadline", pointer, parse_deadline)
    yield from _check_text(rule, "escalate_every", pointer, parse_duration)


def _check_text(data: Any, key: str, pointer: str, parse: Callable[[str], object]) -> Iterator[Fault]:
    text = _get(data, key)
    try:
        parse(text) if isinstance(text, str) else None
    except ValueError as fault:
        yield Fault(f"{pointer}/{key}", str(fault))


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _items(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []


class _Document:
    """A YAML text as plain data, built from the parser's events so that nothing is resolved, tagged or expanded.

    `faults` are those of the text itself. With `unreadable` there is no data; a value that has a fault is None.
    """

    def __init__(self, text: str) -> None:
        self.data: Any = None
        self.faults: list[ConfigFault] = []
        self.unreadable = True
        self._lines: dict[str, int] = {}
        self._spoilt: set[str] = set()
        self._level = 0
        if len(text) > MOST_CHARACTERS:
            self._fault(1, "", f"has {len(text)} characters, more than {MOST_CHARACTERS}: split it")
            return
        try:
            loader = yaml.SafeLoader(text)
            self._get_event: Callable[[], Any] = loader.get_event
            self._read()
        except yaml.MarkedYAMLError as error:
            tab, mark = "character '\\t'" in str(error.problem), error.problem_mark
            problem = "has a tab where only spaces may be: use spaces" if tab else f"cannot be read: {error.problem}"
            self._fault(mark.line + 1 if mark else 1, "", problem)
        except (ValueError, OverflowError):
            # PyYAML lets these out for an escape or a version of the language that is out of range.
            self._fault(loader.line + 1, "", "cannot be read: a number in an escape is out of range")
        except yaml.reader.ReaderError as error:
            line, shown = text.count("\n", 0, error.position) + 1, show(text[error.position])
            self._fault(line, "", f"has the character {shown}, which YAML does not allow: leave it out")

    def line(self, pointer: str) -> int:
        """The line of a value, or of the nearest one around where it should be."""
        while pointer not in self._lines and pointer:
            pointer = pointer.rpartition("/")[0]
        return self._lines.get(pointer, 1)

    def spoilt(self, fault: Fault) -> bool:
        """Whether a fault only follows from one of the text itself."""
        pointer = fault.pointer
        while pointer not in self._spoilt and pointer:
            pointer = pointer.rpartition("/")[0]
        return pointer in self._spoilt

    def _read(self) -> None:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._fault(1, "", "is empty: write at least one key")
            return
        event = self._next()
        self.data = self._node(event, "", event.start_mark.line + 1)
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            self.unreadable = False
        else:
            self._fault(event.start_mark.line + 1, "", "has a second document: put it in a file of its own")

    def _node(self, event: Any, pointer: str, line: int) -> Any:
        self._lines[pointer] = line
        if isinstance(event, yaml.AliasEvent):
            return self._spoil(line, pointer, f"{show(f'*{event.anchor}')} is an alias: repeat the value itself")
        if event.tag is not None:
            self._skip(event)
            return self._spoil(line, pointer, f"{show(event.tag)} is a tag: leave it out")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(pointer)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(item, f"{pointer}/{len(items)}", item.start_mark.line + 1))
            return items
        value = _scalar(event)
        if value is None:
            self._spoil(line, pointer, "has no value: give it one, or leave it out")
        return value

    def _mapping(self, pointer: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            name = _scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if isinstance(name, str) and name not in mapping:
                mapping[name] = self._node(self._next(), child(pointer, name), line)
                continue
            if isinstance(name, str):
                here = child(pointer, name)
                self._fault(line, here, f"{show(name)} is already in line {self._lines[here]}: keep one of them")
            else:
                self._skip(event)
                shown = show(name) if isinstance(event, yaml.ScalarEvent) else "this"
                self._fault(line, pointer, f"{shown} is not a name: use text, in quotes if need be")
            self._skip(self._next())
        return mapping

    def _skip(self, event: Any) -> None:
        outside = self._level - isinstance(event, yaml.CollectionStartEvent)
        while self._level > outside:
            self._next()

    def _next(self) -> Any:
        event = self._get_event()
        self._level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._level > MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem=f"over {MOST_LEVELS} levels deep", problem_mark=event.start_mark)
        return event

    def _spoil(self, line: int, pointer: str, detail: str) -> None:
        self._spoilt.add(pointer)
        self._fault(line, pointer, detail)

    def _fault(self, line: int, pointer: str, detail: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(ConfigFault(line, pointer, detail))


def _scalar(event: yaml.ScalarEvent) -> str | int | bool | None:
    if event.style is not None:
        return event.value
    if event.value in _CONSTANTS:
        return _CONSTANTS[event.value]
    return int(event.value) if _WHOLE_NUMBER.fullmatch(event.value) else event.value

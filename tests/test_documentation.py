"""The documentation says what the code has: each name that a reader may meet has its place, and examples work."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import click
import duckdb
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.cli import bems
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.analytics.time_series import DUCKDB_COLUMNS as DUCKDB_COLUMNS
from bems.embedded.api.app import ApiApplication
from bems.embedded.api.event_endpoint import PATHS
from bems.embedded.api.metrics import Metrics
from bems.embedded.api.operations import OPERATIONS, Operation
from bems.embedded.storage.reader import Counts, Total
from bems.tracker import responses
from bems.tracker.actions import Alert, AlertKind
from bems.tracker.alert_messages import json_body
from bems.tracker.commands import Verb
from bems.tracker.config import read_cells, read_policy
from bems.tracker.contract import EVENT_TYPES, FAILURE_STATUS, STAGES, SUCCESS_STATUS, Event, Facts, Source, Vendor
from bems.tracker.instants import parse
from bems.tracker.metrics import METRICS
from bems.tracker.parsing import parse_event
from bems.tracker.policy import CalendarSpec, OverrideSpec, PolicySpec, StageSpec, StagesSpec, WhenSpec
from bems.tracker.record import InvoiceRecord
from bems.tracker.requests import Role
from bems.tracker.time_series_schema import SERIES_COLUMNS
from docs.cells_reference import find_structs
from tests.faults.mutants import MUTANTS as FAULT_MUTANTS
from tests.faults.test_simulation import FOUND_BY
from tests.tracker.mutants import MUTANTS
from tests.tracker.test_rules import SCHEDULES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPERATIONS_PAGE, CONTRACT, TESTING = "docs/operations.md", "docs/contract.md", "docs/testing.md"
COMPLETENESS = "docs/completeness.md"

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OURS = ("bems/", "handlers/", "infra/", "statemachines/", "tests/", "bench/", "docs/")
MODULES = {path.name for folder in OURS for path in (ROOT / folder).rglob("*.py")} | {"app.py"}


def read(page: str | Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """What stands under a heading, its own subheadings included."""
    level, kept, is_code = 0, list[str](), False
    for line in read(page).splitlines(keepends=True):
        is_code ^= line.lstrip().startswith("```")
        marks, _, title = line.partition(" ")
        is_heading = not is_code and bool(re.fullmatch("#+", marks))
        if is_heading and level and len(marks) <= level:
            break
        if level:
            kept.append(line)
        elif is_heading and title.strip() == heading:
            level = len(marks)
    assert level, f"{page} has no section {heading!r}"
    return "".join(kept)


def named(text: str) -> set[str]:
    """The names in backticks; of `a{b,c}` and `a?b` that is `a`."""
    return {re.split(r"[{?]", code)[0] for code in CODE.findall(without_code(text))}


def first_cells(text: str) -> set[str]:
    """The names in backticks that the tables' rows begin with."""
    return {name for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for name in named(row)}


def lacking(names: Iterable[str], known: set[str]) -> list[str]:
    return [name for name in names if name not in known]


def blocks(text: str, language: str) -> list[str]:
    fenced: list[tuple[str, str]] = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [block for its, block in fenced if its == language]


# -- links and paths


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads to no file"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link} leads to no heading of {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in CODE.findall(without_code(text)):
        if path.startswith(OURS) and re.fullmatch(r"[\w./-]+", path):
            assert (ROOT / path).exists(), f"{page.name}: there is no {path}"
        elif re.fullmatch(r"\w+\.py", path):
            assert path in MODULES, f"{page.name}: there is no {path}"
    for module in re.findall(r"python -m ((?:bems|tests|bench)[\w.]*)", text):
        assert find_spec(module.rstrip(".")), f"{page.name}: there is no module {module}"


# -- what a cell is asked and watched by


def metric_names() -> Iterator[str]:
    """All that /metrics answers, of a cell that has something of each kind."""
    api: Any = ApiApplication.__new__(ApiApplication)
    api._context = SimpleNamespace(
        analytics=SimpleNamespace(watermark=0),
        deliveries=SimpleNamespace(waiting=lambda: 0, failed=lambda: 0),
        writer=SimpleNamespace(queued=0, failure=None),
    )
    totals = [Total("AwaitingPosting", "EUR", 2, Decimal(2), 1, Decimal(1), 1)]
    metrics = Metrics()
    metrics.count_request("GET", 200)
    written = metrics.write(lambda: list(api._read_gauges(Counts(1, 1, 1, 1, 0), totals))).decode()
    for family in text_string_to_metric_families(written):
        yield family.name + "_total" * (family.type == "counter")


def test_every_metric_is_described() -> None:
    names = list(metric_names())
    assert {"bems_stuck", "bems_stuck_amount", "bems_events_total", "bems_requests_total"} <= {*names}
    missing = lacking(names, first_cells(section(OPERATIONS_PAGE, "Metrics")))
    assert not missing, f"{OPERATIONS_PAGE}, 'Metrics', has no row for {missing}"


def test_every_metric_of_the_functions_is_described() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", section("docs/deployment.md", "11. Metrics"), re.MULTILINE))
    assert rows == {metric.name: ", ".join(metric.dimensions) for metric in METRICS.values()}


QUESTIONS = section(CONTRACT, "Queries and commands") + section(COMPLETENESS, "Requests")


def rows_of(method: str, path: str) -> list[str]:
    """The rows of the table of questions that name an operation."""
    pattern = re.escape(f"`{method} {path}").replace(r"\{target\}", r"\{\w+\}") + "[`?]"
    return [row for row in QUESTIONS.splitlines() if row.startswith("| ") and re.search(pattern, row)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_described(operation: Operation) -> None:
    rows = rows_of(operation.method, operation.path)
    pages = f"{CONTRACT}, 'Queries and commands', or {COMPLETENESS}, 'Requests',"
    assert rows, f"{pages} has no row for {operation.method} {operation.path}"
    parameters = [name for name in operation.query.__struct_encode_fields__ if name not in ("limit", "cursor")]
    missing = [name for name in parameters if not any(f"{name}=" in row for row in rows)]
    assert not missing, f"{CONTRACT}, 'Queries and commands': {operation.method} {operation.path} has also {missing}"


def test_every_other_path_is_described() -> None:
    for path in ("/healthz", "/openapi.json", "/metrics"):
        assert rows_of("GET", path), f"{CONTRACT}, 'Queries and commands', has no row for GET {path}"
    for path in {re.sub("|".join(STAGES), "{stage}", path) for path in PATHS}:
        assert f"`POST {path}`" in section(CONTRACT, "Events"), f"{CONTRACT}, 'Events', does not say POST {path}"


def test_every_verb_is_described() -> None:
    [row] = rows_of("POST", "/commands")
    missing = lacking([verb.__struct_config__.tag for verb in get_args(Verb)], named(row))
    assert not missing, f"{CONTRACT}, 'Queries and commands': POST /commands has also {missing}"


def test_every_status_of_an_answer_is_described() -> None:
    table = section(CONTRACT, "Requests and answers")
    stated = {code for row in re.findall(r"^\| (\d{3}[^|]*) \|", table, re.MULTILINE) for code in row.split()}
    codes = {code.strip(",`") for code in stated} - {""}
    missing = lacking(map(str, responses._TITLES), codes)
    assert not missing, f"{CONTRACT}, 'Requests and answers', has no row for {missing}"


def test_every_role_and_dashboard_is_described() -> None:
    missing = lacking(get_args(Role), first_cells(section(OPERATIONS_PAGE, "Keys")))
    assert not missing, f"{OPERATIONS_PAGE}, 'Keys', has no row for {missing}"
    missing = lacking(DASHBOARDS, first_cells(section(OPERATIONS_PAGE, "Dashboards")))
    assert not missing, f"{OPERATIONS_PAGE}, 'Dashboards', has no row for {missing}"


# -- what is sent, raised and recorded


def test_every_field_of_an_event_is_described() -> None:
    events = section(CONTRACT, "Events")
    fields = {name for body in EVENT_TYPES.values() for name in body.__struct_fields__}
    missing = lacking(sorted(fields), first_cells(events))
    assert not missing, f"{CONTRACT}, 'Events', has no row for {missing}"
    missing = lacking([*SUCCESS_STATUS.values(), *FAILURE_STATUS.values()], named(events))
    assert not missing, f"{CONTRACT}, 'Events', does not say the outcomes {missing}"


def test_the_example_of_an_event_is_valid() -> None:
    [example] = blocks(section(CONTRACT, "Events"), "json")
    assert isinstance(parse_event("authorization", example.encode(), parse("2026-11-24T00:00:00Z")), Event)


def test_every_field_of_an_alert_message_is_described() -> None:
    """The example is one, to the letter."""
    facts = Facts(Decimal("1250.00"), "EUR", Vendor("V-42", "Acme GmbH"), Source("sap-ecc"))
    since, due = parse("2026-11-23T10:15:02Z"), parse("2026-11-26T10:15:02Z")
    alert = Alert(
        "0b0e9e1f5a3c4d5e6f70", "INV/2026/000123", "stuck", "authorization", "warning", 1, since, due, due, facts,
        open_stages=STAGES[1:],
    )  # fmt: skip
    text = section(CONTRACT, "Alert messages")
    [example] = blocks(text, "json")
    message = json_body(alert, "eu-west")
    assert msgspec.json.decode(example) == message
    missing = lacking(message, first_cells(text))
    assert not missing, f"{CONTRACT}, 'Alert messages', has no row for {missing}"
    missing = lacking(get_args(AlertKind), named(text))
    assert not missing, f"{CONTRACT}, 'Alert messages', does not say the kinds {missing}"


def test_every_column_of_the_series_is_described() -> None:
    columns = {column.name for column in SERIES_COLUMNS}
    assert first_cells(section(CONTRACT, "The series")) == columns
    assert all(column.meaning for column in SERIES_COLUMNS)
    assert (columns - {*DUCKDB_COLUMNS}, {*DUCKDB_COLUMNS} - columns) == ({"attributes_cut"}, {"seq"}), CONTRACT


def test_the_example_of_a_query_gives_what_the_invoices_are_worth() -> None:
    """Received with 100, approved with 120."""
    [sql] = blocks(section(CONTRACT, "The series"), "sql")
    with duckdb.connect() as connection:
        columns = ", ".join(f"{name} {type.removesuffix(' NOT NULL')}" for name, type in DUCKDB_COLUMNS.items())
        connection.execute(f"CREATE TABLE transitions ({columns})")
        connection.execute("""INSERT INTO transitions BY NAME
            SELECT NULL AS from_status, NULL AS from_currency, NULL AS from_amount,
                'AwaitingAuthorization' AS to_status, 'EUR' AS to_currency, 100 AS to_amount
            UNION ALL SELECT 'AwaitingAuthorization', 'EUR', 100, 'AwaitingReconciliation', 'EUR', 120""")
        assert connection.execute(sql).fetchall() == [("AwaitingReconciliation", "EUR", 1, Decimal(120))]


# -- what is configured


def test_every_key_of_a_policy_is_described() -> None:
    text = section(OPERATIONS_PAGE, "The policy")
    specs = (PolicySpec, CalendarSpec, StagesSpec, StageSpec, OverrideSpec, WhenSpec)
    missing = [name for spec in specs for name in lacking(spec.__struct_fields__, named(text))]
    assert not missing, f"{OPERATIONS_PAGE}, 'The policy', does not say {missing}"


def test_the_example_of_cells_names_every_key() -> None:
    text = read("docs/reference/cells-example.yaml")
    for struct in find_structs():
        missing = [name for name in struct.__struct_encode_fields__ if not re.search(rf"\b{name}\b", text)]
        assert not missing, f"docs/reference/cells-example.yaml does not show {missing} of {struct.__name__}"


def test_the_reference_of_cells_has_a_row_for_every_key() -> None:
    for struct, paths in find_structs().items():
        rows = section("docs/reference/cells.md", paths[0] or "cells.yaml")
        missing = lacking(struct.__struct_encode_fields__, first_cells(rows))
        assert not missing, f"docs/reference/cells.md, {paths[0]!r}, has no row for {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_configuration_are_valid(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        if block.startswith("cells:"):
            assert read_cells(block, page.name).cells
        elif "stages:" in block:
            assert read_policy(block, page.name)


# -- what is typed


def commands_of(text: str) -> Iterator[str]:
    """What `bems` is called with, in blocks of code and in backticks."""
    for block in blocks(text, ""):
        yield from re.findall(r"^(?: *\. .*&& )?bems +(.*?)(?: +#.*)?$", block, re.MULTILINE)
    for code in CODE.findall(without_code(text)):
        if code.startswith("bems "):
            yield code.removeprefix("bems ")


def wrong_in(command: str) -> str:
    """What is no command or option; empty where all is."""
    known: click.Command = bems
    for word in command.split():
        if word.startswith("--"):
            options = {option for parameter in known.params for option in parameter.opts}
            if isinstance(known, click.Group) and "show" in known.commands:
                options |= {option for parameter in known.commands["show"].params for option in parameter.opts}
            if word.partition("=")[0] not in {*options, "--help", "--version"}:
                return word
        elif isinstance(known, click.Group) and re.fullmatch(r"[a-z]+", word):
            if word not in known.commands:
                return word
            known = known.commands[word]
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_there(page: Path) -> None:
    for command in commands_of(page.read_text(encoding="utf-8")):
        assert not wrong_in(command), f"{page.name}: bems {command}: there is no {wrong_in(command)}"


def test_every_command_is_shown() -> None:
    """`bems demo` is `make demo`."""
    shown = " ".join(command for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))).split()
    missing = lacking([name for name in bems.commands if name != "demo"], {*shown})
    assert not missing, f"README.md and docs do not show bems {missing}"


# -- what is said of the code and the tests


def test_the_parts_of_a_record_are_those_that_it_has() -> None:
    table = section("docs/architecture.md", "The record is the truth").partition("| part of the record |")[2]
    unknown = lacking(sorted(first_cells(table)), {*InvoiceRecord.__struct_fields__})
    assert table and not unknown, f"docs/architecture.md: a record has no {unknown}"


def test_the_numbers_of_schedules_and_mutants() -> None:
    text = read(TESTING)
    assert f"`tests/tracker/mutants.py` has {len(MUTANTS)} mutants" in text, f"{TESTING}: there are {len(MUTANTS)}"
    assert f"runs {SCHEDULES:,} of them" in text, f"{TESTING}: there are {SCHEDULES:,}"
    assert FOUND_BY.keys() == FAULT_MUTANTS.keys()

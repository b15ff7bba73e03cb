"""OpenAPI document: it is valid, describes the API, and schemathesis finds no deviation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from bems.embedded.api.event_endpoint import PATHS
from bems.embedded.api.openapi import build_document
from bems.tracker.contract import MAX_DIGITS, STAGES, Event, Stage
from bems.tracker.currencies import MINOR_UNITS
from bems.tracker.parsing import parse_event
from bems.tracker.schemas import event_name
from tests.embedded.api.calls import PROBLEM, SECRETS, UNLIMITED, Cell, event_body
from tests.tracker.event_bodies import event_bodies, sometimes_wrong
from tests.tracker.samples import NOW

LONG = bool(os.environ.get("BEMS_LONG"))


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in build_document()["paths"].items()
        for method, operation in methods.items()
    }


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **build_document()})


def test_the_document_is_valid_openapi_3_1() -> None:
    assert list(OPENAPI_31_VALIDATOR.iter_errors(build_document())) == []
    for schema in build_document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_document_is_served(cell: Cell) -> None:
    assert cell.get("/openapi.json") == msgspec.json.decode(msgspec.json.encode(build_document()))


def test_operation_ids_are_unique_and_references_resolve() -> None:
    named = [operation["operationId"] for operation in operations().values()]
    assert len(named) == len(set(named))
    known = build_document()["components"]["schemas"]
    referred = set(re.findall(r"#/components/schemas/([^\"']+)", str(build_document())))
    assert referred <= known.keys()
    linked = set(re.findall(r"'operationId': '(\w+)', 'parameters': {", str(build_document())))
    assert {"getInvoice", "revokeKey"} <= linked <= set(named)


def test_problems_have_their_media_type_and_retry_after() -> None:
    for name, operation in operations().items():
        for code, answer in operation["responses"].items():
            if int(code) >= 400 and name != "GET /healthz":
                assert list(answer["content"]) == [PROBLEM]
            assert ("Retry-After" in answer.get("headers", {})) == (code in ("429", "503"))


@pytest.mark.parametrize("path", PATHS)
def test_invoices_with_the_id_of_a_stage_are_described(cell: Cell, path: str) -> None:
    """Found by schemathesis: the Allow header of a 405 named GET, which the document did not have for the path."""
    described = operations()[f"GET {path}"]
    assert "parameters" not in described
    id = path.removeprefix("/invoices/")
    assert cell.send("ingestion", invoice_id=id).status == 202
    assert cell.get(path)["invoice_id"] == id


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({}, False),
        ({"all": True}, True),
        ({"event_ids": None}, False),
        ({"event_ids": ["1"], "error": None}, True),
        ({"all": None}, False),
        ({"error": "x"}, True),
        ({"invoice_id": "x"}, True),
    ],
)
def test_the_schema_requires_a_filter_to_redrive(cell: Cell, body: dict[str, Any], right: bool) -> None:
    """Found by schemathesis: `{}` matched the schema, but was refused."""
    assert validator("RedriveRequest").is_valid(body) is right
    assert cell.ask("POST", "/dead-letters/redrive", body).status == (200 if right else 400)


AMOUNTS = ["0", "-0", "1", "1.0", "1.00", "1.000", "1.0000", "1.00000", ".5", "1.", "+1", "1e5", "--1", "", "01.50"]
AMOUNTS += [sign + "9" * (digits - decimals) + "." * bool(decimals) + "9" * decimals for sign in ("", "-")
            for digits in (MAX_DIGITS, MAX_DIGITS + 1) for decimals in range(5)]  # fmt: skip


@pytest.mark.parametrize("currency", ["EUR", "JPY", "BHD", "CLF", "ANG", "XXX", "XAU", "eur", "EURO", ""])
def test_the_schema_limits_currencies_and_their_decimals(cell: Cell, currency: str) -> None:
    """Found by schemathesis: any three capitals and any decimals matched the schema, but were refused."""
    known = validator("PostingEvent")
    events = [
        event_body("posting", event_id=f"{currency}{amount}", amount=amount, currency=currency) for amount in AMOUNTS
    ]
    results = cell.send_all("posting", [event | {"event_id": f"{n}-{currency}"} for n, event in enumerate(events)])
    assert [result["code"] == 202 for result in results] == [known.is_valid(event) for event in events]
    assert any(result["code"] == 202 for result in results) == (currency in MINOR_UNITS)


@pytest.mark.parametrize("currency", ["EUR", "JPY", "BHD", "CLF"])
@pytest.mark.parametrize("field", ["amount", "discount_taken"])
def test_the_schema_limits_the_decimals_of_a_payment(currency: str, field: str) -> None:
    known = validator("PostingEvent")
    valid = []
    for amount in AMOUNTS:
        payment = {"paid_on": "2026-11-22", "amount": "1"} | {field: amount}
        event = event_body("posting", amount="1", currency=currency, payment=payment)
        valid.append(is_accepted("posting", event))
        assert known.is_valid(event) == valid[-1], amount
    assert {True, False} == {*valid}


@pytest.mark.parametrize(("status", "payment", "right"), [
    ("posted", {"paid_on": "2026-11-22", "amount": "1"}, True),
    ("posted", None, True),
    ("failed", None, True),
    ("failed", {"paid_on": "2026-11-22", "amount": "1"}, False),
])  # fmt: skip
def test_the_schema_allows_a_payment_only_with_a_posting(status: str, payment: Any, right: bool) -> None:
    event = event_body("posting", status=status, payment=payment)
    assert is_accepted("posting", event) is right
    assert validator("PostingEvent").is_valid(event) is right


@pytest.fixture(scope="module")
def validators() -> dict[Stage, Draft202012Validator]:
    checker = Draft202012Validator.FORMAT_CHECKER
    return {
        stage: Draft202012Validator(validator(event_name(stage)).schema, format_checker=checker) for stage in STAGES
    }


def is_accepted(stage: Stage, event: dict[str, Any]) -> bool:
    return isinstance(parse_event(stage, json.dumps(event).encode(), NOW), Event)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(event_bodies(sometimes_wrong))
def test_the_schema_accepts_exactly_the_events_that_the_parser_accepts(
    validators: dict[Stage, Draft202012Validator], drawn: tuple[Stage, dict[str, Any]]
) -> None:
    stage, event = drawn
    assert validators[stage].is_valid(event) == is_accepted(stage, event)


@pytest.mark.parametrize(
    "due", ["1969-12-31", "1970-01-01", "1999-02-28", "2000-12-31", "2999-12-31", "3000-01-01", "9999-12-31",
            "0001-01-01", "2026-13-01", "2026-1-1", "", "2026-01-01\n"],
)  # fmt: skip
def test_the_schema_limits_due_dates(cell: Cell, due: str) -> None:
    """Found by schemathesis: any date matched the schema, but some were refused."""
    event = event_body("posting", event_id=f"due-{len(due)}-{due[:9]}".strip(), payment_terms={"due_date": due})
    (result,) = cell.send_all("posting", [event])
    assert (result["code"] == 202) == validator("PostingEvent").is_valid(event)


# -- schemathesis

CONFIG = """
[[operations]]
include-path-regex = "/batch$"
checks.negative_data_rejection.expected-statuses = ["207", "400", "403", "413", "415"]
"""
"""The only exception: a batch with an invalid event gets 207, and the result of that event has the refusal."""

OTHER_STAGES = "^/invoices/(authorization|reconciliation|posting)(/batch)?$"
"""Paths with the same code as ingestion, which only the long run (BEMS_LONG) includes."""


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "cell", limits=UNLIMITED)
    try:
        for path in PATHS:
            cell.send("ingestion", invoice_id=path.removeprefix("/invoices/"))
        output = run_schemathesis(cell, tmp_path)
        counted = cell.ask("GET", "/metrics").body.decode()
    finally:
        cell.service.stop()
    samples = re.findall(r'bems_requests_total\{code="(\d+)",method="(\w+)"\}', counted)
    found = {(method, int(code)) for code, method in samples}
    right = {("POST", 200), ("POST", 201), ("POST", 202), ("POST", 207), ("GET", 200)}
    assert right <= found, output
    assert not {code for _, code in found} & {500, 503}


def run_schemathesis(cell: Cell, folder: Path) -> str:
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"), "run"]
    command += [f"http://127.0.0.1:{cell.port}/openapi.json", "--header", f"x-api-key:{cell.keys['admin']}"]
    command += ["--checks", "all", "--generation-database", "none", "--warnings", "off", "--no-color"]
    command += ["--max-examples", "100" if LONG else "3", "--continue-on-failure"]
    command += [] if LONG else ["--seed", "3", "--exclude-path-regex", OTHER_STAGES]
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.embedded.api.schemathesis_hooks", "PYTHONPATH": root}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-8000:]
    assert not SECRETS & set(re.findall(r"[\w-]{43}", output))
    return output

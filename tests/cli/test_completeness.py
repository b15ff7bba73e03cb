"""`bems completeness`: the list of control totals, and a source's list of events compared with a cell."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bems.cli.client import Client
from bems.cli.commands import completeness
from bems.embedded.cell import Cell
from tests.cli.cli_harness import CliHarness, Result, event, lines, running

INTERVAL = ("--source", "sap", "--stage", "ingestion", "--from", "2026-03-02", "--to", "2026-03-03")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A cell with the events a, b (JPY) and c of the source sap, and d of another one."""
    with running(tmp_path_factory.mktemp("cell")) as harness:
        harness.send(event("a", amount="10.00"), event("b", amount="700", currency="JPY"), event("c", amount="30.00"))
        harness.send(event("d", source={"system": "coupa"}))
        yield harness


def compare(cell: CliHarness, listed: str | bytes, *arguments: str) -> Result:
    content = listed if isinstance(listed, bytes) else listed.encode()
    return cell.bems("completeness", "-", *arguments, stdin=content, role="viewer")


def differences(cell: CliHarness, listed: str | bytes, *arguments: str) -> Any:
    found = compare(cell, listed, "--json", *arguments)
    assert found.code == bool(found.json["differences"])
    return [tuple(one.values()) for one in found.json["differences"]]


def test_a_list_without_differences(cell: CliHarness) -> None:
    found = compare(cell, "a\n\nb\r\na\n")
    assert (found.code, found.out, found.err) == (0, "2 listed events: no differences\n", "")


def test_each_difference_is_named_with_its_event(cell: CliHarness) -> None:
    listed = "event_id,amount,currency\na,10.00,EUR\nb,700,EUR\nx,1.00,EUR\nc,30.01,EUR\n"
    assert differences(cell, listed) == [
        ("b", "different", "700 EUR", "700 JPY"),
        ("x", "missing", None, None),
        ("c", "different", "30.01 EUR", "30.00 EUR"),
    ]
    shown = compare(cell, listed)
    assert shown.code == 1
    assert shown.out.endswith("4 listed events: 2 different, 1 missing here\n")
    assert [line.split() for line in shown.out.splitlines() if line.startswith("c ")] == [
        ["c", "different", "30.01", "EUR", "30.00", "EUR"]
    ]


def test_events_that_the_source_does_not_list_are_named_within_an_interval(cell: CliHarness) -> None:
    assert differences(cell, "a\nc\n", *INTERVAL) == [("b", "unknown", None, "700 JPY")]
    with patch.object(completeness, "EVENTS_PER_PAGE", 1):
        assert differences(cell, "c\n", *INTERVAL) == [
            ("a", "unknown", None, "10.00 EUR"),
            ("b", "unknown", None, "700 JPY"),
        ]


def test_an_event_of_another_source_or_stage_is_different(cell: CliHarness) -> None:
    assert differences(cell, "a\nd\n", "--source", "sap") == [("d", "different", "sap", "coupa")]
    assert differences(cell, "a\n", "--stage", "posting") == [("a", "different", "posting", "ingestion")]


def test_amounts_are_compared_by_value(cell: CliHarness) -> None:
    assert differences(cell, "event_id;amount\na;10\nb;700\nc;30.0\n") == []


def test_long_lists_are_looked_up_in_parts(cell: CliHarness) -> None:
    ids = [f"none-{number}" for number in range(1_500)]
    found = differences(cell, "\n".join(["a", *ids, "c"]))
    assert [one[0] for one in found] == ids


def test_a_dead_letter_is_accepted_but_not_applied(tmp_path: Path) -> None:
    with running(tmp_path) as harness:
        with patch.object(Cell, "redrive", side_effect=ValueError("poison")):
            harness.send(event("a"))
        assert differences(harness, "a\n") == [("a", "not applied", None, None)]


@pytest.mark.parametrize(
    "listed",
    [
        "a\nb\nx",
        "\ufeffa\nb\nx\n",
        "amount,event_id,more\n10.00,a,1\n,b,2\n1,x,3\n",
        'event_id\tamount\n"a"\t10.00\nb\t\nx\t\n',
        '{"event_id": "a", "amount": "10.00", "currency": "EUR"}\n{"event_id": "b"}\n{"event_id": "x", "more": 1}',
        gzip.compress(b"a\nb\nx\n"),
        lines(event("a", amount="10.00"), event("b", amount="700", currency="JPY"), event("x")),
    ],
    ids=["ids", "byte order mark", "csv", "tabs", "json lines", "gzip", "event log"],
)
def test_every_format_is_read(cell: CliHarness, listed: str | bytes) -> None:
    assert differences(cell, listed) == [("x", "missing", None, None)]


def test_lines_of_an_event_log_with_another_stage_or_source_are_left_out(cell: CliHarness) -> None:
    log = lines(event("a", amount="10.00"), event("y", source={"system": "coupa"}), event("x"))
    log += lines(event("z"), stage="posting")
    assert differences(cell, log, "--source", "sap", "--stage", "ingestion") == [("x", "missing", None, None)]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("", "there is no event in it"),
        ("a,10.00,EUR\n", "line 1: this looks like CSV, and its first line has no column event_id"),
        ("event_id,amount\na\n", "line 2: has 1 columns, and the first line has 2"),
        ("event_id,amount\na,10;00\n", "line 2: Expected `str` matching regex"),
        ("event_id,amount\na,1\na,2\n", "line 3: a is listed before with another amount"),
        ('{"event_id": "a"}\n[1]\n', "line 2: Expected `object`"),
        ('{"event_id": 1}\n', "line 1: Expected `str | null`"),
        ('{"amount": "1"}\n', "line 1: Expected `str`"),
        ("two words\n", "line 1: Expected `str` matching regex"),
        (b"a\n\xff\n", "line 2 is not UTF-8 text"),
        (b"PK\x03\x04[Content_Types].xml", "this is an Excel file (xlsx, a zip archive)"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(cell: CliHarness, listed: str | bytes, expected: str) -> None:
    assert expected in compare(cell, listed).error(2)


def test_faulty_lines_are_reported_together_up_to_a_limit(cell: CliHarness) -> None:
    refused = compare(cell, "a\n" + "two words\n" * 50)
    assert refused.code == 2 and refused.err.count("\n") == 20


def test_options_that_do_not_fit_are_refused(cell: CliHarness) -> None:
    assert "belong together" in compare(cell, "a", "--from", "2026-03-02").error(2)
    assert "need --source and --stage" in compare(cell, "a", *INTERVAL[4:]).error(2)
    swapped = ("--from", "2026-03-03", "--to", "2026-03-02", *INTERVAL[:4])
    assert "is not before --to" in compare(cell, "a", *swapped).error(2)
    assert "give a FILE too" in cell.bems("completeness", *INTERVAL).error(2)
    assert "No such file" in cell.bems("completeness", "/nowhere").error(2)
    assert "requires a viewer" in cell.bems("completeness", role="sender").error(2)


def test_control_totals_are_listed_with_their_state(tmp_path: Path) -> None:
    with running(tmp_path) as harness:
        assert harness.bems("completeness").out == "no control totals\n"
        harness.send(event("a", amount="10.00"))
        body = {"source": "sap", "stage": "ingestion", "from": "2026-03-02T00:00:00Z", "to": "2026-03-02T10:00:00Z"}
        state(harness, {**body, "events": 1, "amounts": {"EUR": "10.00"}})
        state(harness, {**body, "stage": "posting", "events": 1200, "amounts": {"EUR": "30000.00"}})
        shown = harness.bems("completeness", "--wide", role="viewer")
        assert shown.code == 0 and shown.out.endswith("2 control totals\n")
        assert "1,200 events sent, 0 here; 30,000.00 EUR sent, 0.00 EUR here" in " ".join(shown.out.split())
        listed = harness.bems("completeness", "--json", "--stage", "ingestion").json
        assert [(one["stage"], one["status"]) for one in listed["items"]] == [("ingestion", "complete")]
        assert harness.bems("completeness", "--source", "other").out == "no control totals\n"


def state(harness: CliHarness, body: dict[str, Any]) -> None:
    with closing(Client(harness.url, harness.key("sender"))) as client:
        assert client.request("POST", "/control-totals", json.dumps(body).encode()).status == 200

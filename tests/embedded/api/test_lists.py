"""Lists: filters, order, pages, cursors and query parameters."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from bems.embedded.api.pages import RowNumber, read_cursor, write_cursor
from bems.embedded.api.queries import AlertsQuery, CommandsQuery, DeadLettersQuery, InvoicesQuery, read_query
from bems.tracker.instants import DAY, HOUR
from bems.tracker.parsing import InvalidEvent
from tests.embedded.api.calls import Cell, event_body
from tests.tracker.samples import NOW
from tests.waiting import until

LISTS = ("/invoices", "/invoices?stuck=true", "/alerts", "/commands", "/dead-letters")


@pytest.fixture(scope="module")
def filled(cell: Cell) -> Cell:
    """Cell with invoices in every status, some stuck or parked, and with alerts and commands."""
    for number in range(6):
        cell.send_all("ingestion", [event_body("ingestion", invoice_id=f"I{number}")])
        cell.move_to(NOW + (number + 1) * HOUR)
    stages: list[tuple[Any, str, list[int]]] = [
        ("authorization", "approved", [2, 3, 4]), ("authorization", "rejected", [5]),
        ("reconciliation", "matched", [3, 4]), ("posting", "posted", [4]), ("posting", "failed", [3]),
    ]  # fmt: skip
    for stage, status, numbers in stages:
        events = [
            event_body(stage, invoice_id=f"I{number}", status=status, event_id=f"{number}{status}")
            for number in numbers
        ]
        assert {result["code"] for result in cell.send_all(stage, events)} == {202}
    cell.send("posting", invoice_id="Orphaned")
    for id in ("P1", "P2"):
        cell.send("ingestion", invoice_id=id)
        command = {"verb": "park", "command_id": f"park {id}".replace(" ", "-"), "invoice_id": id, "note": "x"}
        assert cell.ask("POST", "/commands", command, "operator").status == 200
    cell.move_to(NOW + 3 * DAY + 3 * HOUR)
    until(lambda: len(cell.get("/alerts?limit=500")["items"]) >= 3)
    return cell


def ids(cell: Cell, path: str, **query: object) -> list[str]:
    return [item.get("invoice_id") or item["id"] for item in pages(cell, path, **query)]


def pages(cell: Cell, path: str, **query: object) -> Iterator[dict[str, Any]]:
    """Yield the items of all pages."""
    cursor = None
    while True:
        page = cell.get(f"{path}?{urlencode({**query, **({'cursor': cursor} if cursor else {})})}")
        assert len(page["items"]) <= int(str(query.get("limit", 100)))
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


ALL = ["I0", "I1", "I2", "I3", "I4", "I5", "Orphaned", "P1", "P2"]


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 500])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"status": "Posted"}, ["I4"]),
        ({"status": "Rejected"}, ["I5"]),
        ({"status": "AwaitingAuthorization"}, ["I0", "I1", "P1", "P2"]),
        ({"status": "Cancelled"}, []),
        ({"stage": "authorization"}, ["I0", "I1", "P1", "P2"]),
        ({"stage": "posting"}, ["I3"]),
        ({"stage": "ingestion"}, ["Orphaned"]),
        ({"stage": "posting", "status": "Posted"}, []),
        ({"stage": "posting", "status": "PostingFailed"}, ["I3"]),
        ({"mark": "parked"}, ["P1", "P2"]),
        ({"mark": "dormant"}, []),
        ({"mark": "parked", "stage": "authorization"}, ["P1", "P2"]),
        ({"mark": "parked", "stage": "posting"}, []),
        ({"stuck": "true"}, ["I0", "I1", "P1", "P2"]),
        ({"stuck": "true", "sort": "age"}, ["I0", "I1", "P1", "P2"]),
        ({"stuck": "true", "sort": "value"}, ["I0", "I1", "P1", "P2"]),
        ({"stuck": "true", "stage": "authorization"}, ["I0", "I1", "P1", "P2"]),
        ({"stuck": "true", "status": "Disputed"}, []),
        ({"stuck": "true", "mark": "parked"}, ["P1", "P2"]),
        ({"stuck": "true", "mark": "parked", "sort": "value"}, ["P1", "P2"]),
    ],
)
def test_invoices_are_filtered(filled: Cell, query: dict[str, str], expected: list[str], limit: int) -> None:
    found = ids(filled, "/invoices", limit=limit, **query)
    assert found == expected


def test_stuck_invoices_are_listed_longest_waiting_first(filled: Cell) -> None:
    stuck = list(pages(filled, "/invoices", stuck="true", limit=1))
    waits = [invoice.get("waiting") or invoice["parked"] for invoice in stuck]
    since = [wait["since"] for wait in waits]
    assert since == sorted(since) == [f"2026-03-02T{hour:02}:00:00Z" for hour in (9, 10, 15, 15)]
    assert [
        (invoice["stuck"], wait["step"], wait.get("severity")) for invoice, wait in zip(stuck, waits, strict=True)
    ] == [
        (True, 1, "warning"),
        (True, 1, "warning"),
        (True, 0, None),
        (True, 0, None),
    ]


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_alerts_are_listed_newest_first(filled: Cell, limit: int) -> None:
    with filled.reader() as reader:
        stored = [alert.id for _, alert in reader.alerts()]
    alerts = list(pages(filled, "/alerts", limit=limit))
    assert [alert["id"] for alert in alerts] == stored[::-1]
    one = alerts[0]["invoice_id"]
    assert ids(filled, "/alerts", invoice_id=one, limit=limit) == [
        a["invoice_id"] for a in alerts if a["invoice_id"] == one
    ]
    failed = [alert["id"] for alert in alerts if alert["stage"] == "posting"]
    assert [alert["id"] for alert in pages(filled, "/alerts", stage="posting", limit=limit)] == failed != []
    assert ids(filled, "/alerts", severity="critical", limit=limit) == []


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_commands_are_listed_newest_first(filled: Cell, limit: int) -> None:
    commands = list(pages(filled, "/commands", limit=limit))
    assert [command["command_id"] for command in commands] == ["park-P2", "park-P1"]
    assert ids(filled, "/commands", invoice_id="P1", limit=limit) == ["P1"]


def test_each_invoice_is_listed_once_while_others_are_added(own_cell: Cell) -> None:
    before = {f"M{number:03}" for number in range(0, 90, 3)}
    own_cell.send_all("ingestion", [event_body("ingestion", invoice_id=id) for id in before])
    seen: list[str] = []
    for page, item in enumerate(pages(own_cell, "/invoices", limit=4)):
        seen.append(item["invoice_id"])
        new = [event_body("ingestion", invoice_id=f"M{number:03}") for number in (page, 89 - page)]
        own_cell.send_all("ingestion", new)
        own_cell.send_all("authorization", [event_body("authorization", invoice_id=item["invoice_id"])])
    assert seen == sorted(set(seen)), "sorted, without repeats"
    assert before <= set(seen)


# -- cursors


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_of_another_list_or_a_malformed_one_is_refused(filled: Cell, path: str) -> None:
    foreign = {
        filled.get(f"{other}{'&' if '?' in other else '?'}limit=1")["next_cursor"]
        for other in LISTS[:4]
        if other != path
    }
    wrong = [
        "",
        "0",
        "x" * 1024,
        "x" * 1025,
        "\u00e9",
        "W10",
        "bnVsbA",
        write_cursor("ids", 1),
        write_cursor("alerts", -1),
    ]
    wrong += [write_cursor("alerts", 1 << 64), write_cursor("alerts", "1"), write_cursor("stuck", "a"), "eyJhIjoxfQ=="]
    wrong += [write_cursor(of) for of in ("ids", "stuck", "alerts", "commands", "letters")]
    for cursor in [*filter(None, foreign), *wrong]:
        reply = filled.ask("GET", f"{path}{'&' if '?' in path else '?'}{urlencode({'cursor': cursor})}")
        assert (reply.status, reply.pointers) == (400, {"/cursor"}), cursor


def test_a_cursor_can_be_read_back() -> None:
    assert read_cursor(None, "ids", str) is None
    for text in ("a", "I/1", "~" * 128):
        assert read_cursor(write_cursor("ids", text), "ids", str) == (text,)
    assert read_cursor(write_cursor("stuck", 5, "a"), "stuck", RowNumber, str) == (5, "a")
    cursor = write_cursor("alerts", 7)
    for other in (cursor + "=", cursor[:-1], cursor + "\n", " " + cursor, cursor.lower()):
        assert isinstance(read_cursor(other, "alerts", RowNumber), InvalidEvent)


# -- query parameters


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("x=1", {"/x"}),
        ("limit=0", {"/limit"}),
        ("limit=501", {"/limit"}),
        ("limit=ten", {"/limit"}),
        ("limit=1.0", {"/limit"}),
        ("limit=007", {"/limit"}),
        ("limit=%EF%BC%91", {"/limit"}),
        ("limit=99999999999999999999", {"/limit"}),
        ("limit=", {"/limit"}),
        ("limit=1&limit=2", {"/limit"}),
        ("stuck=yes", {"/stuck"}),
        ("stuck=false", {"/stuck"}),
        ("stuck=1", {"/stuck"}),
        ("status=posted&stage=paid&mark=lost", {"/status", "/stage", "/mark"}),
        ("limit=0&stuck=&a%2Fb=1&a%2Fb=2&status=1", {"/limit", "/stuck", "/a~1b", "/status"}),
        ("%FF=%FF", {"/\ufffd"}),
        ("&&&==", {"/"}),
        ("x" * 5000, {""}),
    ],
)
def test_an_invalid_query_is_refused_with_every_fault(cell: Cell, query: str, pointers: set[str]) -> None:
    reply = cell.ask("GET", f"/invoices?{query}")
    assert (reply.status, reply.pointers) == (400, pointers)


@pytest.mark.parametrize("path", ["/check", "/keys", "/metrics", "/invoices/I0", "/invoices/ingestion"])
def test_operations_without_parameters_refuse_any_parameter(cell: Cell, path: str) -> None:
    reply = cell.ask("GET", f"{path}?limit=1")
    assert (reply.status, reply.pointers) == (400, {"/limit"})


@pytest.mark.parametrize("text", ["12345", "true", "false", "0", "-1", "00012", "1e5", "null", "a b+c%&=#?/", "\u00e4"])
@pytest.mark.parametrize("expected", [AlertsQuery, CommandsQuery, DeadLettersQuery])
def test_text_parameters_are_never_converted(expected: Any, text: str) -> None:
    assert read_query(urlencode({"invoice_id": text}).encode(), expected) == expected(invoice_id=text)


def test_number_and_boolean_parameters_are_converted() -> None:
    assert read_query(b"stuck=true&limit=7", InvoicesQuery) == InvoicesQuery(stuck=True, limit=7)
    assert read_query(b"set_aside=false&error=404&limit=500", DeadLettersQuery) == DeadLettersQuery(
        set_aside=False, error="404", limit=500
    )
    assert read_query(b"", InvoicesQuery) == InvoicesQuery()


def test_an_invoice_of_digits_has_alerts(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="12345")
    own_cell.move_to(NOW + 3 * DAY)
    until(lambda: bool(own_cell.get("/alerts?invoice_id=12345")["items"]))

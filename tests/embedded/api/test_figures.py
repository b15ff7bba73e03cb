"""Events as they were sent, the origin of each outcome, and totals that are equal in all outputs."""

from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.embedded.cell import Cell as CoreCell
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, HOUR, Instant
from tests.embedded.api.calls import Cell, event_body
from tests.embedded.api.test_lists import ids, pages
from tests.tracker.samples import NOW
from tests.waiting import until


def command(cell: Cell, verb: str, invoice_id: str, **more: object) -> Any:
    body = {"verb": verb, "invoice_id": invoice_id, "command_id": f"{verb}-{invoice_id}", "note": "why", **more}
    return cell.ask("POST", "/commands", body, "operator")


def test_each_outcome_has_its_source_or_operator(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="A/1", source={"system": "erp"}, attributes={"po": "1"})
    own_cell.send(
        "authorization",
        invoice_id="A/1",
        source={"system": "workflow", "region": "eu"},
        attributes={"approver": "Kim", "reason": "within budget"},
    )
    assert command(own_cell, "complete", "A/1", stage="reconciliation", note="by phone").status == 200
    shown = own_cell.get("/invoices/A/1")
    outcomes = shown["outcomes"]
    assert (outcomes["ingestion"]["source"], outcomes["ingestion"]["attributes"]) == ({"system": "erp"}, {"po": "1"})
    assert outcomes["authorization"]["source"] == {"system": "workflow", "region": "eu"}
    assert outcomes["authorization"]["attributes"] == {"approver": "Kim", "reason": "within budget"}
    assert (outcomes["reconciliation"]["operator"], outcomes["reconciliation"]["note"]) == ("operator", "by phone")
    rows = [(row["kind"], row.get("source"), row.get("attributes")) for row in shown["transitions"]]
    assert rows == [
        ("command", None, None),
        ("event", "workflow", {"approver": "Kim", "reason": "within budget"}),
        ("event", "erp", {"po": "1"}),
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_events_are_returned_as_they_were_sent(own_cell: Cell, limit: int) -> None:
    bodies = [
        event_body("ingestion", invoice_id="A/1", event_id="e1", attributes={"po": "1"}, payment_terms={"days": 30}),
        event_body("authorization", invoice_id="A/1", event_id="e2", imported=True),
        event_body("authorization", invoice_id="A/1", event_id="e3", status="rejected", at=NOW - DAY),
        event_body("posting", invoice_id="A/1", event_id="e4", amount="-3.50"),
    ]
    for stage, body in zip(("ingestion", "authorization", "authorization", "posting"), bodies, strict=True):
        assert own_cell.ask("POST", f"/invoices/{stage}", body, "sender").status == 202
    for path in ("/invoices/A/1/events", "/invoices/A%2F1/events"):
        events = list(pages(own_cell, path, limit=limit))
        assert [one["event"] for one in events] == bodies[::-1]
        assert [(one["stage"], one["applied"], one["superseded"]) for one in events] == [
            ("posting", True, False),
            ("authorization", True, True),
            ("authorization", True, False),
            ("ingestion", True, False),
        ]


def test_the_events_of_an_invoice_include_dead_letters(own_cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    redrive = CoreCell.redrive

    def fail(cell: CoreCell, event: Event, now: Instant) -> Any:
        if event.event_id.startswith("poison"):
            raise ValueError("poison")
        return redrive(cell, event, now)

    monkeypatch.setattr(CoreCell, "redrive", fail)
    own_cell.send("ingestion", invoice_id="B")
    own_cell.send("authorization", invoice_id="B", event_id="poison")
    own_cell.send("authorization", invoice_id="only", event_id="poison")
    events = own_cell.get("/invoices/B/events")["items"]
    assert [(one["event"]["event_id"], one["applied"]) for one in events] == [("poison", False), ("B-ingestion", True)]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_dead_letters_of_an_invoice_are_paginated(
    own_cell: Cell, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    def fail(_: CoreCell, event: Event, __: Instant) -> Any:
        raise ValueError(event.event_id)

    monkeypatch.setattr(CoreCell, "redrive", fail)
    for number in range(5):
        own_cell.send("authorization", invoice_id="L", event_id=f"poison{number}")
    events = list(pages(own_cell, "/invoices/L/events", limit=limit))
    assert [one["event"]["event_id"] for one in events] == [f"poison{number}" for number in range(5)]


def test_an_id_may_end_in_events(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="C/events")
    assert own_cell.get("/invoices/C/events")["invoice_id"] == "C/events"
    assert own_cell.get("/invoices/C/events/events")["items"][0]["event"]["invoice_id"] == "C/events"
    own_cell.send("ingestion", invoice_id="C")
    assert own_cell.get("/invoices/C/events")["items"][0]["event"]["invoice_id"] == "C"
    assert own_cell.ask("GET", "/invoices/nobody/events").status == 404


AMOUNTS = ("100.00", "999999999999999.99", "999999999999999.99", "-0.01")


@pytest.fixture
def priced(own_cell: Cell) -> Cell:
    """Invoices in two currencies, some stuck, one parked and revived, whose total amounts exceed SQLite's integers."""
    for number, amount in enumerate(AMOUNTS):
        own_cell.send("ingestion", invoice_id=f"E{number}", amount=amount)
        own_cell.send("ingestion", invoice_id=f"J{number}", amount=amount.partition(".")[0], currency="JPY")
    assert command(own_cell, "park", "E0").status == 200
    assert command(own_cell, "park", "E3").status == 200
    own_cell.move_to(NOW + 3 * DAY + HOUR)
    until(lambda: len(own_cell.get("/invoices?stuck=true")["items"]) == 8)
    # An alert is due at the same time as this event, and must not be counted as a second change.
    own_cell.move_to(NOW + 4 * DAY + HOUR)
    own_cell.send("authorization", invoice_id="J0", amount="120", currency="JPY", at=NOW + 4 * DAY)
    own_cell.send("authorization", invoice_id="E0", amount="120.00", at=NOW + 4 * DAY)
    return own_cell


def test_totals_metrics_and_the_backlog_agree(priced: Cell) -> None:
    totals = {(one["status"], one["currency"]): one for one in priced.get("/totals")["items"]}
    assert {key: (one["invoices"], one["amount"]) for key, one in totals.items()} == {
        ("AwaitingAuthorization", "EUR"): (3, "1999999999999999.97"),
        ("AwaitingAuthorization", "JPY"): (3, "1999999999999998"),
        ("AwaitingReconciliation", "EUR"): (1, "120.00"),
        ("AwaitingReconciliation", "JPY"): (1, "120"),
    }
    assert [(one["stuck"], one["parked"]) for one in totals.values()] == [(3, 1), (3, 0), (0, 0), (0, 0)]
    assert sum(one["stuck"] for one in totals.values()) == len(priced.get("/invoices?stuck=true")["items"])
    until(lambda: priced.get("/check")["balanced"])
    assert priced.get("/check")["differences"] == []
    backlog = {(row[0], row[1]): (row[2], row[3]) for row in priced.get("/dashboards/backlog")["rows"]}
    assert backlog == {key: (one["invoices"], one["amount"]) for key, one in totals.items()}
    samples = {
        (sample.name, sample.labels["status"], sample.labels.get("currency")): sample.value
        for family in text_string_to_metric_families(priced.ask("GET", "/metrics").body.decode())
        for sample in family.samples
        if "status" in sample.labels
    }
    for (status, currency), one in totals.items():
        assert samples["bems_invoices_amount", status, currency] == float(one["amount"])
        assert samples["bems_stuck_amount", status, currency] == float(one["stuck_amount"])
    for name in ("invoices", "stuck", "parked"):
        for status in {status for status, _ in totals}:
            expected = sum(one[name] for key, one in totals.items() if key[0] == status)
            assert samples[f"bems_{name}", status, None] == expected


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_stuck_invoices_by_value_are_sorted_within_each_currency(priced: Cell, limit: int) -> None:
    stuck = list(pages(priced, "/invoices", stuck="true", sort="value", limit=limit))
    assert [(one["currency"], Decimal(one["amount"])) for one in stuck] == [
        ("EUR", Decimal("999999999999999.99")),
        ("EUR", Decimal("999999999999999.99")),
        ("EUR", Decimal("-0.01")),
        ("JPY", Decimal("999999999999999")),
        ("JPY", Decimal("999999999999999")),
        ("JPY", Decimal(0)),
    ]
    assert ids(priced, "/invoices", stuck="true", sort="value", limit=limit) == ["E1", "E2", "E3", "J1", "J2", "J3"]


def test_sort_requires_stuck(own_cell: Cell) -> None:
    reply = own_cell.ask("GET", "/invoices?sort=value")
    assert (reply.status, set(reply.faults)) == (400, {"/sort"})


def test_the_answer_to_an_extension_names_the_next_alert(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="X")
    own_cell.move_to(NOW + 3 * DAY)
    until(lambda: own_cell.get("/invoices/X")["stuck"])
    reply = command(own_cell, "extend", "X", until="2026-04-01T00:00:00Z")
    assert (reply.status, reply.content["next_alert_at"]) == (200, "2026-04-01T00:00:00Z")
    shown = own_cell.get("/invoices/X")
    assert (shown["stuck"], shown["waiting"]["extensions"], shown["waiting"]["extended_by"]) == (False, 1, "operator")

"""Events as they were sent, who stated each outcome, and totals that agree wherever they are told."""

from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.embedded.cell import Cell as Decider
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, HOUR, Instant
from tests.embedded.api.calls import Cell, event_body
from tests.embedded.api.test_lists import ids, pages
from tests.tracker.samples import NOW
from tests.waiting import until


def command(cell: Cell, verb: str, invoice_id: str, **more: object) -> Any:
    body = {"verb": verb, "invoice_id": invoice_id, "command_id": f"{verb}-{invoice_id}", **more}
    return cell.ask("POST", "/commands", body, "operator")


def test_each_outcome_says_who_stated_it(own: Cell) -> None:
    own.send("ingestion", invoice_id="A/1", source={"system": "erp"}, attributes={"po": "1"})
    own.send(
        "authorization",
        invoice_id="A/1",
        source={"system": "workflow", "region": "eu"},
        attributes={"approver": "Kim", "reason": "within budget"},
    )
    assert command(own, "complete", "A/1", stage="reconciliation", note="by phone").status == 200
    shown = own.get("/invoices/A/1")
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
def test_events_are_given_as_they_were_sent(own: Cell, limit: int) -> None:
    bodies = [
        event_body("ingestion", invoice_id="A/1", event_id="e1", attributes={"po": "1"}, payment_terms={"days": 30}),
        event_body("authorization", invoice_id="A/1", event_id="e2", imported=True),
        event_body("authorization", invoice_id="A/1", event_id="e3", status="rejected", at=NOW - DAY),
        event_body("posting", invoice_id="A/1", event_id="e4", amount="-3.50"),
    ]
    for stage, body in zip(("ingestion", "authorization", "authorization", "posting"), bodies, strict=True):
        assert own.ask("POST", f"/invoices/{stage}", body, "sender").status == 202
    for path in ("/invoices/A/1/events", "/invoices/A%2F1/events"):
        events = list(pages(own, path, limit=limit))
        assert [one["event"] for one in events] == bodies[::-1]
        assert [(one["stage"], one["applied"], one["superseded"]) for one in events] == [
            ("posting", True, False),
            ("authorization", True, True),
            ("authorization", True, False),
            ("ingestion", True, False),
        ]


def test_an_event_whose_handling_failed_is_among_them(own: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    redrive = Decider.redrive

    def fail(cell: Decider, event: Event, now: Instant) -> Any:
        if event.event_id.startswith("poison"):
            raise ValueError("poison")
        return redrive(cell, event, now)

    monkeypatch.setattr(Decider, "redrive", fail)
    own.send("ingestion", invoice_id="B")
    own.send("authorization", invoice_id="B", event_id="poison")
    own.send("authorization", invoice_id="only", event_id="poison")
    events = own.get("/invoices/B/events")["items"]
    assert [(one["event"]["event_id"], one["applied"]) for one in events] == [("poison", False), ("B-ingestion", True)]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_events_whose_handling_failed_are_shown_over_as_many_pages_as_there_are(
    own: Cell, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    def fail(_: Decider, event: Event, __: Instant) -> Any:
        raise ValueError(event.event_id)

    monkeypatch.setattr(Decider, "redrive", fail)
    for number in range(5):
        own.send("authorization", invoice_id="L", event_id=f"poison{number}")
    events = list(pages(own, "/invoices/L/events", limit=limit))
    assert [one["event"]["event_id"] for one in events] == [f"poison{number}" for number in range(5)]


def test_an_id_may_end_in_events(own: Cell) -> None:
    own.send("ingestion", invoice_id="C/events")
    assert own.get("/invoices/C/events")["invoice_id"] == "C/events"
    assert own.get("/invoices/C/events/events")["items"][0]["event"]["invoice_id"] == "C/events"
    own.send("ingestion", invoice_id="C")
    assert own.get("/invoices/C/events")["items"][0]["event"]["invoice_id"] == "C"
    assert own.ask("GET", "/invoices/nobody/events").status == 404


AMOUNTS = ("100.00", "999999999999999.99", "999999999999999.99", "-0.01")


@pytest.fixture
def worth(own: Cell) -> Cell:
    """Amounts that no integer of SQLite would hold the sum of, in two currencies, some stuck, one parked and moved."""
    for number, amount in enumerate(AMOUNTS):
        own.send("ingestion", invoice_id=f"E{number}", amount=amount)
        own.send("ingestion", invoice_id=f"J{number}", amount=amount.partition(".")[0], currency="JPY")
    assert command(own, "park", "E0").status == 200
    assert command(own, "park", "E3").status == 200
    own.move_to(NOW + 3 * DAY + HOUR)
    until(lambda: len(own.get("/invoices?stuck=true")["items"]) == 8)
    # An alert is due together with this event: it must not be counted as a move of its own.
    own.move_to(NOW + 4 * DAY + HOUR)
    own.send("authorization", invoice_id="J0", amount="120", currency="JPY", at=NOW + 4 * DAY)
    own.send("authorization", invoice_id="E0", amount="120.00", at=NOW + 4 * DAY)
    return own


def test_totals_metrics_and_the_backlog_agree(worth: Cell) -> None:
    totals = {(one["status"], one["currency"]): one for one in worth.get("/totals")["items"]}
    assert {key: (one["invoices"], one["amount"]) for key, one in totals.items()} == {
        ("AwaitingAuthorization", "EUR"): (3, "1999999999999999.97"),
        ("AwaitingAuthorization", "JPY"): (3, "1999999999999998"),
        ("AwaitingReconciliation", "EUR"): (1, "120.00"),
        ("AwaitingReconciliation", "JPY"): (1, "120"),
    }
    assert [(one["stuck"], one["parked"]) for one in totals.values()] == [(3, 1), (3, 0), (0, 0), (0, 0)]
    assert sum(one["stuck"] for one in totals.values()) == len(worth.get("/invoices?stuck=true")["items"])
    until(lambda: worth.get("/check")["balanced"])
    assert worth.get("/check")["differences"] == []
    backlog = {(row[0], row[1]): (row[2], row[3]) for row in worth.get("/dashboards/backlog")["rows"]}
    assert backlog == {key: (one["invoices"], one["amount"]) for key, one in totals.items()}
    samples = {
        (sample.name, sample.labels["status"], sample.labels.get("currency")): sample.value
        for family in text_string_to_metric_families(worth.ask("GET", "/metrics").body.decode())
        for sample in family.samples
        if "status" in sample.labels
    }
    for (status, currency), one in totals.items():
        assert samples["bems_invoices_amount", status, currency] == float(one["amount"])
        assert samples["bems_stuck_amount", status, currency] == float(one["stuck_amount"])
    for name in ("invoices", "stuck", "parked"):
        for status in {status for status, _ in totals}:
            told = sum(one[name] for key, one in totals.items() if key[0] == status)
            assert samples[f"bems_{name}", status, None] == told


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_the_stuck_by_value_come_greatest_first_within_each_currency(worth: Cell, limit: int) -> None:
    stuck = list(pages(worth, "/invoices", stuck="true", sort="value", limit=limit))
    assert [(one["currency"], Decimal(one["amount"])) for one in stuck] == [
        ("EUR", Decimal("999999999999999.99")),
        ("EUR", Decimal("999999999999999.99")),
        ("EUR", Decimal("-0.01")),
        ("JPY", Decimal("999999999999999")),
        ("JPY", Decimal("999999999999999")),
        ("JPY", Decimal(0)),
    ]
    assert ids(worth, "/invoices", stuck="true", sort="value", limit=limit) == ["E1", "E2", "E3", "J1", "J2", "J3"]


def test_only_the_stuck_are_sorted(own: Cell) -> None:
    reply = own.ask("GET", "/invoices?sort=value")
    assert (reply.status, set(reply.faults)) == (400, {"/sort"})


def test_the_answer_to_an_extension_names_the_next_alert(own: Cell) -> None:
    own.send("ingestion", invoice_id="X")
    own.move_to(NOW + 3 * DAY)
    until(lambda: own.get("/invoices/X")["stuck"])
    reply = command(own, "extend", "X", until="2026-04-01T00:00:00Z")
    assert (reply.status, reply.content["next_alert_at"]) == (200, "2026-04-01T00:00:00Z")
    shown = own.get("/invoices/X")
    assert (shown["stuck"], shown["waiting"]["extensions"], shown["waiting"]["extended_by"]) == (False, 1, "operator")

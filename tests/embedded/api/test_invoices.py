"""Details of an invoice, and commands, dead letters and deliveries."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bems.embedded.cell import Cell as Core
from bems.embedded.definition import load_machine
from bems.embedded.execution_histories import ExecutionHistories
from bems.tracker.actions import execution_name
from bems.tracker.instants import DAY, HOUR, SECOND, render
from bems.tracker.policy import When
from bems.tracker.requests import MAX_REQUEST_BYTES
from bems.tracker.status import status_of
from tests.embedded.api import calls
from tests.embedded.api.calls import Cell, event_body, run_concurrently
from tests.tracker.samples import NOW
from tests.waiting import until


def command(cell: Cell, verb: str, invoice_id: str, command_id: str, **more: object) -> Any:
    body = {"verb": verb, "invoice_id": invoice_id, "command_id": command_id, "note": "why", **more}
    return cell.ask("POST", "/commands", body, "operator")


def test_an_invoice_shows_its_stored_data(own_cell: Cell) -> None:
    own_cell.send(
        "ingestion",
        invoice_id="A/1",
        payment_terms={"days": 30},
        attributes={"po": "1"},
        vendor={"id": "V", "name": "N", "country": "DE", "tier": "gold"},
        source={"system": "s", "region": "r", "account_id": "1"},
    )
    own_cell.move_to(NOW + 3 * DAY + HOUR)
    until(lambda: len(own_cell.get("/invoices/A/1").get("alerts", [])) == 1)
    assert command(own_cell, "acknowledge", "A/1", "c1", note="seen").status == 200
    own_cell.send("authorization", invoice_id="A/1", at=NOW + 3 * DAY, amount="1300.00")
    own_cell.send("reconciliation", invoice_id="A/1", status="mismatched", at=NOW + 3 * DAY)
    own_cell.send("ingestion", invoice_id="A/1", event_id="late", at=NOW - DAY)
    shown = own_cell.get("/invoices/A/1")
    with own_cell.reader() as reader:
        record = reader.record("A/1")
        assert record is not None
        timeline, alerts = reader.timeline("A/1"), reader.newest_alerts(invoice_id="A/1")
        execution = reader.execution(execution_name("A/1", 1))
        assert execution is not None
        history = ExecutionHistories(load_machine(), reader).history_of(execution.id)
    assert (shown["invoice_id"], shown["status"], shown["stage"]) == (
        "A/1",
        status_of(record.outcomes),
        "reconciliation",
    )
    assert (shown["status"], shown["amount"], shown["currency"]) == ("Disputed", str(record.facts.amount), "EUR")
    assert record.wait is not None
    assert shown["waiting"] == {
        "stage": "reconciliation",
        "since": render(record.wait.since),
        "deadline": render(record.wait.deadline),
        "next_alert_at": render(record.wait.due),
        "step": 0,
        "acknowledged": 0,
    }
    assert shown["stuck"] is False
    assert {stage: outcome["event_id"] for stage, outcome in shown["outcomes"].items()} == {
        stage: outcome.event_id for stage, outcome in record.outcomes.items()
    }
    assert [row["transition_id"] for row in shown["transitions"]] == [row.transition_id for row in timeline]
    assert [(row["kind"], row["recorded_at"], row["to_status"]) for row in shown["transitions"]] == [
        (row.kind, render(row.recorded_at), row.to_status) for row in timeline
    ]
    assert [row["event_id"] for row in shown["transitions"] if row.get("superseded")] == ["late"]
    assert [alert["id"] for alert in shown["alerts"]] == [alert.id for _, alert in alerts]
    assert [(alert["kind"], alert["step"]) for alert in shown["alerts"]] == [
        ("dispute", 0),
        ("resolved", 1),
        ("identity", 0),
        ("stuck", 1),
    ]
    assert [(one["command_id"], one["operator"], one["verb"], one["note"]) for one in shown["commands"]] == [
        ("c1", "operator", "acknowledge", "seen")
    ]
    assert [(run["name"], run["run"], run["status"]) for run in shown["executions"]] == [
        (execution.id, 1, execution.status)
    ]
    assert shown["executions"][0]["history"] == msgspec.json.decode(msgspec.json.encode(history))
    assert len(history) > 5
    first = own_cell.get("/invoices/A/1")["outcomes"]["ingestion"]
    assert (first["status"], first["event_id"], first["occurred_at"]) == ("received", "A/1-ingestion", render(NOW))


def test_a_stuck_invoice_shows_its_severity_and_parking(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="S")
    for day, step, severity in ((3, 1, "warning"), (4, 2, "critical")):
        own_cell.move_to(NOW + day * DAY)
        until(lambda step=step: own_cell.get("/invoices/S").get("waiting", {}).get("step") == step)  # type: ignore[misc]
        shown = own_cell.get("/invoices/S")
        assert (shown["stuck"], shown["waiting"]["severity"]) == (True, severity)
    own_cell.move_to(NOW + 5 * DAY)
    until(lambda: own_cell.get("/invoices/S").get("mark") == "parked")
    shown = own_cell.get("/invoices/S")
    assert (shown["stuck"], "waiting" in shown, shown["stage"]) == (True, False, "authorization")
    assert shown["parked"] == {
        "at": render(NOW + 5 * DAY), "stage": "authorization", "since": render(NOW), "step": 3,
    }  # fmt: skip
    assert command(own_cell, "revive", "S", "again").status == 200
    shown = own_cell.get("/invoices/S")
    assert (shown["stuck"], [run["run"] for run in shown["executions"]]) == (False, [2, 1])
    assert "parked" not in shown


def test_an_unknown_invoice_returns_404(cell: Cell) -> None:
    reply = cell.ask("GET", "/invoices/nobody")
    assert (reply.status, reply.faults) == (404, {})


def test_an_accepted_write_is_visible_to_the_next_query(cell: Cell) -> None:
    def follow(thread: int) -> None:
        for number in range(25):
            id = f"seen-{thread}-{number}"
            assert cell.send("ingestion", invoice_id=id).status == 202
            assert cell.get(f"/invoices/{id}")["status"] == "AwaitingAuthorization"
            assert cell.send("authorization", invoice_id=id).status == 202
            shown = cell.get(f"/invoices/{id}")
            assert (shown["status"], len(shown["transitions"])) == ("AwaitingReconciliation", 2)
            assert command(cell, "park", id, id).status == 200
            assert cell.get(f"/invoices/{id}")["mark"] == "parked"

    run_concurrently([lambda thread=thread: follow(thread) for thread in range(4)])  # type: ignore[misc]


def test_an_invoice_is_a_consistent_snapshot(cell: Cell) -> None:
    over = threading.Event()

    def change() -> None:
        try:
            for number in range(80):
                status = ("approved", "rejected")[number % 2]
                cell.send(
                    "authorization", invoice_id="moment", event_id=f"m{number}", status=status, at=NOW + number * SECOND
                )
        finally:
            over.set()

    def look() -> None:
        while not over.is_set():
            shown = cell.get("/invoices/moment")
            newest = shown["transitions"][0]
            assert newest["to_status"] == shown["status"]
            assert newest["event_id"] == shown["outcomes"].get("authorization", newest)["event_id"]

    cell.send("ingestion", invoice_id="moment")
    run_concurrently([change, look])


# -- commands


@pytest.fixture
def invoice(cell: Cell, request: pytest.FixtureRequest) -> str:
    id = f"of-{request.node.name}"
    cell.send("ingestion", invoice_id=id)
    return id


def test_a_command_is_carried_out_once(cell: Cell, invoice: str) -> None:
    for result in ("accepted", "duplicate"):
        reply = command(cell, "complete", invoice, f"c-{invoice}", stage="authorization")
        due = {"next_alert_at": render(NOW + 3 * DAY)}
        assert (reply.status, reply.content) == (200, {"command_id": f"c-{invoice}", "status": result, **due})
    assert cell.get(f"/invoices/{invoice}")["status"] == "AwaitingReconciliation"
    other = command(cell, "cancel", invoice, f"c-{invoice}")
    assert (other.status, other.faults) == (409, {})
    assert [one["result"] for one in cell.get(f"/commands?invoice_id={invoice}")["items"]] == ["accepted"]


def test_a_refused_command_uses_up_its_id(cell: Cell, invoice: str) -> None:
    id = f"r-{invoice}"
    assert command(cell, "revive", invoice, id).status == 409
    other = command(cell, "cancel", invoice, id)
    detail = f"another command has used the id {id}: use each id only once"
    assert (other.status, other.content["detail"]) == (409, detail)


def test_every_command_takes_effect(cell: Cell, invoice: str) -> None:
    until_ = render(NOW + 9 * DAY)
    assert command(cell, "extend", invoice, f"1{invoice}", until=until_).status == 200
    assert cell.get(f"/invoices/{invoice}")["waiting"]["deadline"] == until_
    assert command(cell, "park", invoice, f"2{invoice}").status == 200
    assert cell.get(f"/invoices/{invoice}")["mark"] == "parked"
    assert command(cell, "revive", invoice, f"3{invoice}").status == 200
    assert "mark" not in cell.get(f"/invoices/{invoice}")
    assert command(cell, "cancel", invoice, f"4{invoice}", note="ü" * 1000).status == 200
    shown = cell.get(f"/invoices/{invoice}")
    assert shown["status"] == "Cancelled"
    assert [one["verb"] for one in shown["commands"]] == ["cancel", "revive", "park", "extend"]
    assert (shown["commands"][0]["note"], shown["commands"][3]["until"]) == ("ü" * 1000, until_)


def test_a_command_without_effect_is_refused_and_recorded(cell: Cell, invoice: str) -> None:
    reply = command(cell, "revive", invoice, f"r-{invoice}")
    assert (reply.status, reply.faults) == (409, {})
    (kept,) = cell.get(f"/commands?invoice_id={invoice}")["items"]
    assert (kept["result"], kept["reason"]) == ("refused", reply.content["detail"])
    none = command(cell, "park", "nobody", "n")
    assert (none.status, none.faults) == (404, {})


def test_a_snooze_is_shown_until_its_end(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="S")
    own_cell.move_to(NOW + 3 * DAY)
    until(lambda: own_cell.get("/invoices/S")["stuck"])
    end = NOW + 4 * DAY + HOUR
    reply = command(own_cell, "snooze", "S", "s1", until=render(end))
    assert (reply.status, reply.content["next_alert_at"]) == (200, render(end))
    shown = own_cell.get("/invoices/S")
    assert shown["stuck"] is True
    assert (shown["waiting"]["snoozed_until"], shown["waiting"]["deadline"]) == (render(end), render(NOW + 3 * DAY))
    assert (shown["commands"][0]["verb"], shown["commands"][0]["until"]) == ("snooze", render(end))
    late = command(own_cell, "snooze", "S", "s2", until=render(NOW + 5 * DAY))
    assert (late.status, late.faults) == (409, {})
    assert f"before {render(NOW + 5 * DAY)}, when the last one is" in late.content["detail"]
    own_cell.move_to(NOW + 4 * DAY + SECOND)
    own_cell.send("ingestion", invoice_id="other")
    assert own_cell.get("/invoices/S")["waiting"]["step"] == 1
    own_cell.move_to(end)
    until(lambda: own_cell.get("/invoices/S")["waiting"]["step"] == 2)
    shown = own_cell.get("/invoices/S")
    assert "snoozed_until" not in shown["waiting"]
    assert (shown["alerts"][0]["due_at"], shown["alerts"][0]["raised_at"]) == (render(NOW + 4 * DAY), render(end))


def test_the_assignee_and_the_newest_note_are_shown_everywhere(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="S")
    own_cell.move_to(NOW + 3 * DAY)
    until(lambda: own_cell.get("/invoices/S")["stuck"])
    assert command(own_cell, "assign", "S", "a1", assignee="Jane Doe", note="").status == 200
    assert command(own_cell, "note", "S", "n1", note="called the vendor").status == 200
    note = {"text": "called the vendor", "operator": "operator", "at": render(NOW + 3 * DAY)}
    (listed,) = own_cell.get("/invoices?stuck=true")["items"]
    shown = own_cell.get("/invoices/S")
    for one in (listed, shown, *own_cell.get("/invoices")["items"]):
        assert (one["assignee"], one["note"]) == ("Jane Doe", note)
    assert [(one["verb"], one.get("assignee")) for one in shown["commands"]] == [("note", None), ("assign", "Jane Doe")]
    assert [(row["kind"], row["outcome"], row["actor"]) for row in shown["transitions"][:2]] == [
        ("command", "note", "operator"), ("command", "assign", "operator"),
    ]  # fmt: skip
    assert command(own_cell, "assign", "S", "a2", assignee="Jane Doe").status == 409
    assert command(own_cell, "assign", "S", "a3", assignee=None, note="").status == 200
    assert "assignee" not in own_cell.get("/invoices/S")
    assert own_cell.get("/invoices/S")["note"] == note


def test_an_invoice_shows_what_its_events_state(own_cell: Cell) -> None:
    stated = {
        "number": "RE-2026-77",
        "issue_date": "2026-02-27",
        "buyer": {"id": "1000", "name": "Example AG"},
        "purchase_orders": ["4500012345", "4500012346"],
        "payment_terms": {
            "days": 30, "baseline_date": "2026-02-28", "cash_discounts": [{"percent": "2.5", "days": 10}],
        },
    }  # fmt: skip
    decided = {"actor": {"id": "kim", "kind": "person"}, "reason": {"code": "QUA", "text": "two are missing"}}
    paid = {"payment": {"paid_on": "2026-03-01", "amount": "1218.75", "discount_taken": "31.25"}}
    own_cell.send("ingestion", invoice_id="F", **stated)
    own_cell.send("authorization", invoice_id="F", **decided)
    own_cell.send("reconciliation", invoice_id="F", status="not_applicable")
    own_cell.send("posting", invoice_id="F", at=NOW + HOUR, **paid)
    shown = own_cell.get("/invoices/F")
    assert {name: shown[name] for name in stated} == stated
    (listed,) = own_cell.get("/invoices")["items"]
    assert {name: listed[name] for name in ("number", "issue_date", "buyer")} == {
        name: stated[name] for name in ("number", "issue_date", "buyer")
    }
    assert (shown["status"], shown["posted_on"]) == ("Posted", render(NOW + HOUR))
    assert {name: shown["outcomes"]["authorization"][name] for name in decided} == decided
    assert shown["outcomes"]["posting"]["payment"] == paid["payment"]
    posting, _, authorization, ingestion = shown["transitions"]
    assert (authorization["actor"], authorization["actor_kind"], authorization["reason"]) == ("kim", "person", "QUA")
    assert (posting["paid_on"], posting["paid_amount"], posting["discount_taken"]) == ("2026-03-01", "1218.75", "31.25")
    assert (ingestion["number"], ingestion["issue_date"], ingestion["buyer"]) == ("RE-2026-77", "2026-02-27", "1000")
    assert ingestion["next_first_deadline"] == authorization["first_deadline"] == render(NOW + 3 * DAY)
    events = [one["event"] for one in own_cell.get("/invoices/F/events")["items"]]
    assert {name: events[-1][name] for name in stated} == stated
    assert {name: events[-2][name] for name in decided} == decided
    assert events[0]["payment"] == paid["payment"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/verb"}),
        ({"verb": "kill"}, {"/verb"}),
        ({"verb": "park", "command_id": "", "invoice_id": "a b", "note": 1, "x": 1},
         {"/command_id", "/invoice_id", "/note", "/x"}),
        ({"verb": "extend", "command_id": "1", "invoice_id": "1", "until": "2026-01-01"}, {"/until"}),
        ({"verb": "complete", "command_id": "1", "invoice_id": "1"}, {"/note", "/stage"}),
        ({"verb": "cancel", "command_id": "1", "invoice_id": "1"}, {"/note"}),
        ({"verb": "park", "command_id": "1", "invoice_id": "1", "note": " \n"}, {"/note"}),
        ({"verb": "note", "command_id": "1", "invoice_id": "1", "note": ""}, {"/note"}),
        ({"verb": "snooze", "command_id": "1", "invoice_id": "1", "until": "soon"}, {"/until"}),
        ({"verb": "assign", "command_id": "1", "invoice_id": "1"}, {"/assignee"}),
        (b'{"verb": "park", "verb": "cancel", "command_id": "1", "invoice_id": "1", "note": "x"}', {"/verb"}),
        (b"\xef\xbb\xbf{}", {""}),
        (b"", {""}),
        (b"[" * 60_000, {""}),
    ],
)  # fmt: skip
def test_an_invalid_command_is_refused_with_every_fault(cell: Cell, body: object, pointers: set[str]) -> None:
    reply = cell.ask("POST", "/commands", body, "operator")
    assert (reply.status, reply.pointers) == (400, pointers)


@pytest.mark.parametrize("path", ["/commands", "/keys", "/dead-letters/redrive"])
def test_other_bodies_are_limited_and_must_be_json(cell: Cell, path: str) -> None:
    assert cell.ask("POST", path, b" " * (MAX_REQUEST_BYTES + 1)).status == 413
    assert cell.ask("POST", path, b"{}", content_type="text/plain").status == 415
    assert cell.ask("POST", path + "?x=1", b"{}").pointers == {"/x"}


# -- three stories of finance


def test_a_mismatch_before_the_approval_is_disputed_at_once_and_named_by_every_alert(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="M")
    own_cell.send("reconciliation", invoice_id="M", status="mismatched", reason={"code": "QUA"})
    (dispute,) = own_cell.get("/alerts")["items"]
    assert (dispute["kind"], dispute["stage"], dispute["raised_at"]) == ("dispute", "reconciliation", render(NOW))
    for step in (1, 2):
        own_cell.move_to(NOW + (2 + step) * DAY)
        until(lambda step=step: own_cell.get("/invoices/M")["waiting"]["step"] == step)  # type: ignore[misc]
    found = own_cell.get("/alerts")["items"]
    assert [(alert["kind"], alert["stage"]) for alert in found] == [
        ("stuck", "authorization"), ("stuck", "authorization"), ("dispute", "reconciliation"),
    ]  # fmt: skip
    for alert in found:
        assert alert["negative_outcomes"] == {"reconciliation": "mismatched"}
        assert alert["open_stages"] == ["authorization", "reconciliation", "posting"]


def test_an_invoice_without_a_purchase_order_is_never_stuck_in_reconciliation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exempting = dataclasses.replace(calls.POLICY, match_exemptions=(When(has_purchase_order=False),))
    monkeypatch.setattr(calls, "POLICY", exempting)
    with Cell(tmp_path / "cell") as cell:
        cell.send("ingestion", invoice_id="without")
        cell.send("ingestion", invoice_id="with", purchase_orders=["45"])
        for id in ("without", "with"):
            cell.send("authorization", invoice_id=id)
        shown = cell.get("/invoices/without")
        assert (shown["status"], shown["match_required"]) == ("AwaitingPosting", False)
        cell.move_to(NOW + 3 * DAY)
        until(lambda: len(cell.get("/alerts")["items"]) == 2)
        waits = {alert["invoice_id"]: (alert["stage"], alert["open_stages"]) for alert in cell.get("/alerts")["items"]}
        assert waits == {
            "without": ("posting", ["posting"]),
            "with": ("reconciliation", ["reconciliation", "posting"]),
        }
        cell.send("posting", invoice_id="without", at=NOW + 3 * DAY)
        assert cell.get("/invoices/without")["status"] == "Posted"
        totals = {(one["status"], one["invoices"]) for one in cell.get("/totals")["items"]}
        assert totals == {("Posted", 1), ("AwaitingReconciliation", 1)}
        until(lambda: cell.get("/check")["balanced"] is True)


def test_an_approval_by_hand_and_a_rejection_20_ms_later_are_contradictory(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="C")
    own_cell.move_to(NOW + 3 * DAY)
    until(lambda: own_cell.get("/invoices/C")["stuck"])
    assert command(own_cell, "complete", "C", "c1", stage="authorization", note="signed on paper").status == 200
    at = NOW + 3 * DAY + 20_000
    own_cell.move_to(at)
    own_cell.send("authorization", invoice_id="C", status="rejected", at=at, actor={"id": "kim", "kind": "person"})
    shown = own_cell.get("/invoices/C")
    assert (shown["status"], shown["outcomes"]["authorization"]["actor"]["id"]) == ("Rejected", "kim")
    by_hand = {"status": "approved", "operator": "operator", "at": render(NOW + 3 * DAY)}
    assert shown["recorded_by_hand"] == {"authorization": by_hand}
    contradiction, resolved, stuck = own_cell.get("/alerts")["items"]
    assert (contradiction["kind"], contradiction["severity"], contradiction["event_id"], contradiction["detail"]) == (
        "contradiction", "warning", "C-authorization",
        "an event says rejected, but operator recorded authorization as approved by hand on 2026-03-05",
    )  # fmt: skip
    assert (resolved["kind"], resolved["detail"]) == ("resolved", "authorization is approved")
    assert resolved["incident"] == stuck["incident"] != contradiction["incident"]
    # The resolution is no alert.
    until(lambda: own_cell.get("/check")["balanced"] is True)
    assert own_cell.get("/check")["alerts"] == own_cell.get("/check")["alert_rows"] == 2
    assert b"\nbems_alerts 2.0\n" in own_cell.ask("GET", "/metrics").body


# -- dead letters and deliveries


@pytest.fixture
def dead_letters(own_cell: Cell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Cell:
    """Cell with dead letters: five events of INV-1 and one of INV-2."""
    caplog.set_level("CRITICAL", "bems.embedded.writer")
    fail_processing(monkeypatch)
    own_cell.send_all("ingestion", [event_body("ingestion", event_id=f"L{number}") for number in range(5)])
    own_cell.send("posting", invoice_id="INV-2", event_id="other")
    return own_cell


def fail_processing(monkeypatch: pytest.MonkeyPatch, error: Callable[[str], str] = lambda id: f"broken {id}") -> None:
    def fail(_: Core, event: Any, *__: object) -> None:
        raise ValueError(error(event.event_id))

    monkeypatch.setattr(Core, "handle_event", fail)
    monkeypatch.setattr(Core, "redrive", fail)


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["event_id"] for item in items]


def test_dead_letters_are_listed(dead_letters: Cell) -> None:
    first = dead_letters.get("/dead-letters?limit=4")
    rest = dead_letters.get(f"/dead-letters?limit=4&cursor={first['next_cursor']}")
    assert (names(first["items"]), names(rest["items"])) == (["L0", "L1", "L2", "L3"], ["L4", "other"])
    assert rest["next_cursor"] is None
    assert first["items"][0] == {
        "event_id": "L0",
        "invoice_id": "INV-1",
        "attempts": 1,
        "failed_at": render(NOW),
        "retry_at": render(NOW + SECOND),
        "error": "ValueError: broken L0",
    }
    assert names(dead_letters.get("/dead-letters?invoice_id=INV-2")["items"]) == ["other"]
    assert names(dead_letters.get("/dead-letters?error=L3")["items"]) == ["L3"]
    assert names(dead_letters.get("/dead-letters?set_aside=true")["items"]) == []
    assert len(dead_letters.get("/dead-letters?set_aside=false")["items"]) == 6
    check = dead_letters.get("/check")
    assert (check["accepted"], check["applied"], check["dead_letters"], check["balanced"]) == (6, 0, 6, True)


def redrive(cell: Cell, **which: object) -> Any:
    reply = cell.ask("POST", "/dead-letters/redrive", which, "operator")
    assert reply.status == 200, reply
    return reply.content


def test_dead_letters_are_redriven(dead_letters: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    still = redrive(dead_letters, event_ids=["L0", "L0", "none"])
    assert (still["redriven"], still["more"]) == ([], False)
    assert [(one["event_id"], one["error"]) for one in still["failed"]] == [
        ("L0", "ValueError: broken L0"),
        ("none", "there is no dead letter none"),
    ]
    monkeypatch.undo()
    assert redrive(dead_letters, event_ids=["L1", "L1"]) == {"redriven": ["L1"], "failed": [], "more": False}
    assert redrive(dead_letters, error="L3")["redriven"] == ["L3"]
    assert (
        len(redrive(dead_letters, event_ids=[f"{number:128}".replace(" ", '"') for number in range(1_000)])["failed"])
        == 1_000
    )
    assert redrive(dead_letters, event_ids=["L4", "other"], invoice_id="INV-2")["redriven"] == ["other"]
    assert redrive(dead_letters, all=True)["redriven"] == ["L0", "L2", "L4"]
    assert redrive(dead_letters, all=True) == {"redriven": [], "failed": [], "more": False}
    assert dead_letters.get("/dead-letters")["items"] == []
    until(lambda: dead_letters.get("/check")["balanced"] is True)


def test_many_dead_letters_are_redriven_in_parts(dead_letters: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bems.embedded.api.operations.MAX_REDRIVEN", 2)
    assert (
        redrive(dead_letters, event_ids=["other"], invoice_id="INV-2", error="other")["failed"][0]["event_id"]
        == "other"
    )
    assert redrive(dead_letters, event_ids=["L4"], invoice_id="INV-1")["failed"][0]["event_id"] == "L4"
    part = redrive(dead_letters, all=True)
    assert (names(part["failed"]), part["more"]) == (["L0", "L1"], True)


@pytest.mark.parametrize(
    "body", [{}, {"event_ids": None}, {"all": False}, {"event_ids": []}, {"x": 1}, {"event_ids": ["a b"]}]
)
def test_a_redrive_requires_a_filter(cell: Cell, body: object) -> None:
    reply = cell.ask("POST", "/dead-letters/redrive", body)
    assert reply.status == 400
    assert reply.faults


def test_deliveries_are_listed_and_retried(cell: Cell) -> None:
    assert cell.get("/deliveries?state=failed&limit=5") == {"items": [], "next_cursor": None}
    assert cell.ask("GET", "/deliveries?state=lost").pointers == {"/state"}
    assert cell.ask("POST", "/deliveries/retry", role="operator").content == {"deliveries": 0}

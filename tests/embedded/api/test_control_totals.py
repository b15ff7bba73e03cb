"""Control totals over the API: what is counted, what the response names, and the alert of a difference that remains."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bems.embedded.alerting.destinations import LogDestination
from bems.embedded.api import control_totals
from bems.embedded.backup import back_up
from bems.embedded.cell import Cell as EventCell
from bems.embedded.storage.reader import open_reader
from bems.tracker.alert_messages import headline
from bems.tracker.contract import Stage
from bems.tracker.control_totals import ALERT_GRACE, AlertMessage, CompletenessAlert
from bems.tracker.instants import DAY, HOUR, SECOND, Instant, render
from bems.tracker.requests import Role
from tests.embedded.api.calls import Cell, Inbox, Reply
from tests.tracker.samples import NOW
from tests.waiting import until

MakeCell = Callable[..., Cell]
BEGIN, END = NOW - DAY, NOW


def total(**changes: Any) -> dict[str, Any]:
    """Return the body of a control total of the interval [BEGIN, END)."""
    return {
        "source": "sap-ecc",
        "stage": "ingestion",
        "from": render(BEGIN),
        "to": render(END),
        "events": 0,
        "amounts": {},
    } | changes


def state(cell: "Cell | Source", **changes: Any) -> dict[str, Any]:
    """Send a control total, and return the response."""
    reply = cell.ask("POST", "/control-totals", total(**changes), "sender")
    assert reply.status == 200, reply
    content: dict[str, Any] = reply.content
    return content


def send(cell: "Cell | Source", name: str, at: Instant = NOW - HOUR, **changes: Any) -> Reply:
    reply = cell.send("ingestion", event_id=name, at=at, **{"invoice_id": f"INV-{name}"} | changes)
    assert reply.status == 202, reply
    return reply


class Source:
    """A source system that only one test uses, because tests share the cell. Its name begins its ids."""

    def __init__(self, cell: Cell, name: str) -> None:
        self.cell, self.name = cell, name

    def ask(self, method: str, path: str, body: dict[str, Any], role: Role) -> Reply:
        named = {"source": self.name} if body["source"] == "sap-ecc" else {}
        return self.cell.ask(method, path, body | named, role)

    def send(self, stage: Stage, **changes: Any) -> Reply:
        ids = {name: f"{self.name}/{changes[name]}" for name in ("event_id", "invoice_id") if name in changes}
        return self.cell.send(stage, **{"source": {"system": self.name}} | changes | ids)


@pytest.fixture
def source(cell: Cell, request: pytest.FixtureRequest) -> Source:
    return Source(cell, request.node.name.removeprefix("test_")[:64])


class AlertInbox(Inbox):
    """Alert destination that also keeps each alert."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[AlertMessage] = []

    def send(self, alert: AlertMessage) -> None:
        self.alerts.append(alert)


# -- what is counted


def test_an_equal_control_total_is_complete(source: Source) -> None:
    send(source, "1", amount="10.00")
    send(source, "2", amount="-2.50")
    send(source, "3", amount="700", currency="JPY")
    assert state(source, events=3, amounts={"EUR": "7.5", "JPY": "700"}) == {
        "source": source.name,
        "stage": "ingestion",
        "from": render(BEGIN),
        "to": render(END),
        "status": "complete",
        "stated": {"events": 3, "amounts": {"EUR": "7.50", "JPY": "700"}},
        "found": {"events": 3, "amounts": {"EUR": "7.50", "JPY": "700"}},
        "differences": [],
        "stated_at": render(NOW),
        "checked_at": render(NOW),
        "alert_due_at": None,
        "alerted_at": None,
    }


def test_a_missing_event_is_named_by_count_and_sum(source: Source) -> None:
    send(source, "1", amount="10.00")
    found = state(source, events=2, amounts={"EUR": "30.00"})
    assert (found["status"], found["alert_due_at"]) == ("different", render(NOW + ALERT_GRACE))
    assert found["differences"] == [
        {"pointer": "/events", "expected": 2, "found": 1},
        {"pointer": "/amounts/EUR", "expected": "30.00", "found": "10.00"},
    ]


def test_an_event_that_is_sent_twice_counts_once(source: Source) -> None:
    for _ in range(2):
        send(source, "1", amount="10.00")
    assert state(source, events=1, amounts={"EUR": "10.00"})["status"] == "complete"
    assert state(source, events=2, amounts={"EUR": "20.00"})["differences"] == [
        {"pointer": "/events", "expected": 2, "found": 1},
        {"pointer": "/amounts/EUR", "expected": "20.00", "found": "10.00"},
    ]


def test_another_amount_is_named(source: Source) -> None:
    send(source, "1", amount="10.00")
    assert state(source, events=1, amounts={"EUR": "10.01"})["differences"] == [
        {"pointer": "/amounts/EUR", "expected": "10.01", "found": "10.00"}
    ]


def test_an_amended_amount_counts_as_each_event_stated_it(source: Source) -> None:
    send(source, "1", NOW - 3 * HOUR, amount="10.00", invoice_id="INV-A")
    send(source, "2", NOW - 2 * HOUR, amount="12.00", invoice_id="INV-A")
    assert state(source, events=2, amounts={"EUR": "22.00"})["status"] == "complete"


def test_a_superseded_event_counts(source: Source) -> None:
    send(source, "1", NOW - HOUR, amount="10.00", invoice_id="INV-A")
    send(source, "0", NOW - 2 * HOUR, amount="12.00", invoice_id="INV-A")
    assert [
        row.get("superseded", False) for row in source.cell.get(f"/invoices/{source.name}/INV-A")["transitions"]
    ] == [True, False]
    assert state(source, events=2, amounts={"EUR": "22.00"})["status"] == "complete"


def test_a_past_event_counts(source: Source) -> None:
    send(source, "1", amount="10.00", imported=True)
    assert state(source, events=1, amounts={"EUR": "10.00"})["status"] == "complete"


def test_the_interval_includes_its_start_and_excludes_its_end(source: Source) -> None:
    for number, at in enumerate((BEGIN - 1, BEGIN, END - 1, END)):
        send(source, str(number), at, amount=f"{10**number}.00")
    assert state(source, events=2, amounts={"EUR": "110.00"})["status"] == "complete"


def test_other_sources_and_stages_are_not_counted(source: Source) -> None:
    send(source, "1", amount="10.00")
    send(source, "2", source={"system": "coupa"})
    source.send("posting", at=NOW - HOUR, invoice_id="INV-1")
    assert state(source, events=1, amounts={"EUR": "10.00"})["status"] == "complete"
    assert state(source, source="coupa", events=1, amounts={"EUR": "1250.00"})["status"] == "complete"
    assert state(source, stage="posting", events=1, amounts={"EUR": "1250.00"})["status"] == "complete"
    assert state(source, source=source.name.upper())["status"] == "complete", "no such source sent anything"


def test_alerts_and_commands_are_not_counted(own_cell: Cell) -> None:
    send(own_cell, "1", amount="10.00")
    command = {"verb": "note", "command_id": "c", "invoice_id": "INV-1", "note": "seen"}
    assert own_cell.ask("POST", "/commands", command).status == 200
    own_cell.move_to(NOW + 10 * DAY)
    until(lambda: own_cell.get("/alerts")["items"])
    assert state(own_cell, to=render(NOW + 10 * DAY), events=1, amounts={"EUR": "10.00"})["status"] == "complete"


def test_a_dead_letter_is_accepted_but_not_counted(source: Source) -> None:
    with patch.object(EventCell, "redrive", side_effect=ValueError("poison")):
        send(source, "1", amount="10.00")
    assert state(source, events=1, amounts={"EUR": "10.00"})["found"] == {"events": 0, "amounts": {}}
    assert source.cell.ask("POST", "/dead-letters/redrive", {"all": True}).content["redriven"] == [f"{source.name}/1"]
    assert state(source, events=1, amounts={"EUR": "10.00"})["status"] == "complete"


def test_large_sums_are_exact(source: Source) -> None:
    for number in range(12):
        send(source, str(number), amount="9" * 16 + ".99")
    assert state(source, events=12, amounts={"EUR": "119999999999999999.88"})["status"] == "complete"


def test_an_event_counts_as_soon_as_it_is_accepted(source: Source) -> None:
    """The response waits for DuckDB, which otherwise lags by a second."""
    for number in range(5):
        send(source, str(number), amount="1.00")
        assert state(source, events=number + 1, amounts={"EUR": f"{number + 1}.00"})["status"] == "complete"


def test_nothing_is_answered_while_duckdb_is_behind(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_totals, "SERIES_TIMEOUT_SECONDS", 0.2)
    cell = make_cell()
    with patch.object(type(cell.service.analytics), "watermark", -1):
        reply = cell.ask("POST", "/control-totals", total(events=1), "sender")
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert reply.content["detail"].startswith(control_totals.SERIES_BEHIND)
        assert cell.ask("GET", f"/events?source=a&stage=posting&from={render(BEGIN)}&to={render(END)}").status == 503
        (kept,) = cell.get("/control-totals")["items"]
        assert (kept["status"], kept["found"]) == ("waiting", None)
    until(lambda: cell.get("/control-totals")["items"][0]["status"] == "different")


# -- the alert


def test_a_difference_that_remains_raises_one_alert(make_cell: MakeCell) -> None:
    inbox = AlertInbox()
    cell = make_cell(destinations={"warning": [inbox], "critical": []})
    send(cell, "1", amount="10.00", imported=True)
    state(cell, events=2, amounts={"EUR": "30.00"})
    cell.move_to(NOW + ALERT_GRACE - SECOND)
    until(lambda: cell.get("/control-totals")["items"][0]["checked_at"] == render(NOW + ALERT_GRACE - SECOND))
    assert inbox.alerts == []
    cell.move_to(NOW + ALERT_GRACE)
    until(lambda: inbox.alerts)
    (alert,) = inbox.alerts
    assert isinstance(alert, CompletenessAlert) and alert.severity == "warning"
    assert headline(alert).endswith("is not complete: events 2 sent, 1 here; EUR 30.00 sent, 10.00 here")
    for hours in range(2, 5):
        cell.move_to(NOW + hours * HOUR)
        repeated = state(cell, events=2, amounts={"EUR": "30.00"})
    assert repeated["alerted_at"] == render(NOW + ALERT_GRACE) and repeated["alert_due_at"] is None
    until(lambda: cell.service.deliveries.waiting() == 0)
    assert len(inbox.alerts) == 1
    assert cell.get("/alerts")["items"] == [], "it is no alert of an invoice"
    until(lambda: cell.get("/check")["balanced"] is not None)
    assert cell.get("/check")["balanced"] is True
    assert cell.get("/check")["alerts"] == 0


def test_events_that_arrive_within_the_grace_complete_it_without_an_alert(make_cell: MakeCell) -> None:
    inbox = AlertInbox()
    cell = make_cell(destinations={"warning": [inbox], "critical": []})
    assert state(cell, events=1, amounts={"EUR": "10.00"})["status"] == "different"
    send(cell, "1", amount="10.00", imported=True)
    cell.move_to(NOW + 2 * ALERT_GRACE)
    until(lambda: cell.get("/control-totals")["items"][0]["status"] == "complete")
    assert inbox.alerts == []


def test_a_restart_keeps_the_state_and_raises_no_second_alert(make_cell: MakeCell) -> None:
    inbox = AlertInbox()
    destinations = {"warning": [inbox], "critical": []}
    cell = make_cell(destinations=destinations)
    state(cell, events=1, amounts={"EUR": "10.00"})
    before = cell.get("/control-totals")
    cell = restart(make_cell, cell, destinations=destinations)
    assert cell.get("/control-totals") == before
    cell.move_to(NOW + ALERT_GRACE)
    until(lambda: inbox.alerts)
    cell = restart(make_cell, cell, destinations=destinations)
    (kept,) = cell.get("/control-totals")["items"]
    assert kept["alerted_at"] == render(NOW + ALERT_GRACE)
    cell.move_to(NOW + 4 * ALERT_GRACE)
    until(lambda: cell.get("/control-totals")["items"][0]["checked_at"] == render(NOW + 4 * ALERT_GRACE))
    assert len(inbox.alerts) == 1


def restart(make_cell: MakeCell, cell: Cell, **options: Any) -> Cell:
    again = make_cell(**options)
    again.keys = cell.keys
    return again


def test_the_log_destination_writes_one_line(make_cell: MakeCell, caplog: pytest.LogCaptureFixture) -> None:
    cell = make_cell(destinations={"warning": [LogDestination()], "critical": []})
    state(cell, events=1)
    with caplog.at_level(logging.WARNING, "bems.alerts"):
        cell.move_to(NOW + ALERT_GRACE)
        until(lambda: any(record.name == "bems.alerts" for record in caplog.records))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "bems.alerts"]
    assert line.startswith("warning: ingestion of sap-ecc from ") and "events 1 sent, 0 here, alert id " in line


def test_an_undelivered_alert_is_listed_without_an_invoice(make_cell: MakeCell) -> None:
    class Broken(Inbox):
        def send(self, alert: AlertMessage) -> None:  # noqa: ARG002
            raise OSError

    cell = make_cell(destinations={"warning": [Broken()], "critical": []})
    state(cell, events=1)
    cell.move_to(NOW + ALERT_GRACE)
    until(lambda: cell.get("/deliveries")["items"])
    (delivery,) = cell.get("/deliveries")["items"]
    assert (delivery["invoice_id"], delivery["destination"]) == (None, "inbox")


def test_the_checker_logs_an_error_once_and_continues(own_cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    state(own_cell, events=1)
    checker = own_cell.service.control_totals
    with caplog.at_level(logging.ERROR), patch.object(checker, "check_due", side_effect=OSError("no disk")) as check:
        until(lambda: check.call_count > 1)
    assert [record.getMessage() for record in caplog.records if "control totals" in record.getMessage()] == [
        "control totals could not be compared: OSError: no disk"
    ]
    own_cell.move_to(NOW + ALERT_GRACE)
    until(lambda: own_cell.get("/control-totals")["items"][0]["alerted_at"])


# -- roles and faults


def test_every_fault_of_a_body_has_its_pointer(cell: Cell) -> None:
    body = total(stage="payment", events=-1, amounts={"EUR": "1.005", "ABC": "1"}, to=render(BEGIN), more=1)
    reply = cell.ask("POST", "/control-totals", body, "sender")
    assert reply.status == 400
    assert reply.pointers == {"/stage", "/events", "/amounts/EUR", "/amounts/ABC", "/to", "/more"}
    assert cell.ask("POST", "/control-totals", b"{", "sender").pointers == {""}


def test_senders_and_operators_may_send_and_viewers_may_list(cell: Cell) -> None:
    for role, status in {"sender": 200, "operator": 200, "admin": 200, "viewer": 403}.items():
        assert cell.ask("POST", "/control-totals", total(source="roles"), role).status == status  # type: ignore[arg-type]
    for role, status in {"sender": 403, "operator": 200, "admin": 200, "viewer": 200}.items():
        assert cell.ask("GET", "/control-totals", role=role).status == status  # type: ignore[arg-type]


# -- lists


def test_control_totals_are_listed_by_source_stage_and_day(own_cell: Cell) -> None:
    midnight = NOW - NOW % DAY
    for day in range(3):
        for source in ("a", "b"):
            begin = midnight - (day + 1) * DAY
            state(own_cell, source=source, **{"from": render(begin), "to": render(begin + DAY)})
    state(own_cell, source="a", stage="posting")
    listed = own_cell.get("/control-totals?source=a&stage=ingestion")["items"]
    assert [one["from"] for one in listed] == [render(midnight - day * DAY) for day in (1, 2, 3)]
    date = render(midnight - 2 * DAY)[:10]
    assert [one["source"] for one in own_cell.get(f"/control-totals?day={date}")["items"]].count("a") == 1
    assert {one["from"][:10] for one in own_cell.get(f"/control-totals?day={date}&stage=ingestion")["items"]} == {date}
    assert own_cell.ask("GET", "/control-totals?day=monday").pointers == {"/day"}


def test_a_list_of_control_totals_has_pages(own_cell: Cell) -> None:
    for source in "abcde":
        state(own_cell, source=source)
    found, cursor = [], ""
    while cursor is not None:
        page = own_cell.get(f"/control-totals?limit=2{cursor and '&cursor=' + cursor}")
        found += [one["source"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert sorted(found) == list("abcde")
    assert own_cell.ask("GET", "/control-totals?cursor=x").pointers == {"/cursor"}


def test_a_restated_control_total_is_listed_once_with_its_newest_values(own_cell: Cell) -> None:
    send(own_cell, "1", amount="10.00")
    state(own_cell, events=2, amounts={"EUR": "20.00"})
    state(own_cell, events=1, amounts={"EUR": "10.00"})
    (listed,) = own_cell.get("/control-totals")["items"]
    assert (listed["status"], listed["stated"]["events"]) == ("complete", 1)


def test_the_events_of_a_source_are_listed_by_id(own_cell: Cell) -> None:
    for name in ("b", "a", "c"):
        send(own_cell, name, amount="10", currency="EUR")
    send(own_cell, "d", END)
    query = f"source=sap-ecc&stage=ingestion&from={render(BEGIN)}&to={render(END)}"
    first = own_cell.get(f"/events?{query}&limit=2")
    assert first["items"] == [
        {"event_id": id, "occurred_at": render(NOW - HOUR), "amount": "10.00", "currency": "EUR"} for id in "ab"
    ]
    rest = own_cell.get(f"/events?{query}&limit=2&cursor={first['next_cursor']}")
    assert ([one["event_id"] for one in rest["items"]], rest["next_cursor"]) == (["c"], None)
    assert own_cell.ask("GET", "/events").pointers == {"/source", "/stage", "/from", "/to"}
    reversed_ = f"source=a&stage=ingestion&from={render(END)}&to={render(BEGIN)}"
    assert own_cell.ask("GET", f"/events?{reversed_}").pointers == {"/to"}


def test_events_are_looked_up_by_id(own_cell: Cell) -> None:
    send(own_cell, "1", amount="10.00")
    with patch.object(EventCell, "redrive", side_effect=ValueError("poison")):
        send(own_cell, "2", amount="7", currency="JPY")
    found = own_cell.ask("POST", "/events/lookup", {"event_ids": ["2", "3", "1", "2"]}, "viewer").content
    known = {"source": "sap-ecc", "stage": "ingestion", "occurred_at": render(NOW - HOUR)}
    assert found == {
        "items": [
            {"event_id": "2", **known, "amount": "7", "currency": "JPY", "applied": False},
            {"event_id": "1", **known, "amount": "10.00", "currency": "EUR", "applied": True},
        ],
        "next_cursor": None,
    }
    assert own_cell.ask("POST", "/events/lookup", {"event_ids": []}).pointers == {"/event_ids"}


def test_a_control_total_is_part_of_a_backup(own_cell: Cell, tmp_path: Path) -> None:
    state(own_cell, events=1)
    back_up(own_cell.folder, tmp_path / "copy")
    expected = own_cell.get("/control-totals")
    with own_cell.reader() as reader:
        kept = reader.control_totals()
    reader = open_reader(tmp_path / "copy")
    assert reader.control_totals() == kept and len(expected["items"]) == 1
    reader.close()

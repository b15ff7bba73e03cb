"""The commands that call a running cell: their output, effects and error messages."""

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from bems.cli import client
from bems.embedded.alerting.delivery import NotDelivered
from bems.embedded.api import views
from bems.tracker.control_totals import AlertMessage
from bems.tracker.requests import VERBS
from tests.cli.cli_harness import CliHarness, FakeResponse, RecordedRequest, StartFakeServer, event, run, running
from tests.waiting import until

STUCK = [f"INV/{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def finance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A cell with three invoices stuck in authorization, and one posted."""
    with running(tmp_path_factory.mktemp("finance")) as harness:
        for invoice_id in STUCK:
            harness.send(event(f"{invoice_id}-1", invoice_id=invoice_id))
        outcomes = {
            "ingestion": "received",
            "authorization": "approved",
            "reconciliation": "matched",
            "posting": "posted",
        }
        for stage, status in outcomes.items():
            harness.send(event(f"{stage}-4", status, "4711"), stage=stage)
        harness.advance_to("2026-03-06T09:00:00Z")
        until(lambda: len(stuck_of(harness)) == 3)
        yield harness


def stuck_of(harness: CliHarness, *options: str) -> list[dict[str, Any]]:
    found = harness.bems("stuck", "--json", *options).json
    assert set(found) == {"items", "more", "stuck", "parked", "stuck_amounts"}
    return list(found["items"])


def test_stuck_lists_the_longest_wait_first(finance: CliHarness) -> None:
    result = finance.bems("stuck", role="viewer")
    assert (result.code, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines() if line.strip().startswith("INV/")]
    assert [row[0] for row in rows] == STUCK
    assert rows[0][1:5] == ["authorization", "2026-03-02", "1", "warning"]
    assert "1,250.00 EUR" in result.out
    assert "Acme [GmbH]" in result.out
    assert result.out.endswith("\n3 are stuck: 3,750.00 EUR\n")


def test_lists_say_whether_there_are_more(finance: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = finance.bems("stuck", "--limit", "2").out
    assert shown.endswith("\n3 are stuck: 3,750.00 EUR; the first 2 are shown, see --limit\n")
    assert finance.bems("stuck", "--limit", "2", "--json").json["more"] is True
    assert finance.bems("stuck", "--stage", "posting").out == "none is stuck\n"
    monkeypatch.setattr(client, "MAX_PAGE_ITEMS", 1)
    assert [one["invoice_id"] for one in stuck_of(finance)] == STUCK
    assert finance.bems("stuck", "--limit", "3", "--json").json["more"] is False


def test_alerts_are_listed_and_filtered(finance: CliHarness) -> None:
    found = finance.bems("alerts", "--invoice", "INV/2", "--severity", "warning", "--stage", "authorization", "--json")
    (alert,) = found.json["items"]
    assert (alert["invoice_id"], alert["kind"], alert["step"]) == ("INV/2", "stuck", 1)
    shown = finance.bems("alerts", "--limit", "2")
    assert "authorization stuck, 1" in shown.out
    assert "2 alerts; there are more" in shown.out
    assert finance.bems("alerts", "--severity", "critical").out == "no alerts\n"


def test_an_invoice_is_shown_with_its_history(finance: CliHarness) -> None:
    result = finance.bems("invoice", "INV/1", role="viewer")
    assert (result.code, result.err) == (0, "")
    shown = [" ".join(line.split()) for line in result.out.splitlines()]
    for line in (
        "Invoice INV/1",
        "Status AwaitingAuthorization: ingested, not yet approved (stuck)",
        "Amount 1,250.00 EUR",
        "Vendor Acme [GmbH] (V-42)",
        "Alerts 1, the latest warning",
    ):
        assert line in shown
    assert any(line.startswith("Deadline 2026-03-05 10:00:0") for line in shown)
    happened = [
        line
        for line in shown
        if "ingestion received new > AwaitingAuthorization INV/1-1, occurred 2026-03-02 09:00:00" in line
    ]
    alerted = [line for line in shown if "alert 1 of authorization, warning" in line]
    assert shown.index(alerted[0]) < shown.index(happened[0]), "newest first"
    states = [line.split()[-1] for line in shown if line.endswith(("AwaitAuthorization", "AuthorizationStuck"))]
    assert states == ["AwaitAuthorization", "AuthorizationStuck", "AwaitAuthorization"]
    assert "TaskSubmitted" not in result.out
    assert "TaskSubmitted" in finance.bems("invoice", "INV/1", "--history").out


def test_json_of_an_invoice_is_the_cells_answer(finance: CliHarness) -> None:
    answer = finance.bems("invoice", "4711", "--json").json
    assert (answer["invoice_id"], answer["status"]) == ("4711", "Posted")
    assert {"transitions", "executions", "outcomes"} <= set(answer)
    assert "Posted: through all four stages" in " ".join(finance.bems("invoice", "4711").out.split())


def test_every_page_of_a_history_is_read(finance: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finance.bems("invoice", "INV/1", "--json").json["executions"]
    assert len(whole[0]["history"]) > 12
    assert whole[0]["next_cursor"] is None
    monkeypatch.setattr(views, "MAX_HISTORY_EVENTS", 5)
    monkeypatch.setattr(client, "MAX_PAGE_ITEMS", 4)
    assert finance.bems("invoice", "INV/1", "--json").json["executions"] == whole
    shown = finance.bems("invoice", "INV/1", "--history").out
    assert shown.count("StateEntered") >= 3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_statuses_are_retried_unless_retry_after_is_long(
    start_fake_server: StartFakeServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_PAUSES_SECONDS", (0.0, 0.0))
    fake_server = start_fake_server(
        lambda _: FakeResponse(status, b"<html>") if len(fake_server.requests) < 2 else FakeResponse(200, {"items": []})
    )
    assert run("alerts", BEMS_URL=fake_server.url).code == 0
    assert len(fake_server.requests) == 2
    late = start_fake_server(lambda _: FakeResponse(status, {"detail": "later"}, {"Retry-After": "60"}))
    assert "later" in run("alerts", BEMS_URL=late.url).error(1)
    assert len(late.requests) == 1, "a long Retry-After is not waited for"


@pytest.mark.parametrize("id", ["nope", "..", "a/../b", "%2e%2e", "a?b#c"])
def test_an_unknown_invoice_is_an_error(finance: CliHarness, id: str) -> None:
    assert finance.bems("invoice", id).error() == f'there is no invoice "{id}"'


def test_check_reports_a_balanced_cell(finance: CliHarness) -> None:
    result = finance.bems("check")
    assert result.code == 0
    shown = [" ".join(line.split()) for line in result.out.splitlines()]
    assert shown[0] == "Accepted events 7"
    assert shown[-1] == "Balanced yes"
    assert finance.bems("check", "--json").json["balanced"] is True


def test_dashboards_are_printed_for_a_period(finance: CliHarness) -> None:
    assert finance.bems("check").code == 0, "DuckDB has everything"
    answer = finance.bems("dashboard", "backlog", "--json").json
    assert answer["columns"] == ["status", "currency", "invoices", "amount"]
    assert ["Posted", "EUR", 1, "1250.00"] in answer["rows"]
    shown = finance.bems("dashboard", "backlog").out.splitlines()
    assert shown[1].split() == ["Status", "Invoices", "Amount"]
    assert ["Posted", "1", "1,250.00", "EUR"] in [line.split() for line in shown]
    volume = finance.bems("dashboard", "volume", "--by", "hour", "--json").json
    assert sum(row[3] for row in volume["rows"]) == 7
    assert finance.bems("dashboard", "volume", "--until", "2020-01-01").out.startswith("nothing from 2019-12-03T")
    for given, of in (
        (("--since", "2020-01-01", "--until", "2020-01-01"), "2020-01-01T00:00:00Z to 2020-01-02T00:00:00Z"),
        (
            ("--since", "2020-01-01T01:00:00+01:00", "--until", "2020-01-03T12:30:00Z"),
            "2020-01-01T00:00:00Z to 2020-01-03T12:30:00Z",
        ),
    ):
        assert finance.bems("dashboard", "volume", *given).out == f"nothing from {of}\n"
    assert (
        "'2020-01-01T00:00:00' is not a time"
        in finance.bems("dashboard", "volume", "--since", "2020-01-01T00:00:00").error()
    )


def test_check_exits_with_1_if_the_cell_is_not_balanced(start_fake_server: StartFakeServer) -> None:
    counts = dict.fromkeys(
        ("accepted", "applied", "dead_letters", "set_aside", "transitions", "analytics", "alerts", "alert_rows"), 1
    )
    balanced = [None, False]
    fake_server = start_fake_server(
        lambda _: FakeResponse(200, {**counts, "differences": [], "balanced": balanced.pop(0)})
    )
    result = run("check", BEMS_URL=fake_server.url)
    assert result.code == 1
    assert result.out.rstrip().endswith("no")
    assert len(fake_server.requests) == 2


def test_check_shows_differences_between_records_and_series(start_fake_server: StartFakeServer) -> None:
    counts = dict.fromkeys(
        ("accepted", "applied", "dead_letters", "set_aside", "transitions", "analytics", "alerts", "alert_rows"), 1
    )
    difference = {
        "status": "Posted",
        "currency": "JPY",
        "invoices": 1200,
        "series_invoices": 1199,
        "amount": "84120",
        "series_amount": "-9",
    }
    fake_server = start_fake_server(
        lambda _: FakeResponse(200, {**counts, "differences": [difference], "balanced": False})
    )
    result = run("check", BEMS_URL=fake_server.url)
    assert result.code == 1
    assert result.out.splitlines()[-1].split() == ["Posted", "1,200", "1,199", "84,120", "JPY", "-9", "JPY"]


def test_every_act_command(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"))
    done = harness.bems("act", "complete", "I", "--stage", "authorization", "--note", "by [mail]", role="operator")
    assert done.code == 0
    assert "Status: AwaitingReconciliation, approved, not yet matched" in done.out
    extended = harness.bems("act", "extend", "I", "--until", "2026-12-24T12:00:00+01:00")
    assert "Waits for reconciliation until 2026-12-24 11:00:00 UTC" in extended.out
    assert extended.out.endswith("\nNext alert: 2026-12-24 11:00:00 UTC\n")
    assert "no alert" in harness.bems("act", "acknowledge", "I").error()
    assert "; parked" in harness.bems("act", "park", "I", "--note", "x").out
    assert harness.bems("act", "park", "I", "--note", "x").error() == "the invoice is parked: revive it first"
    revived = harness.bems("act", "revive", "I", "--command-id", "once", "--json").json
    assert (revived["command_id"], revived["status"]) == ("once", "accepted")
    assert revived["invoice"]["status"] == "AwaitingReconciliation"
    assert "transitions" not in revived["invoice"]
    assert "revive I: already done (command once)" in harness.bems("act", "revive", "I", "--command-id", "once").out
    assert (
        "another command has used the id once"
        in harness.bems("act", "note", "I", "--note", "x", "--command-id", "once").error()
    )
    assert "Status: Cancelled" in harness.bems("act", "cancel", "I", "--note", "x").out
    shown = harness.bems("invoice", "I").out
    assert "complete authorization" in shown
    assert "by [mail]" in shown
    assert "J" in harness.bems("act", "park", "J", "--note", "x").error()
    assert "/note" in harness.bems("act", "park", "I", "--note", "x" * 1001).error()


@pytest.mark.parametrize("command", ["complete I --stage posting", "cancel I", "park I J", "note I"])
@pytest.mark.parametrize("note", [(), ("--note", " ")])
def test_some_commands_need_a_note(command: str, note: tuple[str, ...]) -> None:
    assert run("act", *command.split(), *note).error() == 'say why: use --note "..."'


def test_a_snooze_says_until_when(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"))
    early = harness.bems("act", "snooze", "I", "--until", "+1h").error()
    assert early.startswith("a snooze must end after 2026-03-05T10:00:")
    for end, shown in (("2026-03-06T09:00:00Z", "2026-03-06 09:00:00 UTC"), ("+5d", "2026-03-07 10:00:")):
        done = harness.bems("act", "snooze", "I", "--until", end).out.splitlines()
        assert done[1].startswith(f"No alerts until: {shown}")
        assert done[1].endswith(" UTC (5d from now)" if end == "+5d" else " UTC")
        assert done[-1].startswith(f"Next alert: {shown}")
    assert (
        "No alerts until: 2026-03-08 09:00:00 UTC"
        in harness.bems("act", "snooze", "I", "J", "--until", "2026-03-08T09:00:00Z").out
    )
    facts = harness.bems("invoice", "I").out
    assert re.search(r"^Next alert +2026-03-08 09:00:00 UTC, snoozed until then$", facts, re.MULTILINE)
    assert re.search(r"^Deadline +2026-03-05 10:00:\d\d UTC$", facts, re.MULTILINE)


def test_an_invoice_is_assigned(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"), event("f", invoice_id="J"))
    assert "\nAssigned to Jane [Doe]\n" in harness.bems("act", "assign", "I", "--to", "Jane [Doe]").out
    assert (
        harness.bems("act", "assign", "I", "--to", "Jane [Doe]").error().startswith("the invoice is already assigned")
    )
    assert re.search(r"^Assigned to +Jane \[Doe\]$", harness.bems("invoice", "I").out, re.MULTILINE)
    assert "\nAssigned to nobody\n" in harness.bems("act", "assign", "I", "--nobody").out
    assert "Assigned to" not in harness.bems("invoice", "I").out
    both = harness.bems("act", "assign", "--from", "-", "--to", "kim", "--json", stdin=b"I\nJ\n").json
    assert (both["assignee"], [one["result"] for one in both["results"]]) == ("kim", ["done", "done"])
    assert {one["assignee"] for one in both_invoices(harness)} == {"kim"}
    for options in ((), ("--to", "kim", "--nobody")):
        message = harness.bems("act", "assign", "I", *options).error()
        assert message == "say to whom: use --to NAME, or --nobody"


def both_invoices(harness: CliHarness) -> list[Any]:
    return [harness.bems("invoice", id, "--json").json for id in ("I", "J")]


def test_a_note_is_shown_with_the_invoice(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"), event("f", invoice_id="J"))
    harness.bems("act", "note", "I", "J", "--note", "asked [Acme] twice", role="operator")
    assert {one["note"]["text"] for one in both_invoices(harness)} == {"asked [Acme] twice"}
    shown = harness.bems("invoice", "I").out
    assert re.search(r"^Note +asked \[Acme\] twice \(the-operator, 2026-03-02 10:00:\d\d UTC\)$", shown, re.MULTILINE)
    assert re.search(r"^2026-03-02 10:00:\d\d +note by the-operator +AwaitingAuthorization ", shown, re.MULTILINE)
    harness.bems("act", "assign", "I", "--to", "kim")
    assert "asked [Acme] twice (the-operator, " in harness.bems("invoice", "I").out, "a command without a note keeps it"


def test_a_date_means_the_end_of_that_day_in_local_time(harness: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        harness.send(event("e", invoice_id="I"))
        assert "until 2026-12-25 05:00:00 UTC" in harness.bems("act", "extend", "I", "--until", "2026-12-24").out
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_command_is_retried_with_the_same_id(
    start_fake_server: StartFakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_PAUSES_SECONDS", (0.0, 0.0))
    command_ids: list[str] = []

    def answer(request: RecordedRequest) -> FakeResponse | None:
        if request.method == "GET":
            return FakeResponse(404, {"detail": "there is no invoice"})
        command_ids.append(json.loads(request.body)["command_id"])
        return (
            None if len(command_ids) < 3 else FakeResponse(200, {"command_id": command_ids[0], "status": "duplicate"})
        )

    assert run("act", "park", "I", "--note", "x", BEMS_URL=start_fake_server(answer).url).code == 2
    assert len(command_ids) == 3
    assert len(set(command_ids)) == 1

    message = run("act", "park", "I", "--note", "x", BEMS_URL=start_fake_server(lambda _: None).url).error(1)
    assert "the connection was lost before a response arrived" in message
    assert "repeat it safely with --command-id cli-" in message


def test_keys_are_created_listed_and_revoked(harness: CliHarness) -> None:
    made = harness.bems("keys", "add", "sap", "--role", "sender")
    assert (made.code, made.err) == (0, "")
    text = made.out.strip()
    assert (
        run("stuck", "--url", harness.url, "--key", text).error().startswith("the key is wrong, revoked, or of another")
    )
    assert harness.service.keys.verify(text)
    assert "there is already a key sap" in harness.bems("keys", "add", "sap", "--role", "viewer").error()
    assert "sap" in harness.bems("keys", "list").out
    listed = harness.bems("keys", "list", "--json").json["items"]
    assert {(key["name"], key["role"]) for key in listed} == {("the-admin", "admin"), ("sap", "sender")}
    assert "revoked at" in harness.bems("keys", "revoke", "sap").out
    assert not harness.service.keys.verify(text)
    assert "there is no key sap; bems keys list" in harness.bems("keys", "revoke", "sap").error()
    again = harness.bems("keys", "add", "sap", "--role", "viewer", "--json").json
    assert harness.bems("keys", "revoke", again["key"]["id"], "--json").json["revoked_by"] == "the-admin"
    assert "the last admin key" in harness.bems("keys", "revoke", "the-admin").error()


def test_a_key_is_created_in_the_folder_of_a_stopped_cell(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    text = run("keys", "add", "root", "--role", "admin", "--store", str(folder)).out.strip()
    with running(folder) as harness:
        assert run("keys", "list", "--url", harness.url, "--key", text).code == 0
        message = run("keys", "add", "other", "--role", "admin", "--store", str(folder)).error()
        assert "is in use: another cell runs on this folder; --store needs a stopped cell" in message
    assert (
        "there is already a key root" in run("keys", "add", "root", "--role", "admin", "--store", str(folder)).error()
    )
    made = run("keys", "add", "two", "--role", "viewer", "--store", str(folder), "--json").json
    assert (made["key"]["name"], made["key"]["created_by"]) == ("two", "bems keys")
    (tmp_path / "file").write_text("")
    assert (
        str(tmp_path / "file") in run("keys", "add", "a", "--role", "admin", "--store", str(tmp_path / "file")).error()
    )


def test_dead_letters_are_listed_and_redriven(harness: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("tariff")

    cell = harness.service.writer._cell
    with monkeypatch.context() as patch:
        for name in ("handle_event", "redrive"):
            patch.setattr(cell, name, broken)
        harness.send(*(event(f"e{number}", invoice_id=f"I{number}") for number in range(5)))
        letters = harness.bems("dlq", "list", role="operator")
        assert letters.code == 0
        assert "tariff" in letters.out
        assert letters.out.endswith("5 dead letters\n")
        assert [one["event_id"] for one in harness.bems("dlq", "list", "--invoice", "I3", "--json").json["items"]] == [
            "e3"
        ]
        again = harness.bems("dlq", "redrive", "--error", "tariff", "--invoice", "I3")
        assert again.code == 1
        assert "Redriving 1 dead letter of invoice I3 with 'tariff' in its error" in again.out
        assert "e3 failed: KeyError" in again.out
        assert "0 handled, 1 failed" in again.out
        assert "5 dead letters" in harness.bems("dlq", "list").out
    one = harness.bems("dlq", "redrive", "e0", "e0")
    assert (one.code, one.out) == (0, "Redriving 1 dead letter: e0\n1 handled, 0 failed\n")
    rest = harness.bems("dlq", "redrive", "--all", "--json")
    assert (rest.code, rest.json) == (0, {"redriven": ["e1", "e2", "e3", "e4"], "failed": []})
    assert harness.bems("dlq", "list").out == "no dead letters\n"
    assert harness.bems("dlq", "redrive", "--all").out == "0 handled, 0 failed\n"
    none = harness.bems("dlq", "redrive", *(f"none-{number}" for number in range(1_001)))
    assert none.code == 1
    assert "none-1000 failed: there is no dead letter none-1000\n0 handled, 1,001 failed\n" in none.out
    assert harness.bems("dlq", "redrive").error().startswith("choose one: ")
    assert harness.bems("dlq", "redrive", "e0", "--all").error().startswith("choose one: ")


class UnavailableDestination:
    """A destination that accepts no alert."""

    key = "webhook https://example.com"

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.is_unavailable = True

    def send(self, alert: AlertMessage) -> None:
        if self.is_unavailable:
            raise NotDelivered("it is [down]", outage=False)
        self.delivered.append(alert.id)


def test_undelivered_alerts_are_listed_and_retried(tmp_path: Path) -> None:
    destination = UnavailableDestination()
    with running(tmp_path, destinations={"warning": [destination], "critical": [destination]}) as harness:
        harness.send(event("e", invoice_id="I"))
        harness.advance_to("2026-03-06T09:00:00Z")
        waiting = until(lambda: [one for one in harness.bems("deliveries", "--json").json["items"] if one["error"]])
        assert (waiting[0]["destination"], waiting[0]["state"]) == (destination.key, "waiting")
        shown = harness.bems("deliveries", "--state", "waiting", role="viewer")
        assert "it is [down]" in shown.out
        assert shown.out.endswith("1 undelivered alert\n")
        assert harness.bems("deliveries", "--state", "failed").out == "no undelivered alerts\n"
        assert harness.bems("deliveries", "--retry", "--json").json == {"deliveries": 0}
        assert harness.bems("deliveries", "--retry").out == "no undelivered alerts will be retried\n"
        assert "this requires an operator or admin key" in harness.bems("deliveries", "--retry", role="viewer").error()


def test_deliveries_are_listed_over_pages_and_states(start_fake_server: StartFakeServer) -> None:
    delivery = {
        "alert_id": "a", "invoice_id": "I", "destination": "log", "attempts": 1, "due": "now", "error": None,
    }  # fmt: skip

    def answer(request: RecordedRequest) -> FakeResponse:
        query = dict(parse_qsl(request.path.partition("?")[2]))
        begin, count = int(query.get("cursor", 0)), 500 if query["state"] == "failed" else 0
        end = min(begin + int(query["limit"]), count)
        items = [{**delivery, "state": query["state"]}] * (end - begin)
        return FakeResponse(
            200, {"items": items, "next_cursor": str(end) if end - begin == int(query["limit"]) else None}
        )

    fake_server = start_fake_server(answer)
    for limit, shown, more in ((1000, 500, False), (500, 500, False), (499, 499, True)):
        listed = run("deliveries", "--json", "--limit", str(limit), "--url", fake_server.url).json
        assert (len(listed["items"]), listed["more"]) == (shown, more)


def test_a_key_of_another_role_is_refused(finance: CliHarness) -> None:
    for arguments, role, needed in (
        (["stuck"], "sender", "a viewer, operator or admin"),
        (["act", "park", "INV/1", "--note", "x"], "viewer", "an operator or admin"),
        (["dlq", "list"], "viewer", "an operator or admin"),
        (["keys", "list"], "operator", "an admin"),
    ):
        message = finance.bems(*arguments, role=role).error()  # type: ignore[arg-type]
        assert message.startswith("the key is wrong, revoked, or of another role: ")
        assert f"this requires {needed} key in BEMS_API_KEY (or --key)" in message
    message = run("stuck", "--url", finance.url).error()
    assert message.startswith("no key was given: ")
    assert message.endswith("bems keys add NAME --role viewer")


@pytest.mark.parametrize(
    ("response", "code", "message"),
    [
        (
            FakeResponse(400, {"detail": "no", "errors": [{"pointer": "/limit", "detail": "7 is\nbad"}]}),
            2,
            "no: /limit: 7 is\ufffdbad",
        ),
        (FakeResponse(404, {"detail": "nothing"}), 2, "nothing"),
        (FakeResponse(409, {"detail": "not now"}), 2, "not now"),
        (FakeResponse(403, {"message": "Forbidden"}), 2, "no key was given: "),
        (FakeResponse(429, {"detail": "too many"}), 1, "URL: too many"),
        (FakeResponse(500, {"detail": "our fault"}), 1, "URL: our fault"),
        (FakeResponse(503, {"detail": "later"}), 1, "URL: later"),
        (FakeResponse(502, b"<html>"), 1, "URL: the response is 502, text/html, not a cell's JSON; is this"),
        (FakeResponse(200, b"<html>"), 1, "URL: the response is 200, text/html, not a cell's JSON; is this"),
        (
            FakeResponse(200, b'{"detail": "\xff"}'),
            1,
            "URL: the response is 200, text/html, not a cell's JSON; is this",
        ),
        (
            FakeResponse(200, b'{"items":' + b"[" * 100_000),
            1,
            "URL: the response is 200, text/html, not a cell's JSON",
        ),
        (
            FakeResponse(500, b'{"x":' + b"[" * 100_000),
            1,
            "URL: the response is 500, text/html, not a cell's JSON",
        ),
        (FakeResponse(200, {"hello": 1}), 1, "the response is not from a cell, or from another version"),
        (FakeResponse(200, []), 1, "the response is not from a cell, or from another version"),
        (
            FakeResponse(301, b"", {"location": "https://elsewhere/"}),
            1,
            "URL: the response is 301, a redirect to https",
        ),
    ],
)
def test_unexpected_responses_are_reported_in_one_line(
    start_fake_server: StartFakeServer, response: FakeResponse, code: int, message: str
) -> None:
    fake_server = start_fake_server(lambda _: response)
    for command in (["stuck"], ["invoice", "I"], ["check"], ["stuck", "--json"]):
        assert run(*command, "--url", fake_server.url).error(code).startswith(message.replace("URL", fake_server.url))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stuck", "--url", "ftp://host"], "'ftp://host' is not a URL with http:// or https://"),
        (["stuck", "--url", "localhost"], "'localhost' is not a URL with http"),
        (["stuck", "--url", "http://[::1"], "'http://[::1' is not a URL"),
        (["stuck", "--url", "http://u:p@host"], "the URL may have only a host and a path"),
        (["stuck", "--url", "http://host/?a=b"], "the URL may have only a host and a path"),
        (["stuck", "--key", "a\nb"], "the key has invalid characters"),
        (["stuck", "--limit", "0"], "Invalid value for '--limit'"),
        (["stuck", "--stage", "payment"], "Invalid value for '--stage'"),
        (["invoice"], "Missing argument 'ID'"),
        (["act", "complete", "I"], "Missing option '--stage'"),
        (["act", "extend", "I", "--until", "soon"], "'soon' is not a time"),
        (["keys", "add", "x", "--role", "boss"], "Invalid value for '--role'"),
        (["act", "fly"], "No such command 'fly'"),
    ],
)
def test_usage_errors_are_reported_in_one_line(arguments: list[str], message: str) -> None:
    assert message in run(*arguments).error()


def test_an_unreachable_cell_is_reported() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        message = run("stuck", BEMS_URL=url).error(1)
        assert message == f"{url}: connection refused; is the cell running? start one with bems up"
        listening.listen()
        listening.setblocking(True)
        assert "the response timed out" in run_with_short_timeout(url)
    assert "the host name does not exist or cannot be resolved" in run(
        "stuck", "--url", "http://no.such.host.invalid"
    ).error(1)


def run_with_short_timeout(url: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "READ_TIMEOUT_SECONDS", 0.1)
        return run("stuck", BEMS_URL=url).error(1)


def test_an_untrusted_certificate_is_reported(start_fake_server: StartFakeServer, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    fake_server = start_fake_server(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    plain = fake_server.url
    assert "TLS: " in run("stuck", "--url", plain.replace("http:", "https:")).error(1)
    fake_server.enable_tls(context)
    url = plain.replace("http:", "https:")
    assert "TLS: the certificate is not trusted: self-signed certificate" in run("stuck", "--url", url).error(1)
    assert run("stuck", "--url", url, SSL_CERT_FILE=str(certificate / "cert.pem")).out == "none is stuck\n"


def test_the_url_may_have_a_path(start_fake_server: StartFakeServer) -> None:
    fake_server = start_fake_server(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    for url in (f"{fake_server.url}/prod", f"{fake_server.url}/prod/"):
        assert run("stuck", "--url", url, "--key", " a-key ").code == 0
    assert {request.path.partition("?")[0] for request in fake_server.requests} == {"/prod/invoices", "/prod/totals"}
    assert {request.headers["x-api-key"] for request in fake_server.requests} == {"a-key"}


def test_a_proxy_is_used_for_a_remote_cell(start_fake_server: StartFakeServer) -> None:
    proxy = start_fake_server(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    assert run("stuck", "--url", "http://cell.example/prod", http_proxy=proxy.url, no_proxy="").code == 0
    assert proxy.requests[0].path.startswith("http://cell.example/prod/invoices?stuck=true")
    assert proxy.requests[0].headers["Host"] == "cell.example"


@pytest.mark.parametrize(
    ("scheme", "proxy"),
    [
        ("http", "socks5://u:pw@p:1"),
        ("http", "http://u:pw@p:99999"),
        ("http", "http://:1"),
        ("http", "http://"),
        ("https", "ftp://p"),
    ],
)
def test_an_unusable_proxy_is_reported_without_its_password(scheme: str, proxy: str) -> None:
    environment: dict[str, Any] = {f"{scheme}_proxy": proxy, "no_proxy": ""}
    message = run("stuck", "--url", f"{scheme}://cell.example", **environment).error()
    assert message.startswith(f"the proxy of this machine, such as {scheme}_proxy in the environment, cannot be used")
    assert "pw" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["invoice", "INV-\udcff"],
        ["alerts", "--invoice", "INV-\udcff"],
        ["act", "park", "INV-\udcff", "--note", "x"],
        ["keys", "add", "INV-\udcff", "--role", "viewer"],
        ["dlq", "redrive", "INV-\udcff", "--json"],
    ],
)
def test_an_argument_that_is_not_utf_8_is_an_error(arguments: list[str]) -> None:
    assert run(*arguments).error() == "'INV-\ufffd' is not UTF-8 text"


def test_a_query_is_retried_once_if_the_connection_is_lost(start_fake_server: StartFakeServer) -> None:
    answers = [None, FakeResponse(200, {"items": [], "next_cursor": None})]
    fake_server = start_fake_server(lambda _: answers.pop(0))
    assert run("alerts", "--url", fake_server.url).code == 0
    assert len(fake_server.requests) == 2
    fake_server = start_fake_server(lambda _: None)
    assert "lost before a response arrived" in run("alerts", "--url", fake_server.url).error(1)
    assert len(fake_server.requests) == 2


def test_a_server_that_does_not_speak_http_is_reported() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def greet() -> None:
            connection, _ = listening.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "the server at this address does not speak HTTP" in run("stuck", "--url", url).error(1)
        thread.join()


@pytest.mark.parametrize(
    "command",
    ["send", "invoice", "stuck", "alerts", "dashboard", "deliveries", "check", "dlq list", "dlq redrive"]
    + ["keys list", "keys add", "keys revoke"]
    + [f"act {verb}" for verb in VERBS],
)
def test_every_command_shows_an_example(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.code == 0
    assert f"Example: bems {command}" in shown.out
    assert "BEMS_URL" in shown.out
    assert "can see the option in ps" in " ".join(shown.out.split())

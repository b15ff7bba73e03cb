"""The commands that talk with a running cell: what they show, what they do, and how they tell what went wrong."""

import json
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
from bems.tracker.actions import Alert
from tests.cli.cli_harness import CliHarness, FakeResponse, Play, RecordedRequest, event, run, running
from tests.waiting import until

STUCK = [f"INV/{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def finance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """Three invoices that are stuck in authorization, and one that is through."""
    with running(tmp_path_factory.mktemp("finance")) as world:
        for invoice_id in STUCK:
            world.send(event(f"{invoice_id}-1", invoice_id=invoice_id))
        through = {
            "ingestion": "received",
            "authorization": "approved",
            "reconciliation": "matched",
            "posting": "posted",
        }
        for stage, status in through.items():
            world.send(event(f"{stage}-4", status, "4711"), stage=stage)
        world.go_on_to("2026-03-06T09:00:00Z")
        until(lambda: len(stuck_of(world)) == 3)
        yield world


def stuck_of(world: CliHarness, *options: str) -> list[dict[str, Any]]:
    found = world.bems("stuck", "--json", *options).json
    assert set(found) == {"items", "more", "stuck", "parked", "stuck_amounts"}
    return list(found["items"])


def test_stuck_shows_the_longest_waiting_first(finance: CliHarness) -> None:
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
    monkeypatch.setattr(client, "PAGE", 1)
    assert [one["invoice_id"] for one in stuck_of(finance)] == STUCK
    assert finance.bems("stuck", "--limit", "3", "--json").json["more"] is False


def test_alerts_are_listed_and_narrowed_down(finance: CliHarness) -> None:
    found = finance.bems("alerts", "--invoice", "INV/2", "--severity", "warning", "--stage", "authorization", "--json")
    (alert,) = found.json["items"]
    assert (alert["invoice_id"], alert["kind"], alert["step"]) == ("INV/2", "stuck", 1)
    shown = finance.bems("alerts", "--limit", "2")
    assert "authorization stuck, 1" in shown.out
    assert "2 alerts; there are more" in shown.out
    assert finance.bems("alerts", "--severity", "critical").out == "no alerts\n"


def test_an_invoice_is_shown_with_all_that_happened_to_it(finance: CliHarness) -> None:
    result = finance.bems("invoice", "INV/1", role="viewer")
    assert (result.code, result.err) == (0, "")
    shown = [" ".join(line.split()) for line in result.out.splitlines()]
    for line in (
        "Invoice INV/1",
        "Status AwaitingAuthorization: ingested, not yet approved (stuck)",
        "Amount 1,250.00 EUR",
        "Vendor Acme [GmbH] (V-42)",
        "Alerts out 1, the newest warning",
    ):
        assert line in shown
    assert any(line.startswith("Deadline 2026-03-05 10:00:0") for line in shown)
    happened = [
        line
        for line in shown
        if "ingestion received new > AwaitingAuthorization INV/1-1, occurred 2026-03-02 09:00:00" in line
    ]
    alerted = [line for line in shown if "alert 1 of authorization, warning" in line]
    assert shown.index(alerted[0]) < shown.index(happened[0]), "the newest first"
    states = [line.split()[-1] for line in shown if line.endswith(("AwaitAuthorization", "AuthorizationStuck"))]
    assert states == ["AwaitAuthorization", "AuthorizationStuck", "AwaitAuthorization"]
    assert "TaskSubmitted" not in result.out
    assert "TaskSubmitted" in finance.bems("invoice", "INV/1", "--history").out


def test_an_invoice_in_json_is_what_the_cell_answered(finance: CliHarness) -> None:
    answer = finance.bems("invoice", "4711", "--json").json
    assert (answer["invoice_id"], answer["status"]) == ("4711", "Posted")
    assert {"transitions", "executions", "outcomes"} <= set(answer)
    assert "Posted: through all four stages" in " ".join(finance.bems("invoice", "4711").out.split())


def test_a_long_history_is_read_to_its_end(finance: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finance.bems("invoice", "INV/1", "--json").json["executions"]
    assert len(whole[0]["history"]) > 12
    assert whole[0]["next_cursor"] is None
    monkeypatch.setattr(views, "MAX_HISTORY_EVENTS", 5)
    monkeypatch.setattr(client, "PAGE", 4)
    assert finance.bems("invoice", "INV/1", "--json").json["executions"] == whole
    shown = finance.bems("invoice", "INV/1", "--history").out
    assert shown.count("StateEntered") >= 3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_answered_another_time_is_asked_again(
    play: Play, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0))
    played = play(
        lambda _: FakeResponse(status, b"<html>") if len(played.asked) < 2 else FakeResponse(200, {"items": []})
    )
    assert run("alerts", BEMS_URL=played.url).code == 0
    assert len(played.asked) == 2
    late = play(lambda _: FakeResponse(status, {"detail": "later"}, {"Retry-After": "60"}))
    assert "later" in run("alerts", BEMS_URL=late.url).mistake(1)
    assert len(late.asked) == 1, "nobody is kept waiting for a minute"


@pytest.mark.parametrize("id", ["nope", "..", "a/../b", "%2e%2e", "a?b#c"])
def test_an_invoice_that_is_not_there(finance: CliHarness, id: str) -> None:
    assert finance.bems("invoice", id).mistake() == f'there is no invoice "{id}"'


def test_the_books_are_balanced(finance: CliHarness) -> None:
    result = finance.bems("check")
    assert result.code == 0
    shown = [" ".join(line.split()) for line in result.out.splitlines()]
    assert shown[0] == "Accepted events 7"
    assert shown[-1] == "Balanced yes"
    assert finance.bems("check", "--json").json["balanced"] is True


def test_a_dashboard(finance: CliHarness) -> None:
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
        in finance.bems("dashboard", "volume", "--since", "2020-01-01T00:00:00").mistake()
    )


def test_books_that_are_not_balanced_give_1(play: Play) -> None:
    counts = dict.fromkeys(
        ("accepted", "applied", "dead_letters", "set_aside", "transitions", "analytics", "alerts", "alert_rows"), 1
    )
    balanced = [None, False]
    played = play(lambda _: FakeResponse(200, {**counts, "differences": [], "balanced": balanced.pop(0)}))
    result = run("check", BEMS_URL=played.url)
    assert result.code == 1
    assert result.out.rstrip().endswith("no")
    assert len(played.asked) == 2


def test_books_show_where_records_and_series_differ(play: Play) -> None:
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
    played = play(lambda _: FakeResponse(200, {**counts, "differences": [difference], "balanced": False}))
    result = run("check", BEMS_URL=played.url)
    assert result.code == 1
    assert result.out.splitlines()[-1].split() == ["Posted", "1,200", "1,199", "84,120", "JPY", "-9", "JPY"]


def test_every_act(world: CliHarness) -> None:
    world.send(event("e", invoice_id="I"))
    done = world.bems("act", "complete", "I", "--stage", "authorization", "--note", "by [mail]", role="operator")
    assert done.code == 0
    assert "Status: AwaitingReconciliation, approved, not yet matched" in done.out
    extended = world.bems("act", "extend", "I", "--until", "2026-12-24T12:00:00+01:00")
    assert "Waits for reconciliation until 2026-12-24 11:00:00 UTC" in extended.out
    assert extended.out.endswith("\nNext alert: 2026-12-24 11:00:00 UTC\n")
    assert "no alert" in world.bems("act", "acknowledge", "I").mistake()
    assert "; parked" in world.bems("act", "park", "I").out
    assert world.bems("act", "park", "I").mistake() == "the invoice is parked: revive it first"
    revived = world.bems("act", "revive", "I", "--command-id", "once", "--json").json
    assert (revived["command_id"], revived["status"]) == ("once", "accepted")
    assert revived["invoice"]["status"] == "AwaitingReconciliation"
    assert "transitions" not in revived["invoice"]
    assert (
        "revive I: had been done before (command once)" in world.bems("act", "revive", "I", "--command-id", "once").out
    )
    assert "another command has used the id once" in world.bems("act", "park", "I", "--command-id", "once").mistake()
    assert "Status: Cancelled" in world.bems("act", "cancel", "I", "--note", "x").out
    shown = world.bems("invoice", "I").out
    assert "complete authorization" in shown
    assert "by [mail]" in shown
    assert "J" in world.bems("act", "park", "J").mistake()
    assert "/note" in world.bems("act", "park", "I", "--note", "x" * 1001).mistake()


def test_a_date_is_the_end_of_that_day_here(world: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        world.send(event("e", invoice_id="I"))
        assert "until 2026-12-25 05:00:00 UTC" in world.bems("act", "extend", "I", "--until", "2026-12-24").out
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_command_is_repeated_under_the_same_id(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0))
    heard: list[str] = []

    def answer(asked: RecordedRequest) -> FakeResponse | None:
        if asked.method == "GET":
            return FakeResponse(404, {"detail": "there is no invoice"})
        heard.append(json.loads(asked.body)["command_id"])
        return None if len(heard) < 3 else FakeResponse(200, {"command_id": heard[0], "status": "duplicate"})

    assert run("act", "park", "I", BEMS_URL=play(answer).url).code == 2
    assert len(heard) == 3
    assert len(set(heard)) == 1

    told = run("act", "park", "I", BEMS_URL=play(lambda _: None).url).mistake(1)
    assert "the connection was cut before an answer came" in told
    assert "repeat it with --command-id cli-" in told


def test_keys_are_made_listed_and_revoked(world: CliHarness) -> None:
    made = world.bems("keys", "add", "sap", "--role", "sender")
    assert (made.code, made.err) == (0, "")
    text = made.out.strip()
    assert (
        run("stuck", "--url", world.url, "--key", text).mistake().startswith("the key is wrong, revoked, or of another")
    )
    assert world.service.keys.verify(text)
    assert "there is already a key sap" in world.bems("keys", "add", "sap", "--role", "viewer").mistake()
    assert "sap" in world.bems("keys", "list").out
    listed = world.bems("keys", "list", "--json").json["items"]
    assert {(key["name"], key["role"]) for key in listed} == {("the-admin", "admin"), ("sap", "sender")}
    assert "revoked at" in world.bems("keys", "revoke", "sap").out
    assert not world.service.keys.verify(text)
    assert "there is no key sap; bems keys list" in world.bems("keys", "revoke", "sap").mistake()
    again = world.bems("keys", "add", "sap", "--role", "viewer", "--json").json
    assert world.bems("keys", "revoke", again["key"]["id"], "--json").json["revoked_by"] == "the-admin"
    assert "the last admin key" in world.bems("keys", "revoke", "the-admin").mistake()


def test_a_key_is_made_in_the_folder_of_a_cell_that_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    text = run("keys", "add", "root", "--role", "admin", "--store", str(folder)).out.strip()
    with running(folder) as world:
        assert run("keys", "list", "--url", world.url, "--key", text).code == 0
        told = run("keys", "add", "other", "--role", "admin", "--store", str(folder)).mistake()
        assert "is in use: another cell runs on this folder; --store is for one that does not run" in told
    assert (
        "there is already a key root" in run("keys", "add", "root", "--role", "admin", "--store", str(folder)).mistake()
    )
    made = run("keys", "add", "two", "--role", "viewer", "--store", str(folder), "--json").json
    assert (made["key"]["name"], made["key"]["created_by"]) == ("two", "bems keys")
    (tmp_path / "file").write_text("")
    assert (
        str(tmp_path / "file")
        in run("keys", "add", "a", "--role", "admin", "--store", str(tmp_path / "file")).mistake()
    )


def test_dead_letters_are_listed_and_redriven(world: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("tariff")

    cell = world.service.writer._cell
    with monkeypatch.context() as trouble:
        for name in ("handle_event", "redrive"):
            trouble.setattr(cell, name, broken)
        world.send(*(event(f"e{number}", invoice_id=f"I{number}") for number in range(5)))
        letters = world.bems("dlq", "list", role="operator")
        assert letters.code == 0
        assert "tariff" in letters.out
        assert letters.out.endswith("5 dead letters\n")
        assert [one["event_id"] for one in world.bems("dlq", "list", "--invoice", "I3", "--json").json["items"]] == [
            "e3"
        ]
        again = world.bems("dlq", "redrive", "--error", "tariff", "--invoice", "I3")
        assert again.code == 1
        assert "To be handled again: 1 dead letter of invoice I3 with 'tariff' in its error" in again.out
        assert "e3 was not handled: KeyError" in again.out
        assert "0 handled, 1 not" in again.out
        assert "5 dead letters" in world.bems("dlq", "list").out
    one = world.bems("dlq", "redrive", "e0", "e0")
    assert (one.code, one.out) == (0, "To be handled again: 1 dead letter: e0\n1 handled, 0 not\n")
    rest = world.bems("dlq", "redrive", "--all", "--json")
    assert (rest.code, rest.json) == (0, {"redriven": ["e1", "e2", "e3", "e4"], "failed": []})
    assert world.bems("dlq", "list").out == "no dead letters\n"
    assert world.bems("dlq", "redrive", "--all").out == "0 handled, 0 not\n"
    none = world.bems("dlq", "redrive", *(f"none-{number}" for number in range(1_001)))
    assert none.code == 1
    assert "none-1000 was not handled: there is no dead letter none-1000\n0 handled, 1,001 not\n" in none.out
    assert world.bems("dlq", "redrive").mistake().startswith("say which: ")
    assert world.bems("dlq", "redrive", "e0", "--all").mistake().startswith("say which: ")


class Deaf:
    """A destination that takes nothing."""

    key = "webhook https://example.com"

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.deaf = True

    def send(self, alert: Alert) -> None:
        if self.deaf:
            raise NotDelivered("it is [deaf]", outage=False)
        self.taken.append(alert.id)


def test_deliveries_that_a_destination_has_not_taken(tmp_path: Path) -> None:
    deaf = Deaf()
    with running(tmp_path, destinations={"warning": [deaf], "critical": [deaf]}) as world:
        world.send(event("e", invoice_id="I"))
        world.go_on_to("2026-03-06T09:00:00Z")
        waiting = until(lambda: [one for one in world.bems("deliveries", "--json").json["items"] if one["error"]])
        assert (waiting[0]["destination"], waiting[0]["state"]) == (deaf.key, "waiting")
        shown = world.bems("deliveries", "--state", "waiting", role="viewer")
        assert "it is [deaf]" in shown.out
        assert shown.out.endswith("1 undelivered alert\n")
        assert world.bems("deliveries", "--state", "failed").out == "no undelivered alerts\n"
        assert world.bems("deliveries", "--retry", "--json").json == {"deliveries": 0}
        assert world.bems("deliveries", "--retry").out == "no undelivered alerts to be tried again\n"
        assert (
            "this needs the key of an operator or admin" in world.bems("deliveries", "--retry", role="viewer").mistake()
        )


def test_as_many_deliveries_as_a_page_holds_are_all(play: Play) -> None:
    """Of both states, over as many pages as it takes."""
    delivery = {
        "alert_id": "a", "invoice_id": "I", "destination": "log", "attempts": 1, "due": "now", "error": None,
    }  # fmt: skip

    def answer(asked: RecordedRequest) -> FakeResponse:
        query = dict(parse_qsl(asked.path.partition("?")[2]))
        begin, there = int(query.get("cursor", 0)), 500 if query["state"] == "failed" else 0
        end = min(begin + int(query["limit"]), there)
        items = [{**delivery, "state": query["state"]}] * (end - begin)
        return FakeResponse(
            200, {"items": items, "next_cursor": str(end) if end - begin == int(query["limit"]) else None}
        )

    played = play(answer)
    for limit, shown, more in ((1000, 500, False), (500, 500, False), (499, 499, True)):
        listed = run("deliveries", "--json", "--limit", str(limit), "--url", played.url).json
        assert (len(listed["items"]), listed["more"]) == (shown, more)


def test_a_key_that_may_not(finance: CliHarness) -> None:
    for arguments, role, needed in (
        (["stuck"], "sender", "a viewer, operator or admin"),
        (["act", "park", "INV/1"], "viewer", "an operator or admin"),
        (["dlq", "list"], "viewer", "an operator or admin"),
        (["keys", "list"], "operator", "an admin"),
    ):
        told = finance.bems(*arguments, role=role).mistake()  # type: ignore[arg-type]
        assert told.startswith("the key is wrong, revoked, or of another role: ")
        assert f"this needs the key of {needed} in BEMS_API_KEY (or --key)" in told
    told = run("stuck", "--url", finance.url).mistake()
    assert told.startswith("no key was given: ")
    assert told.endswith("bems keys add NAME --role viewer")


@pytest.mark.parametrize(
    ("said", "code", "told"),
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
        (FakeResponse(502, b"<html>"), 1, "URL: the answer is 502, text/html, and not the JSON of a cell; is this"),
        (FakeResponse(200, b"<html>"), 1, "URL: the answer is 200, text/html, and not the JSON of a cell; is this"),
        (
            FakeResponse(200, b'{"detail": "\xff"}'),
            1,
            "URL: the answer is 200, text/html, and not the JSON of a cell; is this",
        ),
        (
            FakeResponse(200, b'{"items":' + b"[" * 100_000),
            1,
            "URL: the answer is 200, text/html, and not the JSON of a cell",
        ),
        (
            FakeResponse(500, b'{"x":' + b"[" * 100_000),
            1,
            "URL: the answer is 500, text/html, and not the JSON of a cell",
        ),
        (FakeResponse(200, {"hello": 1}), 1, "the answer is not a cell's, or one of another version"),
        (FakeResponse(200, []), 1, "the answer is not a cell's, or one of another version"),
        (
            FakeResponse(301, b"", {"location": "https://elsewhere/"}),
            1,
            "URL: the answer is 301, which leads elsewhere to https",
        ),
    ],
)
def test_answers_that_are_not_what_was_asked_for(play: Play, said: FakeResponse, code: int, told: str) -> None:
    played = play(lambda _: said)
    for command in (["stuck"], ["invoice", "I"], ["check"], ["stuck", "--json"]):
        assert run(*command, "--url", played.url).mistake(code).startswith(told.replace("URL", played.url))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stuck", "--url", "ftp://host"], "'ftp://host' is not an address with http:// or https://"),
        (["stuck", "--url", "localhost"], "'localhost' is not an address with http"),
        (["stuck", "--url", "http://[::1"], "'http://[::1' is not an address"),
        (["stuck", "--url", "http://u:p@host"], "the address has more than a host and a path"),
        (["stuck", "--url", "http://host/?a=b"], "the address has more than a host and a path"),
        (["stuck", "--key", "a\nb"], "the key has characters that no key has"),
        (["stuck", "--limit", "0"], "Invalid value for '--limit'"),
        (["stuck", "--stage", "payment"], "Invalid value for '--stage'"),
        (["invoice"], "Missing argument 'ID'"),
        (["act", "complete", "I"], "Missing option '--stage'"),
        (["act", "extend", "I", "--until", "soon"], "'soon' is not a time"),
        (["keys", "add", "x", "--role", "boss"], "Invalid value for '--role'"),
        (["act", "fly"], "No such command 'fly'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], told: str) -> None:
    assert told in run(*arguments).mistake()


def test_nobody_answers() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        told = run("stuck", BEMS_URL=url).mistake(1)
        assert told == f"{url}: connection refused; is the cell running? start one with bems up"
        listening.listen()
        listening.setblocking(True)
        assert "no answer in time" in slow(url)
    assert "there is no host of that name" in run("stuck", "--url", "http://no.such.host.invalid").mistake(1)


def slow(url: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "ANSWER_SECONDS", 0.1)
        return run("stuck", BEMS_URL=url).mistake(1)


def test_tls_that_cannot_be_trusted(play: Play, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    played = play(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    plain = played.url
    assert "TLS: " in run("stuck", "--url", plain.replace("http:", "https:")).mistake(1)
    played.wrap(context)
    url = plain.replace("http:", "https:")
    assert "TLS: the certificate is not trusted: self-signed certificate" in run("stuck", "--url", url).mistake(1)
    assert run("stuck", "--url", url, SSL_CERT_FILE=str(certificate / "cert.pem")).out == "none is stuck\n"


def test_the_address_may_have_a_path(play: Play) -> None:
    played = play(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    for url in (f"{played.url}/prod", f"{played.url}/prod/"):
        assert run("stuck", "--url", url, "--key", " a-key ").code == 0
    assert {asked.path.partition("?")[0] for asked in played.asked} == {"/prod/invoices", "/prod/totals"}
    assert {asked.headers["x-api-key"] for asked in played.asked} == {"a-key"}


def test_a_proxy_is_used_for_what_is_not_here(play: Play) -> None:
    proxy = play(lambda _: FakeResponse(200, {"items": [], "next_cursor": None}))
    assert run("stuck", "--url", "http://cell.example/prod", http_proxy=proxy.url, no_proxy="").code == 0
    assert proxy.asked[0].path.startswith("http://cell.example/prod/invoices?stuck=true")
    assert proxy.asked[0].headers["Host"] == "cell.example"


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
def test_a_proxy_that_cannot_be_used(scheme: str, proxy: str) -> None:
    environment: dict[str, Any] = {f"{scheme}_proxy": proxy, "no_proxy": ""}
    told = run("stuck", "--url", f"{scheme}://cell.example", **environment).mistake()
    assert told.startswith(f"the proxy of this machine, such as {scheme}_proxy in the environment, cannot be used")
    assert "pw" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["invoice", "INV-\udcff"],
        ["alerts", "--invoice", "INV-\udcff"],
        ["act", "park", "INV-\udcff"],
        ["keys", "add", "INV-\udcff", "--role", "viewer"],
        ["dlq", "redrive", "INV-\udcff", "--json"],
    ],
)
def test_arguments_are_utf_8(arguments: list[str]) -> None:
    assert run(*arguments).mistake() == "'INV-\ufffd' is not UTF-8 text"


def test_what_is_asked_may_be_asked_again_where_the_connection_was_cut(play: Play) -> None:
    answers = [None, FakeResponse(200, {"items": [], "next_cursor": None})]
    played = play(lambda _: answers.pop(0))
    assert run("alerts", "--url", played.url).code == 0
    assert len(played.asked) == 2
    played = play(lambda _: None)
    assert "cut before an answer came" in run("alerts", "--url", played.url).mistake(1)
    assert len(played.asked) == 2


def test_what_does_not_speak_http() -> None:
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
        assert "what answers there does not speak HTTP" in run("stuck", "--url", url).mistake(1)
        thread.join()


@pytest.mark.parametrize(
    "command",
    ["send", "invoice", "stuck", "alerts", "dashboard", "deliveries", "check", "dlq list", "dlq redrive"]
    + ["keys list", "keys add", "keys revoke"]
    + [f"act {verb}" for verb in ("complete", "cancel", "extend", "park", "revive", "acknowledge")],
)
def test_every_command_shows_an_example(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.code == 0
    assert f"Example: bems {command}" in shown.out
    assert "BEMS_URL" in shown.out
    assert "sees in ps" in " ".join(shown.out.split())

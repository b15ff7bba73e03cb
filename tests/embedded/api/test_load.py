"""Load: many senders at once, shutdown, metrics, and the consistency check."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

import duckdb
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.embedded.analytics.feeder import ANALYTICS, AnalyticsFeeder
from bems.embedded.analytics.time_series import NotOpen
from bems.embedded.api import server
from bems.tracker.contract import STAGES
from tests.embedded.api.calls import SECRETS, Cell, ask, encode_request, event_body, run_concurrently, send_raw
from tests.waiting import SOON, until


def samples(cell: Cell) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of /metrics by name and labels."""
    reply = cell.ask("GET", "/metrics", role="viewer")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(reply.body.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(cell: Cell, name: str, **labels: str) -> float:
    return samples(cell)[name, frozenset(labels.items())]


def test_2000_events_from_50_senders_are_each_answered(own_cell: Cell) -> None:
    statuses: Counter[str] = Counter()

    def send(thread: int) -> None:
        connection = HTTPConnection("127.0.0.1", own_cell.port, timeout=SOON)
        key, path = own_cell.keys["sender"], f"/invoices/{STAGES[thread % 4]}"
        for number in range(30):
            # Every third event is also sent by other threads of the same stage.
            id = f"{thread % 8}-{number}" if number % 3 == 0 else f"{thread}-{number}"
            reply = ask(
                connection,
                key,
                "POST",
                path,
                event_body(STAGES[thread % 4], invoice_id=id, event_id=f"{STAGES[thread % 4]}-{id}"),
            )
            assert (reply.status, reply.content["event_id"]) == (202, f"{STAGES[thread % 4]}-{id}")
            statuses[reply.content["status"]] += 1
        events = [
            event_body(STAGES[thread % 4], invoice_id=f"b-{thread}-{number}", event_id=f"b-{thread}-{number}")
            for number in range(10)
        ]
        reply = ask(connection, key, "POST", path + "/batch", {"events": events})
        assert [result["event_id"] for result in reply.content["results"]] == [event["event_id"] for event in events]
        statuses.update(result["status"] for result in reply.content["results"])
        connection.close()

    run_concurrently([lambda thread=thread: send(thread) for thread in range(50)])  # type: ignore[misc]
    accepted = 8 * 10 + 50 * 20 + 50 * 10
    assert statuses == {"accepted": accepted, "duplicate": 2_000 - accepted}
    with own_cell.reader() as reader:
        assert len({event.event_id for _, event in reader.events(limit=5_000)}) == accepted
    until(lambda: own_cell.get("/check")["balanced"] is True)
    check = own_cell.get("/check")
    assert (check["accepted"], check["applied"], check["dead_letters"]) == (accepted, accepted, 0)
    assert value(own_cell, "bems_accepted_events") == accepted
    by_result = [value(own_cell, "bems_events_total", stage=stage, result="accepted") for stage in STAGES]
    assert sum(by_result) == accepted


def test_shutdown_under_load_keeps_every_accepted_event(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell()
    answers: dict[str, str] = {}
    flowing = threading.Semaphore(0)

    def send(thread: int) -> None:
        connection = HTTPConnection("127.0.0.1", cell.port, timeout=SOON)
        for number in range(10_000):
            id = f"{thread}-{number}"
            try:
                status = ask(
                    connection, cell.keys["sender"], "POST", "/invoices/ingestion", event_body("ingestion", event_id=id)
                ).status
            except (OSError, HTTPException):
                answers[id] = "closed"
                break
            answers[id] = str(status)
            flowing.release()
            if status != 202:
                break
        connection.close()

    def stop() -> None:
        for _ in range(200):
            assert flowing.acquire(timeout=SOON)
        cell.service.stop()

    run_concurrently([stop, *(lambda thread=thread: send(thread) for thread in range(12))])
    assert set(answers.values()) <= {"202", "503", "closed"}
    accepted = {id for id, answer in answers.items() if answer == "202"}
    assert len(accepted) >= 200
    with cell.reader() as reader:
        stored = {event.event_id for _, event in reader.events(limit=100_000)}
        rows = reader.counts().transitions
    with duckdb.connect(str(cell.folder / ANALYTICS), read_only=True) as database:
        assert database.execute("SELECT count(*) FROM transitions").fetchall() == [(rows,)], "DuckDB has every row"
    assert accepted <= stored <= answers.keys()
    again = make_cell()
    assert again.service.writer.failure is None
    assert again.service.keys.verify(cell.keys["sender"]) is not None


def test_disconnecting_clients_do_not_affect_others_under_load(own_cell: Cell) -> None:
    def hang_up(thread: int) -> None:
        for number in range(20):
            body = json.dumps(event_body("ingestion", event_id=f"h-{thread}-{number}")).encode()
            whole = encode_request("POST", "/invoices/ingestion", own_cell.keys["sender"], body=body)
            send_raw(own_cell.port, whole[: len(whole) - number * 10], answers=0)

    def stay(thread: int) -> None:
        for number in range(20):
            assert own_cell.send("ingestion", event_id=f"s-{thread}-{number}").status == 202

    run_concurrently([lambda job=job, thread=thread: job(thread) for job in (hang_up, stay) for thread in range(5)])  # type: ignore[misc]
    until(lambda: own_cell.get("/check")["balanced"] is True)
    with own_cell.reader() as reader:
        stored = {event.event_id for _, event in reader.events(limit=5_000)}
    assert {f"s-{thread}-{number}" for thread in range(5) for number in range(20)} <= stored
    assert value(own_cell, "bems_queued") == 0


def test_a_second_cell_on_the_port_is_refused(own_cell: Cell, tmp_path: Any) -> None:
    with pytest.raises(server.CannotListen, match=f"127.0.0.1:{own_cell.port}"):
        Cell(tmp_path / "other", port=own_cell.port)
    assert own_cell.send("ingestion").status == 202


# -- metrics


def test_answered_requests_and_events_are_counted(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="secret-invoice")
    own_cell.send("ingestion", invoice_id="secret-invoice")
    own_cell.send("ingestion", invoice_id="secret-invoice", amount="1.00")
    own_cell.send("posting", invoice_id="")
    own_cell.send_all(
        "posting",
        [
            event_body("posting", event_id="a"),
            None,
            event_body("posting", event_id="b"),
            event_body("posting", event_id="a"),
        ],
    )
    own_cell.ask("GET", "/invoices/secret-invoice")
    own_cell.ask("GET", "/invoices/secret-invoice/x")
    own_cell.ask("HEAD", "/nothing")
    own_cell.ask("PROPFIND", "/secret-invoice")
    own_cell.ask("DELETE", "/check")
    own_cell.ask_with(None, "POST", "/invoices/posting", {})
    before = samples(own_cell)

    def count(name: str, **labels: str) -> float:
        return before[name, frozenset(labels.items())]

    events = {(stage, result): count("bems_events_total", stage=stage, result=result)
              for stage in ("ingestion", "posting", "authorization")
              for result in ("accepted", "duplicate", "conflict", "refused", "unavailable")}  # fmt: skip
    assert {key: number for key, number in events.items() if number} == {
        ("ingestion", "accepted"): 1,
        ("ingestion", "duplicate"): 1,
        ("ingestion", "conflict"): 1,
        ("posting", "refused"): 2,
        ("posting", "accepted"): 2,
        ("posting", "duplicate"): 1,
    }
    requests = {
        (labels_["method"], labels_["code"]): number
        for (name, labels) in before
        if name == "bems_requests_total"
        for labels_, number in [(dict(labels), before[name, labels])]
    }
    assert requests == {
        ("POST", "202"): 2,
        ("POST", "409"): 1,
        ("POST", "400"): 1,
        ("POST", "207"): 1,
        ("POST", "403"): 1,
        ("GET", "200"): 1,
        ("GET", "404"): 1,
        ("HEAD", "404"): 1,
        ("other", "404"): 1,
        ("DELETE", "405"): 1,
    }
    assert count("bems_send_seconds_count") == 5, "requests whose body was parsed"
    assert count("bems_accepted_events") == 3
    assert count("bems_invoices", status="AwaitingAuthorization") == 1
    assert count("bems_store_failing") == 0
    assert count("bems_dead_letters", state="set_aside") == 0
    text = own_cell.ask("GET", "/metrics").body.decode()
    assert "secret-invoice" not in text
    assert not [secret for secret in SECRETS if secret in text]
    assert not any(key.split("_")[1] in text for key in own_cell.keys.values())


# -- consistency check


def test_the_check_detects_a_missing_row(own_cell: Cell) -> None:
    assert own_cell.get("/check")["balanced"] is True
    own_cell.send_all(
        "ingestion", [event_body("ingestion", event_id=f"{number}", invoice_id=f"{number}") for number in range(5)]
    )
    until(lambda: own_cell.get("/check")["balanced"] is True)
    database = own_cell.service.analytics._database
    assert database is not None
    # A separate cursor, because the connection belongs to the feeder thread.
    with database._cursor() as cursor:
        cursor.execute("DELETE FROM transitions WHERE seq = 3")
    check = own_cell.get("/check")
    assert (check["accepted"], check["applied"], check["transitions"], check["analytics"]) == (5, 4, 5, 4)
    assert check["balanced"] is False


def test_the_check_is_undecided_while_duckdb_is_behind(own_cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cell.send("ingestion")
    until(lambda: own_cell.get("/check")["balanced"] is True)

    def fail(*_: object) -> None:
        raise NotOpen("DuckDB is being rebuilt")

    with monkeypatch.context() as patch:
        patch.setattr(AnalyticsFeeder, "kinds", fail)
        assert own_cell.get("/check")["balanced"] is None
    with monkeypatch.context() as patch:
        patch.setattr(AnalyticsFeeder, "_feed", lambda _: None)
        own_cell.send("authorization")
        check = own_cell.get("/check")
        assert (check["transitions"], check["analytics"], check["balanced"]) == (2, 1, None)
    until(lambda: own_cell.get("/check")["balanced"] is True)


@pytest.mark.parametrize("behind", [True, False])
def test_the_check_is_undecided_if_the_store_changes_meanwhile(
    own_cell: Cell, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB gets the newest row only after it was queried, or already has one more than the store had."""
    own_cell.send("ingestion")
    until(lambda: own_cell.get("/check")["balanced"] is True)
    feed, kinds = AnalyticsFeeder._feed, AnalyticsFeeder.kinds

    def while_it_changes(analytics: AnalyticsFeeder) -> dict[str, int]:
        found = kinds(analytics)
        if not behind:
            own_cell.send("authorization")
        monkeypatch.setattr(AnalyticsFeeder, "_feed", feed)
        analytics.wake()
        until(lambda: analytics.watermark == 2)
        return found if behind else kinds(analytics)

    if behind:
        monkeypatch.setattr(AnalyticsFeeder, "_feed", lambda _: None)
        own_cell.send("authorization")
    monkeypatch.setattr(AnalyticsFeeder, "kinds", while_it_changes)
    assert own_cell.get("/check")["balanced"] is None


def test_the_check_reports_no_imbalance_under_load(own_cell: Cell) -> None:
    over = threading.Event()
    results: Counter[object] = Counter()

    def load() -> None:
        try:
            for number in range(60):
                own_cell.send_all(
                    "ingestion",
                    [event_body("ingestion", event_id=f"{number}-{n}", invoice_id=f"{n}") for n in range(20)],
                )
                own_cell.service.analytics.wake()
        finally:
            over.set()

    def look() -> None:
        while not over.is_set():
            results[own_cell.get("/check")["balanced"]] += 1

    run_concurrently([load, look])
    assert results.keys() <= {True, None}
    until(lambda: own_cell.get("/check")["balanced"] is True)

"""Many at once, and the end under load."""

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
    """What /metrics says, by name and labels."""
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


def test_2000_events_of_50_senders_are_each_answered(own: Cell) -> None:
    statuses: Counter[str] = Counter()

    def send(thread: int) -> None:
        connection = HTTPConnection("127.0.0.1", own.port, timeout=SOON)
        key, path = own.keys["sender"], f"/invoices/{STAGES[thread % 4]}"
        for number in range(30):
            # Every third was sent before, by this thread or by the one that has the same stage.
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
    with own.reader() as reader:
        assert len({event.event_id for _, event in reader.events(limit=5_000)}) == accepted
    until(lambda: own.get("/check")["balanced"] is True)
    books = own.get("/check")
    assert (books["accepted"], books["applied"], books["dead_letters"]) == (accepted, accepted, 0)
    assert value(own, "bems_accepted_events") == accepted
    by_result = [value(own, "bems_events_total", stage=stage, result="accepted") for stage in STAGES]
    assert sum(by_result) == accepted


def test_at_the_end_what_was_accepted_is_there_and_the_others_know(make: Callable[..., Cell]) -> None:
    cell = make()
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
        assert database.execute("SELECT count(*) FROM transitions").fetchall() == [(rows,)], "fed to the last"
    assert accepted <= stored <= answers.keys()
    again = make()
    assert again.service.writer.failure is None
    assert again.service.keys.verify(cell.keys["sender"]) is not None


def test_those_who_hang_up_under_load_harm_nobody(own: Cell) -> None:
    def hang_up(thread: int) -> None:
        for number in range(20):
            body = json.dumps(event_body("ingestion", event_id=f"h-{thread}-{number}")).encode()
            whole = encode_request("POST", "/invoices/ingestion", own.keys["sender"], body=body)
            send_raw(own.port, whole[: len(whole) - number * 10], answers=0)

    def stay(thread: int) -> None:
        for number in range(20):
            assert own.send("ingestion", event_id=f"s-{thread}-{number}").status == 202

    run_concurrently([lambda job=job, thread=thread: job(thread) for job in (hang_up, stay) for thread in range(5)])  # type: ignore[misc]
    until(lambda: own.get("/check")["balanced"] is True)
    with own.reader() as reader:
        stored = {event.event_id for _, event in reader.events(limit=5_000)}
    assert {f"s-{thread}-{number}" for thread in range(5) for number in range(20)} <= stored
    assert value(own, "bems_queued") == 0


def test_a_second_cell_on_the_port_is_refused(own: Cell, tmp_path: Any) -> None:
    with pytest.raises(server.CannotListen, match=f"127.0.0.1:{own.port}"):
        Cell(tmp_path / "other", port=own.port)
    assert own.send("ingestion").status == 202


# -- metrics


def test_what_was_answered_is_counted(own: Cell) -> None:
    own.send("ingestion", invoice_id="secret-invoice")
    own.send("ingestion", invoice_id="secret-invoice")
    own.send("ingestion", invoice_id="secret-invoice", amount="1.00")
    own.send("posting", invoice_id="")
    own.send_all(
        "posting",
        [
            event_body("posting", event_id="a"),
            None,
            event_body("posting", event_id="b"),
            event_body("posting", event_id="a"),
        ],
    )
    own.ask("GET", "/invoices/secret-invoice")
    own.ask("GET", "/invoices/secret-invoice/x")
    own.ask("HEAD", "/nothing")
    own.ask("PROPFIND", "/secret-invoice")
    own.ask("DELETE", "/check")
    own.ask_with(None, "POST", "/invoices/posting", {})
    before = samples(own)

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
    assert count("bems_send_seconds_count") == 5, "those that got as far as the gate"
    assert count("bems_accepted_events") == 3
    assert count("bems_invoices", status="AwaitingAuthorization") == 1
    assert count("bems_store_failing") == 0
    assert count("bems_dead_letters", state="set_aside") == 0
    text = own.ask("GET", "/metrics").body.decode()
    assert "secret-invoice" not in text
    assert not [secret for secret in SECRETS if secret in text]
    assert not any(key.split("_")[1] in text for key in own.keys.values())


# -- books


def test_the_books_show_a_row_that_is_missing(own: Cell) -> None:
    assert own.get("/check")["balanced"] is True
    own.send_all(
        "ingestion", [event_body("ingestion", event_id=f"{number}", invoice_id=f"{number}") for number in range(5)]
    )
    until(lambda: own.get("/check")["balanced"] is True)
    database = own.service.analytics._database
    assert database is not None
    # The connection itself is the feeding thread's.
    with database._cursor() as cursor:
        cursor.execute("DELETE FROM transitions WHERE seq = 3")
    books = own.get("/check")
    assert (books["accepted"], books["applied"], books["transitions"], books["analytics"]) == (5, 4, 5, 4)
    assert books["balanced"] is False


def test_the_books_do_not_judge_what_is_not_there_yet(own: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    own.send("ingestion")
    until(lambda: own.get("/check")["balanced"] is True)

    def fail(*_: object) -> None:
        raise NotOpen("it is being made again")

    with monkeypatch.context() as patch:
        patch.setattr(AnalyticsFeeder, "kinds", fail)
        assert own.get("/check")["balanced"] is None
    with monkeypatch.context() as patch:
        patch.setattr(AnalyticsFeeder, "_feed", lambda _: None)
        own.send("authorization")
        books = own.get("/check")
        assert (books["transitions"], books["analytics"], books["balanced"]) == (2, 1, None)
    until(lambda: own.get("/check")["balanced"] is True)


@pytest.mark.parametrize("behind", [True, False])
def test_the_books_do_not_judge_what_changes_meanwhile(
    own: Cell, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB is asked before it has the newest row, and then gets it; or it has one more than the store had."""
    own.send("ingestion")
    until(lambda: own.get("/check")["balanced"] is True)
    feed, kinds = AnalyticsFeeder._feed, AnalyticsFeeder.kinds

    def while_it_changes(analytics: AnalyticsFeeder) -> dict[str, int]:
        found = kinds(analytics)
        if not behind:
            own.send("authorization")
        monkeypatch.setattr(AnalyticsFeeder, "_feed", feed)
        analytics.wake()
        until(lambda: analytics.watermark == 2)
        return found if behind else kinds(analytics)

    if behind:
        monkeypatch.setattr(AnalyticsFeeder, "_feed", lambda _: None)
        own.send("authorization")
    monkeypatch.setattr(AnalyticsFeeder, "kinds", while_it_changes)
    assert own.get("/check")["balanced"] is None


def test_under_load_the_books_never_say_that_something_is_missing(own: Cell) -> None:
    over = threading.Event()
    said: Counter[object] = Counter()

    def load() -> None:
        try:
            for number in range(60):
                own.send_all(
                    "ingestion",
                    [event_body("ingestion", event_id=f"{number}-{n}", invoice_id=f"{n}") for n in range(20)],
                )
                own.service.analytics.wake()
        finally:
            over.set()

    def look() -> None:
        while not over.is_set():
            said[own.get("/check")["balanced"]] += 1

    run_concurrently([load, look])
    assert said.keys() <= {True, None}
    until(lambda: own.get("/check")["balanced"] is True)

"""Responses to sent events, as in the table of the contract, for single events and batches."""

import json
import socket
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from random import Random

import pytest

from bems.embedded.api import app, bodies
from bems.embedded.api.access import Access
from bems.embedded.storage.errors import QueueFull, StoreFailed
from bems.embedded.writer import Item, OnResult, Stopped, Writer
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.contract import STAGES, Stage
from bems.tracker.instants import DAY
from bems.tracker.parsing import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from tests.embedded.api.calls import Cell, Reply, ask, encode_request, event_body, read_answers, send_raw
from tests.tracker.samples import NOW
from tests.waiting import SOON, until

BATCH = [False, True]


def post(cell: Cell, stage: Stage, batch: bool, body: object, **headers: str) -> Reply:
    return cell.ask("POST", f"/invoices/{stage}{'/batch' * batch}", body, "sender", **headers)


# -- 202 and 409


@pytest.mark.parametrize("stage", STAGES)
def test_an_event_is_accepted_once(cell: Cell, stage: Stage) -> None:
    first = cell.send(stage, invoice_id="once")
    assert (first.status, first.headers["content-type"]) == (202, "application/json")
    assert first.content == {"event_id": f"once-{stage}", "status": "accepted"}
    again = cell.send(stage, invoice_id="once")
    assert (again.status, again.content) == (202, {"event_id": f"once-{stage}", "status": "duplicate"})


def test_the_same_id_with_another_content_is_a_conflict(cell: Cell) -> None:
    cell.send("ingestion", invoice_id="clash")
    reply = cell.send("ingestion", invoice_id="clash", amount="1250.01")
    assert reply.status == 409
    assert reply.faults == {
        "/event_id": '"clash-ingestion" was accepted before with different content: use an event_id only once'
    }


def test_an_event_may_have_every_field_of_the_contract(cell: Cell) -> None:
    reply = cell.send(
        "authorization",
        invoice_id="INV/2026/000123",
        at=NOW + DAY,
        amount="-99999999999999.9999",
        currency="CLF",
        vendor={"id": "V", "name": "Ä 😀 GmbH", "country": "DE", "tier": "gold"},
        payment_terms={"days": 0, "due_date": "2999-12-31"},
        source={"system": "s", "region": "r", "account_id": "a"},
        attributes={"ü": "\u2028"},
    )
    assert reply.status == 202
    shown = cell.get("/invoices/INV/2026/000123")
    assert shown["amount"] == "-99999999999999.9999"
    assert shown["attributes"] == {"ü": "\u2028"}
    assert shown["payment_terms"] == {"days": 0, "due_date": "2999-12-31"}


# -- 207


def test_a_batch_is_answered_event_by_event_in_order(cell: Cell) -> None:
    cell.send("ingestion", invoice_id="known")
    new = event_body("ingestion", invoice_id="new")
    wrong = event_body("ingestion", invoice_id="wrong", amount="1.001", currency="XXX")
    results = cell.send_all(
        "ingestion",
        [
            new,
            event_body("ingestion", invoice_id="known"),
            event_body("ingestion", invoice_id="known", amount="1.00"),
            wrong,
            new,
            new | {"amount": "2.00"},
            None,
            event_body("ingestion", invoice_id="newer"),
        ],
    )
    assert [(result["status"], result["code"], result.get("event_id")) for result in results] == [
        ("accepted", 202, "new-ingestion"),
        ("duplicate", 202, "known-ingestion"),
        ("conflict", 409, "known-ingestion"),
        ("refused", 400, "wrong-ingestion"),
        ("duplicate", 202, "new-ingestion"),
        ("conflict", 409, "new-ingestion"),
        ("refused", 400, None),
        ("accepted", 202, "newer-ingestion"),
    ]
    assert {error["pointer"] for error in results[3]["errors"]} == {"/currency"}
    assert cell.ask("GET", "/invoices/wrong").status == 404
    assert cell.get("/invoices/new")["amount"] == "1250.00"


def test_a_batch_has_1_to_100_events(cell: Cell) -> None:
    events = [event_body("posting", invoice_id=f"hundred-{number}") for number in range(101)]
    assert [result["code"] for result in cell.send_all("posting", events[:100])] == [202] * 100
    assert post(cell, "posting", True, {"events": events}).pointers == {"/events"}
    assert post(cell, "posting", True, {"events": []}).pointers == {"/events"}


def test_a_cell_may_take_smaller_batches(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell(limits=Limits(max_batch=2))
    events = [event_body("posting", event_id=f"{number}") for number in range(3)]
    assert len(cell.send_all("posting", events[:2])) == 2
    reply = post(cell, "posting", True, {"events": events})
    assert (reply.status, reply.pointers) == (400, {"/events"})
    assert "more than 2" in reply.faults["/events"]
    assert cell.get("/check")["accepted"] == 2


# -- 400


def test_every_fault_of_an_event_is_named_at_once(cell: Cell) -> None:
    body = {
        "event_id": "a b",
        "invoice_id": "",
        "status": "paid",
        "occurred_at": "2027-01-01T00:00:00Z",
        "amount": 12.5,
        "currency": "EURO",
        "vendor": {"country": "de", "more": 1},
        "payment_terms": {"days": -1},
        "attributes": {"n": 1},
        "extra": None,
    }
    reply = post(cell, "ingestion", False, body)
    assert reply.status == 400
    assert reply.pointers == {
        "/event_id",
        "/invoice_id",
        "/status",
        "/occurred_at",
        "/amount",
        "/currency",
        "/vendor/id",
        "/vendor/country",
        "/vendor/more",
        "/payment_terms/days",
        "/source",
        "/attributes/n",
        "/extra",
    }


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"event_id": "1"',
    "text": b"hello",
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(event_body("ingestion")).encode(),
    "NUL": b"\0",
    "NUL within": json.dumps(event_body("ingestion")).encode().replace(b"INV-1", b"INV\0", 1),
    "not UTF-8": b'{"event_id": "\xff"}',
    "half a pair": json.dumps(event_body("ingestion", event_id="\ud800")).encode(),
    "deep": b"[" * 30_000 + b"]" * 30_000,
    "deep within": b'{"attributes":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
    "huge number": b'{"event_id": ' + b"9" * 50_000 + b"}",
    "huge exponent": b'{"amount": 1e999999999}',
    "not a number": b'{"amount": NaN}',
    "a name twice": json.dumps(event_body("ingestion")).encode()[:-1] + b', "amount": "1.00"}',
    "array": b"[]",
    "string": b'"event"',
    "null": b"null",
}  # fmt: skip


@pytest.mark.parametrize("batch", BATCH)
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_event_is_refused_with_every_fault(cell: Cell, name: str, batch: bool) -> None:
    reply = post(cell, "ingestion", batch, MALFORMED[name])
    assert reply.status == 400
    assert reply.faults


@pytest.mark.parametrize("name", [name for name in MALFORMED if name not in ("empty", "cut")])
def test_a_malformed_event_in_a_batch_is_refused(cell: Cell, name: str) -> None:
    reply = post(cell, "ingestion", True, b'{"events": [' + MALFORMED[name] + b"]}")
    codes = [reply.status] if reply.status != 207 else [result["code"] for result in reply.content["results"]]
    assert codes == [400]


def test_an_event_more_than_a_day_in_the_future_is_refused(cell: Cell) -> None:
    assert cell.send("ingestion", invoice_id="tomorrow", at=NOW + DAY + 1).pointers == {"/occurred_at"}


# -- 415


@pytest.mark.parametrize("batch", BATCH)
@pytest.mark.parametrize(
    "given", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "*/*", "", "ü"]
)
def test_only_json_is_accepted(cell: Cell, given: str, batch: bool) -> None:
    reply = post(cell, "ingestion", batch, b"{}", content_type=given)
    assert (reply.status, reply.faults, reply.headers["accept"]) == (415, {}, "application/json")


@pytest.mark.parametrize("batch", BATCH)
def test_a_missing_content_type_is_refused(cell: Cell, batch: bool) -> None:
    path = f"/invoices/ingestion{'/batch' * batch}"
    lines = f"POST {path} HTTP/1.1\r\nHost: a\r\nx-api-key: {cell.keys['sender']}\r\nContent-Length: 2\r\n\r\n{{}}"
    (reply,) = send_raw(cell.port, lines.encode())
    assert (reply.status, reply.faults) == (415, {})


def test_two_content_types_are_refused(cell: Cell) -> None:
    twice = encode_request(
        "POST", "/invoices/ingestion", cell.keys["sender"], "Content-Type: application/json", body=b"{}"
    )
    (reply,) = send_raw(cell.port, twice)
    assert reply.status == 415


# -- 413

LIMITS = [(False, MAX_EVENT_BYTES), (True, MAX_BATCH_BYTES)]


@pytest.mark.parametrize(("batch", "limit"), LIMITS)
def test_a_too_large_body_is_refused_and_the_connection_is_kept(cell: Cell, batch: bool, limit: int) -> None:
    connection = HTTPConnection("127.0.0.1", cell.port, timeout=SOON)
    path = f"/invoices/ingestion{'/batch' * batch}"
    at_most = ask(connection, cell.keys["sender"], "POST", path, b" " * limit)
    assert at_most.status == 400, "a body of exactly the limit is read"
    refused = ask(connection, cell.keys["sender"], "POST", path, b" " * (limit + 1))
    assert (refused.status, refused.faults) == (413, {})
    assert str(limit) in refused.content["detail"]
    assert ask(connection, None, "GET", "/healthz").status == 200
    connection.close()


@pytest.mark.parametrize(("batch", "limit"), LIMITS)
def test_a_too_large_chunked_body_is_refused_and_the_connection_is_kept(cell: Cell, batch: bool, limit: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (16_384, b" " * 16_384)
    start = encode_request(
        "POST", f"/invoices/ingestion{'/batch' * batch}", cell.keys["sender"], "Transfer-Encoding: chunked"
    )
    rest = chunk * (limit // 16_384 + 1) + b"0\r\n\r\n"
    refused, next_one = send_raw(cell.port, start, rest, encode_request("GET", "/healthz", ""), answers=2)
    assert (refused.status, refused.faults) == (413, {})
    assert next_one.status == 200


def test_a_content_length_far_above_the_limit_closes_the_connection(cell: Cell) -> None:
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], f"Content-Length: {1 << 60}")
    refused, *more = send_raw(cell.port, start, answers=2)
    assert (refused.status, refused.headers["connection"], more) == (413, "close", [])


def test_a_chunked_body_far_above_the_limit_closes_the_connection(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_DRAIN_BYTES", MAX_EVENT_BYTES)
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Transfer-Encoding: chunked")
    refused, *more = send_raw(
        cell.port, start + b"%x\r\n%b\r\n" % (MAX_EVENT_BYTES + 1, b" " * (MAX_EVENT_BYTES + 1)), answers=2
    )
    assert (refused.status, refused.headers["connection"], more) == (413, "close", [])


def test_expect_100_continue_is_answered_before_the_body(cell: Cell) -> None:
    length = f"Content-Length: {MAX_EVENT_BYTES + 1}"
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Expect: 100-continue", length)
    refused, *more = send_raw(cell.port, start, answers=2)
    assert (refused.status, more) == (413, [])
    body = json.dumps(event_body("ingestion", invoice_id="asked-first")).encode()
    length = f"Content-Length: {len(body)}"
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Expect: 100-continue", length)
    assert [reply.status for reply in send_raw(cell.port, start, body)] == [202], "100 Continue is not a final response"


# -- 408, and clients that disconnect


def test_an_incomplete_body_times_out(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_SECONDS", 0.05)
    for path in ("/invoices/ingestion", "/invoices/ingestion/batch", "/commands"):
        start = encode_request("POST", path, cell.keys["admin"], "Content-Length: 10")
        late, *more = send_raw(cell.port, start, b"{", answers=2)
        assert (late.status, late.faults, late.headers["connection"], more) == (408, {}, "close", [])


def test_disconnecting_clients_do_not_affect_others(cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(event_body("ingestion", invoice_id="hung-up")).encode()
    for piece in (b"PO", encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=body)[:-20]):
        assert send_raw(cell.port, piece, answers=0) == []
    send_raw(cell.port, encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=body), answers=0)
    send_raw(cell.port, encode_request("GET", "/invoices", cell.keys["viewer"]), answers=0)
    assert cell.send("ingestion", invoice_id="stayed").status == 202
    assert cell.send("ingestion", invoice_id="hung-up").status == 202
    assert not caplog.records


# -- 429


@pytest.fixture
def frozen_rate_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the rate limiter, so that buckets do not refill."""
    monkeypatch.setattr(app, "Access", partial(Access, monotonic=lambda: 0.0))


@pytest.mark.usefixtures("frozen_rate_clock")
def test_each_key_has_its_own_rate(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell(limits=Limits(Rate(1, 2)))
    _, other = cell.add_key("other", "sender")
    assert [cell.send("ingestion", event_id=f"{n}").status for n in range(2)] == [202, 202]
    refused = cell.send("ingestion", event_id="2")
    assert (refused.status, refused.faults, refused.headers["retry-after"]) == (429, {}, "1")
    assert cell.ask_with(other, "POST", "/invoices/ingestion", event_body("ingestion", event_id="3")).status == 202
    assert cell.ask_with("bems_nobody", "GET", "/check").status == 403, "without a valid key the status is 403, not 429"
    with cell.reader() as reader:
        assert {event.event_id for _, event in reader.events()} == {"0", "1", "3"}


@pytest.mark.usefixtures("frozen_rate_clock")
@pytest.mark.parametrize("batch", BATCH)
def test_each_stage_has_its_own_rate(make_cell: Callable[..., Cell], batch: bool) -> None:
    many, slow = Rate(1000, 1000), Rate(1, 1)
    cell = make_cell(limits=Limits(many, StageRates(ingestion=slow, authorization=many)))
    body = {"events": [event_body("ingestion")]} if batch else event_body("ingestion")
    assert post(cell, "ingestion", batch, body).status in (202, 207)
    refused = post(cell, "ingestion", batch, body)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert cell.send("authorization").status == 202


# -- 503


def make_failing_submit(error: Exception) -> Callable[[Writer, Item, OnResult], None]:
    def submit(_writer: Writer, _item: Item, tell: OnResult) -> None:
        if isinstance(error, QueueFull | Stopped):
            raise error
        tell(error)

    return submit


@pytest.mark.parametrize(
    ("error", "seconds"), [(QueueFull("full"), "1"), (Stopped("over"), "5"), (StoreFailed("no space"), "5")]
)
def test_an_unavailable_writer_returns_503_with_retry_after(
    cell: Cell, error: Exception, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "submit", make_failing_submit(error))
    reply = cell.send("ingestion", invoice_id="later")
    assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, seconds)
    wrong = event_body("ingestion", invoice_id="")
    refused, unavailable = cell.send_all("ingestion", [wrong, event_body("ingestion", invoice_id="later")])
    assert (refused["code"], unavailable["code"]) == (400, 503)
    assert unavailable["event_id"] == "later-ingestion"
    command = {"verb": "park", "command_id": "1", "invoice_id": "later", "note": "x"}
    reply = cell.ask("POST", "/commands", command, "operator")
    assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, seconds)


def test_events_are_not_parsed_while_the_queue_is_full(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing takes longer than the rest, so an overloaded cell would do little else."""
    monkeypatch.setattr(Writer, "is_full", True)
    for path, body in (("ingestion", {}), ("ingestion/batch", {"events": [event_body("ingestion", invoice_id="")]})):
        reply = cell.ask("POST", f"/invoices/{path}", body, "sender")
        assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, "1")
    assert cell.ask_with("wrong", "POST", "/invoices/ingestion", {}).status == 403


def test_a_full_disk_returns_503_and_stores_no_event(own_cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    execute = own_cell.service.writer._store._execute
    pages = execute("PRAGMA page_count").get
    own_cell.send("ingestion", invoice_id="before")
    execute(f"PRAGMA max_page_count = {pages}")
    # Each needs a new page, because it can hardly be compressed: even a group of one event fails.
    random = Random(7)
    events = [
        event_body("ingestion", invoice_id=f"full-{number}", attributes={"a": random.randbytes(2000).hex()})
        for number in range(100)
    ]
    codes = [result["code"] for result in own_cell.send_all("ingestion", events)]
    assert codes == [503] * 100
    failing = own_cell.ask_with(None, "GET", "/healthz")
    assert (failing.status, failing.content["status"], failing.headers["retry-after"]) == (503, "failing", "5")
    assert own_cell.get("/check")["accepted"] == 1, "queries are still answered"
    execute("PRAGMA max_page_count = 1000000")
    assert [result["code"] for result in own_cell.send_all("ingestion", events)] == [202] * 100
    # The writer answers before it updates its health.
    until(lambda: own_cell.ask_with(None, "GET", "/healthz").status == 200)
    assert "full" in caplog.text


def test_an_internal_error_returns_500_without_details(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bems.embedded.api.event_endpoint.parse_event", lambda *_: 1 / 0)
    reply = cell.send("ingestion", invoice_id="odd")
    assert (reply.status, reply.faults) == (500, {})
    assert b"Zero" not in reply.body
    assert "ZeroDivisionError" in caplog.text


# -- transport


def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(cell: Cell) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    key = cell.keys["admin"]
    body = json.dumps(event_body("ingestion", invoice_id="java")).encode()
    whole = encode_request("POST", "/invoices/ingestion", key, *offer, body=body)
    start = encode_request("POST", "/invoices/ingestion", key, *offer, "Transfer-Encoding: chunked")
    pieces = b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n"
    look = encode_request("GET", "/invoices/java", key, *offer)
    one, two, three, four = send_raw(cell.port, whole, start, *pieces, look, look, answers=4)
    assert [one.content["status"], two.content["status"]] == ["accepted", "duplicate"]
    assert [three.status, four.status] == [200, 200]
    assert [reply.status for reply in send_raw(cell.port, look * 1_100, answers=1_100)] == [200] * 1_100


def test_pipelined_requests_are_answered_in_order(cell: Cell) -> None:
    events = [json.dumps(event_body("ingestion", event_id=f"p{number}")).encode() for number in range(20)]
    sends = [encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=event) for event in events]
    replies = send_raw(cell.port, b"".join(sends), answers=20)
    assert [reply.content["event_id"] for reply in replies] == [f"p{n}" for n in range(20)]


def test_invalid_bytes_after_a_request_do_not_replace_its_response(cell: Cell) -> None:
    body = json.dumps(event_body("ingestion", invoice_id="then-noise")).encode()
    replies = send_raw(
        cell.port,
        encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=body) + b"\0\0\0\r\n",
        answers=2,
    )
    assert [reply.status for reply in replies] == [202], "the connection is closed after the response"


def test_a_request_may_arrive_in_small_pieces(cell: Cell) -> None:
    whole = encode_request(
        "POST",
        "/invoices/ingestion",
        cell.keys["sender"],
        body=json.dumps(event_body("ingestion", invoice_id="drop")).encode(),
    )
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(whole), 7):
            connection.sendall(whole[place : place + 7])
        (reply,) = read_answers(connection, 1)
    assert reply.status == 202

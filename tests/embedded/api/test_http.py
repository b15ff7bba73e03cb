"""HTTP: paths, methods, heads and connections."""

import gc
import json
import logging
import socket
import weakref
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from bems.embedded.api import http_protocol, server
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.reader_pool import ReaderPool
from bems.tracker.contract import STAGES
from tests.embedded.api.calls import Cell, ask, encode_request, event_body, read_answers, send_raw
from tests.waiting import SOON, until

# -- 404 and 405


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/invoices.json", "/healthz/", "/healthz%0A", "/metrics/x", "//", "/%00", "/%FF",
     "/%E2%82%AC", "/keys/a/b", "/INVOICES", "/invoices?/", "/../invoices", "/openapi.json%3F"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_returns_a_404_problem(cell: Cell, method: str, path: str) -> None:
    reply = cell.ask(method, path, {} if method == "POST" else None)
    if (method, path) == ("GET", "/invoices?/"):
        assert (reply.status, reply.pointers) == (400, {"/~1"})
    elif path in ("/invoices?/", "/keys/a/b") and reply.status == 405:
        assert reply.headers["allow"] == {"/invoices?/": "GET, HEAD", "/keys/a/b": "DELETE"}[path]
    else:
        assert (reply.status, reply.faults) == (404, {})


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/healthz", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/invoices", "GET, HEAD"),
        ("/invoices/some", "GET, HEAD"),
        *((f"/invoices/{stage}{batch}", "GET, HEAD, POST") for stage in STAGES for batch in ("", "/batch")),
        ("/alerts", "GET, HEAD"),
        ("/commands", "GET, HEAD, POST"),
        ("/dead-letters", "GET, HEAD"),
        ("/dead-letters/redrive", "POST"),
        ("/deliveries", "GET, HEAD"),
        ("/deliveries/retry", "POST"),
        ("/check", "GET, HEAD"),
        ("/keys", "GET, HEAD, POST"),
        ("/keys/some", "DELETE"),
    ],
)
def test_a_405_lists_the_allowed_methods(cell: Cell, path: str, allowed: str) -> None:
    for method in {"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - set(allowed.split(", ")):
        reply = cell.ask(method, path)
        assert (reply.status, reply.headers["allow"], reply.faults) == (405, allowed, {})


@pytest.mark.parametrize(
    "path", ["/invoices/payment", "/invoices/ingestion/", "/invoices/INGESTION", "/invoices/a/b/batch"]
)
def test_an_unknown_stage_returns_404(cell: Cell, path: str) -> None:
    reply = cell.ask("POST", path, event_body("ingestion"))
    assert (reply.status, reply.faults) == (404, {})
    assert '"ingestion"' in reply.content["detail"] or "one of ingestion" in reply.content["detail"]


@pytest.mark.parametrize(
    "path", ["/invoices", "/invoices/headed", "/invoices/none", "/healthz", "/metrics", "/keys/x", "/no"]
)
def test_head_is_get_without_a_body(cell: Cell, path: str) -> None:
    cell.send("ingestion", invoice_id="headed")
    full, bare = cell.ask("GET", path), cell.ask("HEAD", path)
    assert bare.body == b""
    assert (bare.status, bare.headers["content-type"]) == (full.status, full.headers["content-type"])


# -- odd invoice ids

ODD = ["INV/2026/000123", "a%2Fb", "50%25", "100%", "a?b=c", "a#b", "..", ".", "../keys", "//", "/", "a//b", "&=+",
       "~'\"<>", "\\", "ingestion", "ingestion/batch", "posting/batch", "batch", "!" * 128]  # fmt: skip


@pytest.mark.parametrize("invoice_id", ODD)
def test_an_invoice_is_found_by_its_id_whatever_it_looks_like(cell: Cell, invoice_id: str) -> None:
    assert cell.send("ingestion", invoice_id=invoice_id, event_id=f"odd-{ODD.index(invoice_id)}").status == 202
    encoded = "".join(f"%{byte:02X}" for byte in invoice_id.encode())
    assert cell.get(f"/invoices/{encoded}")["invoice_id"] == invoice_id
    if not set(invoice_id) & set("%?#"):
        assert cell.get(f"/invoices/{invoice_id}")["invoice_id"] == invoice_id
    listed = cell.get(f"/alerts?invoice_id={encoded}")
    assert listed == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("target", ["%00", "%0A", "a%0A", "%FF", "%C3%28", "%E2%82%AC", "%", "%zz", "a" * 5000])
def test_an_unknown_or_invalid_invoice_id_returns_404(cell: Cell, target: str) -> None:
    cell.send("ingestion", invoice_id="a")
    reply = cell.ask("GET", f"/invoices/{target}")
    assert (reply.status, reply.faults) == (404, {})
    assert len(reply.body) < 400, "the response does not repeat a long id"


# -- heads


@pytest.mark.parametrize(
    "noise",
    [
        b"hello\r\n\r\n",
        "GET /\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        "GET /invoices?\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"b" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_a_malformed_request_returns_400_and_closes_the_connection(cell: Cell, noise: bytes) -> None:
    reply, *more = send_raw(cell.port, noise, answers=2)
    assert (reply.status, reply.faults, reply.headers["connection"], more) == (400, {}, "close", [])


def test_a_malformed_chunk_returns_400_and_closes_the_connection(cell: Cell) -> None:
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Transfer-Encoding: chunked")
    reply, *more = send_raw(cell.port, start, b"zz\r\n", answers=2)
    assert (reply.status, reply.faults, more) == (400, {}, [])


@pytest.mark.parametrize("header", ["Connection: , ,", "A:", "Upgrade: x"])
def test_odd_headers_are_ignored(cell: Cell, header: str) -> None:
    for path, status in (("/healthz", 200), ("/nothing", 404), ("/check", 200)):
        assert [
            reply.status for reply in send_raw(cell.port, encode_request("GET", path, cell.keys["admin"], header))
        ] == [status]


def test_absolute_urls_and_http_1_0_are_accepted(cell: Cell) -> None:
    lines = b"GET http://elsewhere/healthz?x HTTP/1.0\r\n\r\n"
    reply, *more = send_raw(cell.port, lines, answers=2)
    assert (reply.status, more) == (200, [])


def test_a_connection_is_kept_for_many_requests(cell: Cell) -> None:
    connection = HTTPConnection("127.0.0.1", cell.port, timeout=SOON)
    first = ask(connection, cell.keys["admin"], "GET", "/check")
    kept = connection.sock
    statuses = [
        ask(connection, None, "POST", "/invoices/ingestion", event_body("ingestion")).status,
        ask(connection, cell.keys["sender"], "POST", "/invoices/ingestion", b"x" * 50_000).status,
        ask(connection, cell.keys["sender"], "POST", "/invoices/ingestion", b"x", content_type="text/plain").status,
        ask(connection, cell.keys["admin"], "PUT", "/check", b"x" * 50_000).status,
        ask(connection, cell.keys["admin"], "GET", "/invoices?x").status,
        ask(connection, cell.keys["sender"], "POST", "/invoices/ingestion", event_body("ingestion")).status,
    ]
    assert (first.status, statuses) == (200, [403, 400, 415, 405, 400, 202])
    assert connection.sock is kept
    connection.close()


def test_a_silent_connection_is_closed(make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.5)
    cell = make_cell()
    early = encode_request("POST", "/invoices/ingestion", "wrong", "Content-Length: 100")
    for piece, answers in ((b"", 0), (b"GET / HTT", 0), (encode_request("GET", "/healthz", ""), 1), (early, 1)):
        with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
            connection.sendall(piece)
            assert len(list(read_answers(connection, 9))) == answers


def test_a_connection_that_is_still_sending_is_kept(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.5)
    cell = make_cell()
    body = json.dumps(event_body("ingestion")).encode()
    whole = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=body)
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as sending:
        sending.sendall(whole[:20])
        sending.sendall(whole[20:-5])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as silent:
                assert silent.recv(1) == b"", "a silent connection is closed meanwhile"
        sending.sendall(whole[-5:])
        assert [reply.status for reply in read_answers(sending, 1)] == [202]


def test_a_slowly_sent_head_times_out(make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    cell = make_cell()
    with socket.create_connection(("127.0.0.1", cell.port), timeout=0.02) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nA: ")
        for _ in range(200):
            try:
                connection.sendall(b"b")
                assert connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            return
    raise AssertionError("the connection was not closed")


def test_a_client_that_reads_no_responses_is_disconnected(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    cell = make_cell()
    with socket.socket() as slow_reader:
        slow_reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow_reader.settimeout(SOON)
        slow_reader.connect(("127.0.0.1", cell.port))
        # The requests exceed all buffers, and their responses are never read.
        many = encode_request("GET", "/openapi.json", "") * 500_000
        with pytest.raises(ConnectionError):
            slow_reader.sendall(many)


def test_requests_on_too_many_connections_are_answered_503(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    cell = make_cell()
    connections = [socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) for _ in range(2)]
    for connection in connections:
        connection.sendall(encode_request("GET", "/healthz", ""))
        assert [reply.status for reply in read_answers(connection, 1)] == [200]
    reply = cell.send("ingestion")
    assert (reply.status, reply.faults, reply.headers["retry-after"], reply.headers["connection"]) == (
        503,
        {},
        "1",
        "close",
    )
    connections.pop().close()
    replies = (cell.send("ingestion") for _ in range(1000))
    assert any(reply.status == 202 for reply in replies)
    connections.pop().close()


# -- failures


def test_a_store_that_cannot_be_read_returns_503(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise StoreFailed("the disk is gone")

    monkeypatch.setattr(ReaderPool, "_run", fail)
    for path in (
        "/invoices",
        "/invoices/a%0d%3fb",
        "/alerts",
        "/commands",
        "/dead-letters",
        "/check",
        "/metrics",
    ):
        reply = cell.ask("GET", path)
        assert (reply.status, reply.faults, reply.headers["retry-after"]) == (503, {}, "5")
        assert b"disk" not in reply.body
    assert cell.ask("GET", "/deliveries").status == 200, "deliveries are not in the store"
    assert 'GET "/invoices/a\\r?b" could not be answered: the disk is gone' in caplog.messages
    assert not any(set("\r\n") & set(message) for message in caplog.messages), "each message is one line"


def test_health_shows_reasons_only_to_viewers(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(cell.service.deliveries), "failure", "email boss@example.com: refused")
    assert cell.ask_with(None, "GET", "/healthz").content["deliveries"] == "failing"
    assert cell.ask_with("wrong", "GET", "/healthz").content["deliveries"] == "failing"
    assert cell.ask("GET", "/healthz", role="sender").content["deliveries"] == "failing"
    shown = cell.ask("GET", "/healthz", role="viewer")
    assert (shown.status, shown.content["status"]) == (200, "ok"), "the cell still accepts events"
    assert shown.content["deliveries"] == "email boss@example.com: refused"
    assert shown.content["store"] == "ok"


def test_shutdown_does_not_wait_for_incomplete_bodies(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "SHUTDOWN_TIMEOUT_SECONDS", 0.1)
    caplog.set_level(logging.WARNING)
    cell = make_cell()
    connections = [socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) for _ in range(3)]
    for connection, path in zip(
        connections, ("/invoices/ingestion", "/invoices/posting/batch", "/commands"), strict=True
    ):
        connection.sendall(
            encode_request("POST", path, cell.keys["admin"], "Content-Length: 10", "Expect: 100-continue")
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100"), "the cell waits for the body"
    cell.service.stop()
    for connection in connections:
        assert [reply.status for reply in read_answers(connection, 2)] in ([503], [])
        connection.close()
    assert not [record for record in caplog.records if record.exc_info]


def test_the_size_of_a_head_is_limited(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_HEAD_BYTES", 1000)
    monkeypatch.setattr(http_protocol, "PARSE_PIECE_BYTES", 0)
    batch = json.dumps({"events": [event_body("ingestion")] * 100}).encode()
    replies = send_raw(
        cell.port, encode_request("POST", "/invoices/ingestion/batch", cell.keys["sender"], body=batch) * 2, answers=2
    )
    assert [reply.status for reply in replies] == [207, 207], "the limit does not apply to bodies"
    reply, *_ = send_raw(cell.port, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200, answers=2)
    assert "headers" in reply.content["detail"]


def test_a_head_without_an_end_is_aborted(cell: Cell) -> None:
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nA: ")
        with pytest.raises(ConnectionError):
            connection.sendall(b"b" * (16 << 20))


@pytest.fixture
def collector_disabled() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


LOSSES: dict[str, Callable[[str], bytes]] = {
    "unused": lambda _: b"",
    "answered": lambda key: encode_request("GET", "/invoices", key),
    "answered and closed": lambda key: encode_request("GET", "/invoices", key, "Connection: close"),
    "several answers unread": lambda key: encode_request("GET", "/invoices", key) * 3,
    "in the middle of a head": lambda key: encode_request("GET", "/invoices", key)[:-4],
    "in the middle of a body": lambda key: (
        encode_request("POST", "/invoices/ingestion", key, "Content-Length: 99") + b"{"
    ),
    "refused": lambda _: b"noise\r\n\r\n",
}


@pytest.mark.usefixtures("collector_disabled")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_connection_is_freed_without_garbage_collection(
    own_cell: Cell, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """The garbage collector is disabled, because it rarely visits old objects."""
    connections = list[weakref.ref[http_protocol.Protocol]]()
    make_connection = http_protocol.Protocol.connection_made

    def connection_made(self: http_protocol.Protocol, transport: Any) -> None:
        connections.append(weakref.ref(self))
        make_connection(self, transport)

    monkeypatch.setattr(http_protocol.Protocol, "connection_made", connection_made)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", own_cell.port), timeout=SOON) as connection:
            connection.sendall(LOSSES[loss](own_cell.keys["admin"]))
            if loss in ("answered", "answered and closed", "refused"):
                assert connection.recv(1_000).startswith(b"HTTP/1.1 ")
    until(lambda: len(connections) == 3 and not any(reference() for reference in connections))

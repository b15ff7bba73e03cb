"""Denial-of-service attacks, with and without a key: memory and other resources of the cell stay bounded.

The tests attack a cell in its own process on a real port, and measure its memory. The bounds are far below what the
same attacks used before the limits existed: 4 GB for trailers, 1.4 GB for incomplete heads.
"""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from bems.clock import SystemClock
from bems.embedded.api import bodies, file_descriptors, http_protocol, server
from bems.embedded.storage import reader_pool as readers_module
from bems.embedded.storage.reader import Reader
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.contract import STAGES
from tests.cell_process import SPEED, CellProcess
from tests.embedded.api.calls import (
    UNLIMITED,
    Cell,
    Reply,
    encode_request,
    event_body,
    read_answers,
    run_concurrently,
    send_raw,
)
from tests.waiting import SOON, until

resource = pytest.importorskip("resource", reason="this system limits no open files")

MB = 1_000_000
START = b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


class Target:
    """A cell in its own process, as the target of attacks."""

    def __init__(self, cell_process: CellProcess) -> None:
        self.key = cell_process.read_admin_key()
        self.port = int(cell_process.url.rpartition(":")[2])
        self._process = psutil.Process(cell_process.process.pid)

    @property
    def resident(self) -> int:
        """Resident memory in bytes."""
        return int(self._process.memory_info().rss)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)

    def ask(self, path: str, key: str | None = None) -> Reply:
        (reply,) = send_raw(self.port, encode_request("GET", path, key or self.key, "Connection: close"))
        return reply

    @contextmanager
    def keeps_within(self, size: int) -> Iterator[None]:
        """Assert that memory grows by less than `size` bytes in the context, and that the cell answers at its end."""
        before, done = self.resident, threading.Event()
        samples = [before]

        def measure() -> None:
            while not done.is_set():
                samples.append(self.resident)
                done.wait(0.01)

        measuring = threading.Thread(target=measure)
        measuring.start()
        try:
            yield
            assert self.ask("/invoices").status == 200
        finally:
            done.set()
            measuring.join()
        growth = max(samples) - before
        assert growth < size, f"memory grew by {growth / MB:.0f} MB"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    with CellProcess(folder / "cell", folder / "errors.log", timeout=300) as cell_process:
        yield Target(cell_process)
        assert cell_process.end(signal.SIGTERM) == 0
    assert "Traceback" not in (folder / "errors.log").read_text()


def flood(connection: socket.socket, piece: bytes, max_bytes: int) -> bool:
    """Send `max_bytes`, and return whether the cell closes the connection before it has received them."""
    with suppress(ConnectionError):
        for _ in range(max_bytes // len(piece)):
            connection.sendall(piece)
        return False
    return True


# -- without a key


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
    "one trailer": (CHUNKED + b"0\r\na: ", b"b" * 60_000),
    "a chunk extension": (CHUNKED + b"2;", b"b" * 60_000),
    "a chunk size": (CHUNKED, b"0" * 60_000),
    "small chunks": (CHUNKED, b"1\r\nx\r\n" * 10_000),
    "a body": (START + b"Content-Length: 99000000\r\n\r\n", b"x" * 60_000),
    "headers": (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
    "one header": (b"GET / HTTP/1.1\r\na: ", b"b" * 60_000),
    "a folded header": (b"GET / HTTP/1.1\r\na: b\r\n", b" b\r\n" * 10_000),
    "the URL": (b"GET /", b"b" * 60_000),
    "the method": (b"G", b"G" * 60_000),
    "empty lines": (b"", b"\r\n" * 30_000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_requests_are_aborted(target: Target, what: str) -> None:
    start, piece = ENDLESS[what]
    with target.keeps_within(60 * MB), target.connect() as connection:
        connection.sendall(start)
        assert flood(connection, piece, 60 * MB), "the cell received everything"


@pytest.mark.parametrize(
    ("count", "rest", "max_growth"),
    # Without limits, 300 heads with many fields used 1.4 GB. Each of the long heads is within the limits of one head.
    [(300, b"a: b\r\n" * 50_000, 80 * MB), (1_800, b"a: b\r\n" * 90 + b"X: " + b"y" * 60_000, 110 * MB)],
    ids=["many fields", "long"],
)
def test_memory_of_incomplete_heads_is_bounded(target: Target, count: int, rest: bytes, max_growth: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"{count} connections need {count + 500} open files, and {hard} are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    try:
        with target.keeps_within(max_growth), ExitStack() as opened:
            for _ in range(count):
                connection = opened.enter_context(target.connect())
                with suppress(ConnectionError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + rest)
            assert target.ask("/healthz").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_memory_of_pipelined_requests_is_bounded(target: Target) -> None:
    ahead = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100_000
    with target.keeps_within(150 * MB), ExitStack() as opened:
        for _ in range(50):
            connection = opened.enter_context(target.connect())
            connection.setblocking(False)
            # Sends until the buffers are full, and reads no response.
            with suppress(BlockingIOError, ConnectionError):
                while True:
                    connection.send(ahead)
        assert target.ask("/healthz").status == 200


def test_memory_of_unread_responses_is_bounded(make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts responses in the cell only, not in the socket buffers of the operating system."""
    limit = 500_000
    monkeypatch.setattr(http_protocol, "MAX_UNREAD_BYTES", limit)
    cell = make_cell()
    (answer,) = send_raw(cell.port, encode_request("GET", "/openapi.json", ""))
    with ExitStack() as opened:
        slow_readers = []
        for _ in range(2 * limit // len(answer.body)):
            slow_readers.append(opened.enter_context(socket.socket()))
            slow_readers[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow_readers[-1].settimeout(SOON)
            slow_readers[-1].connect(("127.0.0.1", cell.port))
            with suppress(ConnectionError):
                slow_readers[-1].sendall(encode_request("GET", "/openapi.json", "") * 200)
        shared = cell.service.server._server._shared  # type: ignore[union-attr]
        until(lambda: len(shared.unread._held) >= 2)
        assert shared.unread.total <= limit
        assert cell.ask("GET", "/healthz").status == 200
        with pytest.raises(ConnectionError):
            # The oldest one is aborted; a client that does not read learns of it when it sends.
            until(lambda: slow_readers[0].send(b"G") < 0)


def test_memory_of_incomplete_bodies_is_bounded(target: Target) -> None:
    """Sends 300 bodies of 2 MB each with a key, because bodies without a key are not kept."""
    start = encode_request("POST", "/invoices/ingestion/batch", target.key, "Content-Length: 2000000")
    with target.keeps_within(200 * MB), ExitStack() as opened:
        for _ in range(300):
            connection = opened.enter_context(target.connect())
            with suppress(ConnectionError):
                connection.sendall(start + b" " * 1_900_000)
        assert target.ask("/healthz").status == 200


# -- trailers


def chunked(key: str, *trailers: str) -> bytes:
    body = json.dumps(event_body("ingestion", event_id="t", invoice_id="t")).encode()
    lines = ["POST /invoices/ingestion HTTP/1.1", "Host: a", "Content-Type: application/json", f"x-api-key: {key}"]
    start = "\r\n".join([*(lines if key else lines[:-1]), "Transfer-Encoding: chunked", "", ""]).encode()
    return (
        start + b"%x\r\n%s\r\n0\r\n" % (len(body), body) + "".join(f"{one}\r\n" for one in trailers).encode() + b"\r\n"
    )


def test_trailers_are_not_treated_as_headers(cell: Cell) -> None:
    """A key in a trailer, right or wrong, affects neither its request nor the next one (RFC 9110, section 6.5.1)."""
    right, wrong = f"x-api-key: {cell.keys['sender']}", "x-api-key: wrong"
    for trailer in (right, right.upper(), f"authorization: Bearer {cell.keys['sender']}"):
        assert [reply.status for reply in send_raw(cell.port, chunked("", trailer))] == [403]
    others = ("content-encoding: gzip", "content-type: text/plain", "host: b", "expect: 100-continue")
    for trailer in (wrong, "authorization: Bearer wrong", *others):
        assert [reply.status for reply in send_raw(cell.port, chunked(cell.keys["sender"], trailer))] == [202], trailer
    follows = b"GET /check HTTP/1.1\r\nHost: a\r\n\r\n"
    admin = f"x-api-key: {cell.keys['admin']}"
    assert [reply.status for reply in send_raw(cell.port, chunked("", admin) + follows, answers=2)] == [403, 403]
    whole = chunked(cell.keys["sender"], wrong) + encode_request("GET", "/check", cell.keys["viewer"])
    assert [reply.status for reply in send_raw(cell.port, whole, answers=2)] == [202, 200]


def test_trailers_sent_in_pieces_are_not_treated_as_headers(cell: Cell) -> None:
    whole = chunked("", f"x-api-key: {cell.keys['sender']}")
    assert [reply.status for reply in send_raw(cell.port, *[bytes([byte]) for byte in whole])] == [403]


# -- heads


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["a", "a"], 400),
        (["a", "b"], 400),
        (["a/b"], 400),
        (["a b"], 400),
        (["a@b"], 400),
        (["\u00ff"], 400),
        (["a, b"], 400),
        (["a"], 200),
        (["[::1]:8080"], 200),
        (["xn--bcher-kva.example:80"], 200),
        ([""], 200),
    ],
)
def test_a_request_must_have_one_valid_host(cell: Cell, hosts: list[str], status: int) -> None:
    lines = ["GET /healthz HTTP/1.1", *(f"Host: {host}" for host in hosts), "", ""]
    (reply,) = send_raw(cell.port, "\r\n".join(lines).encode("latin-1"))
    assert reply.status == status
    if status == 400:
        assert reply.faults == {}
        assert "Host" in reply.content["detail"]
        assert (reply.headers["connection"], reply.headers["cache-control"]) == ("close", "no-store")


def test_the_number_of_headers_is_limited(cell: Cell) -> None:
    def ask(count: int) -> Reply:
        lines = ["GET /healthz HTTP/1.1", "Host: a", *(f"x-{number}: y" for number in range(count - 1)), "", ""]
        (reply,) = send_raw(cell.port, "\r\n".join(lines).encode())
        return reply

    assert ask(http_protocol.MAX_FIELDS).status == 200
    refused = ask(http_protocol.MAX_FIELDS + 1)
    assert (refused.status, refused.faults) == (400, {})
    assert f"more than {http_protocol.MAX_FIELDS} headers" in refused.content["detail"]


def test_an_incomplete_head_times_out_sooner_than_an_idle_connection(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.KEEP_ALIVE_SECONDS == 75
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_SECONDS", 0.2)
    cell = make_cell()
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as kept:
        kept.sendall(encode_request("GET", "/healthz", ""))
        assert [reply.status for reply in read_answers(kept, 1)] == [200]
        for piece in (b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"):
            with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as slow:
                slow.sendall(piece)
                assert slow.recv(1) == b"", "the connection is closed without a response"
        kept.sendall(encode_request("GET", "/healthz", "")[:-2])
        assert kept.recv(1) == b"", "the limit holds for later requests too"


def test_draining_an_unread_body_times_out(make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "DRAIN_TIMEOUT_SECONDS", 0.2)
    cell = make_cell()
    early = encode_request("POST", "/invoices/ingestion", "wrong", "Content-Length: 100")
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
        connection.sendall(early + b"x" * 50)
        assert [reply.status for reply in read_answers(connection, 2)] == [403], (
            "the connection is closed after the response"
        )


# -- headers of responses and requests


def test_every_response_forbids_caching(cell: Cell) -> None:
    replies = [
        cell.send("ingestion", invoice_id="cached"),
        cell.ask("POST", "/invoices/ingestion/batch", {"events": [event_body("ingestion", invoice_id="cached")]}),
        cell.ask("POST", "/invoices/ingestion", {}),
        *(cell.ask("GET", path) for path in ("/invoices", "/invoices/cached", "/metrics", "/healthz", "/openapi.json")),
        cell.ask("GET", "/nothing"),
        cell.ask("PUT", "/check"),
        cell.ask_with(None, "GET", "/check"),
        *send_raw(cell.port, b"nonsense\r\n\r\n"),
    ]
    assert {reply.headers["cache-control"] for reply in replies} == {"no-store"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/invoices/ingestion"), ("POST", "/invoices/posting/batch"), ("POST", "/commands")]
)
def test_a_content_encoding_is_refused(cell: Cell, method: str, path: str) -> None:
    for encoding in ("gzip", "br", "deflate, gzip", "x" * 5_000, "identity, gzip"):
        reply = cell.ask(method, path, b"\x1f\x8b", content_encoding=encoding)
        assert (reply.status, reply.faults, reply.headers["accept-encoding"]) == (415, {}, "identity")
        assert f'Content-Encoding "{encoding[:20]}' in reply.content["detail"]
    assert cell.ask(method, path, {}, content_encoding="identity").status == 400


def test_a_transfer_encoding_other_than_chunked_is_refused(cell: Cell) -> None:
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Transfer-Encoding: gzip, chunked")
    (reply,) = send_raw(cell.port, start + b"2\r\n{}\r\n0\r\n\r\n")
    assert reply.status == 400


# -- keys


def test_a_key_may_be_sent_as_a_bearer_token(cell: Cell) -> None:
    viewer, sender = cell.keys["viewer"], cell.keys["sender"]

    def ask(path: str, key: str | None, authorization: str) -> int:
        return cell.ask_with(key, "GET", path, authorization=authorization).status

    for path in ("/check", "/metrics", "/invoices"):
        assert ask(path, None, f"Bearer {viewer}") == 200
        assert ask(path, None, f"bearer   {viewer} ") == 200
        assert ask(path, viewer, f"Bearer {viewer}") == 200
        for authorization in (f"Bearer{viewer}", viewer, f"Basic {viewer}", "Bearer", "Bearer ", f"Bearer {sender}"):
            assert ask(path, None, authorization) == 403, authorization
        # Two different keys are refused, even if both are valid.
        for authorization in (f"Bearer {cell.keys['admin']}", "Bearer wrong", "Bearer ", f"Bearer {viewer}, {viewer}"):
            assert ask(path, viewer, authorization) == 403, authorization
        assert ask(path, "wrong", f"Bearer {viewer}") == 403
        assert ask(path, viewer, "Basic YTpi") == 200, "another scheme is ignored"
    twice = encode_request(
        "GET", "/check", viewer, f"Authorization: Bearer {viewer}", f"Authorization: Bearer {viewer}"
    )
    assert [reply.status for reply in send_raw(cell.port, twice)] == [403]
    event = event_body("ingestion", invoice_id="bearer")
    assert cell.ask_with(None, "POST", "/invoices/ingestion", event, authorization=f"Bearer {sender}").status == 202
    assert cell.ask_with(None, "POST", "/invoices/ingestion", event, authorization=f"Bearer {viewer}").status == 403


# -- rates


def batch_of(count: int, name: str) -> dict[str, list[object]]:
    return {"events": [event_body("ingestion", event_id=f"{name}-{n}", invoice_id=f"{name}-{n}") for n in range(count)]}


def test_a_batch_consumes_one_token_per_event(make_cell: Callable[..., Cell]) -> None:
    slow, fast = Rate(1, 100), Rate(100_000, 100_000)
    for limits in (Limits(slow, StageRates(*[fast] * 4)), Limits(fast, StageRates(*[slow] * 4))):
        cell = make_cell(limits=limits)
        _, key = cell.add_key(f"batches-{limits.key.burst}", "sender")

        def send(body: object, path: str = "/batch", key: str = key, cell: Cell = cell) -> Reply:
            return cell.ask_with(key, "POST", f"/invoices/ingestion{path}", body)

        name = str(limits.key.burst)
        assert send(batch_of(60, f"{name}-a")).status == 207
        over = send(batch_of(60, f"{name}-b"))
        assert (over.status, over.faults) == (429, {})
        assert 15 <= int(over.headers["retry-after"]) <= 22, "seconds until all events of the batch are allowed"
        assert send(batch_of(30, f"{name}-c")).status == 207
        assert [send(event_body("ingestion", event_id=f"{name}-{n}"), "").status for n in range(12)].count(202) < 12
        with cell.reader() as reader:
            stored = {event.event_id for _, event in reader.events()}
        assert not any(id.startswith(f"{name}-b") for id in stored), "a batch is charged as a whole or not at all"


def test_a_batch_larger_than_the_burst_is_accepted_from_a_full_bucket(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell(limits=Limits(Rate(1, 10), UNLIMITED.stages))
    _, key = cell.add_key("small", "sender")
    assert cell.ask_with(key, "POST", "/invoices/ingestion/batch", batch_of(40, "a")).status == 207
    late = cell.ask_with(key, "POST", "/invoices/ingestion", event_body("ingestion"))
    assert (late.status, int(late.headers["retry-after"]) > 25) == (429, True), (
        "the missing tokens must be refilled first"
    )


# -- queries of one key


class BlockedInvoices:
    """Replaces Reader.invoices by a query that blocks until `may_continue` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.may_continue = threading.Event()
        monkeypatch.setattr(Reader, "invoices", self._answer)

    def _answer(self, **_: object) -> list[object]:
        self.begun += 1
        assert self.may_continue.wait(SOON)
        return []


def test_queries_of_one_key_do_not_block_other_keys(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell()
    blocked = BlockedInvoices(monkeypatch)
    greedy_key, greedy = cell.add_key("greedy", "viewer")
    limit = readers_module.MAX_QUEUED_QUERIES_PER_KEY
    with ExitStack() as opened:
        asking = [
            opened.enter_context(socket.create_connection(("127.0.0.1", cell.port), timeout=SOON))
            for _ in range(limit + 5)
        ]
        for connection in asking[:limit]:
            connection.sendall(encode_request("GET", "/invoices?limit=500", greedy))
        until(lambda: blocked.begun == readers_module.MAX_THREADS_PER_KEY)
        until(lambda: cell.service.readers._reading._unanswered[greedy_key.id] == limit)
        for connection in asking[limit:]:
            connection.sendall(encode_request("GET", "/invoices", greedy))
            (reply,) = read_answers(connection, 1)
            assert (reply.status, reply.faults, reply.headers["retry-after"]) == (429, {}, "1")
            assert "this key has" in reply.content["detail"]
        # Other keys can read and write meanwhile.
        assert cell.ask("GET", "/alerts", role="viewer").status == 200
        assert cell.ask("GET", "/metrics", role="operator").status == 200
        assert cell.ask("GET", "/dashboards/volume", role="viewer").status in (200, 503)
        assert cell.send("ingestion").status == 202
        park = {"command_id": "1", "invoice_id": "unknown", "verb": "park", "note": "x"}
        assert cell.ask("POST", "/commands", park, "operator").status == 404
        assert cell.ask("POST", "/deliveries/retry", {}, "operator").status == 200
        assert cell.ask("POST", "/keys", {"name": "new", "role": "viewer"}).status == 201
        assert cell.ask("DELETE", f"/keys/{greedy_key.id}").status == 200
        # Queued queries of the revoked key are dropped, and running ones get 403.
        refused = [
            reply.status
            for connection in asking[readers_module.MAX_THREADS_PER_KEY : limit]
            for reply in read_answers(connection, 1)
        ]
        assert refused == [403] * (limit - readers_module.MAX_THREADS_PER_KEY)
        assert blocked.begun == readers_module.MAX_THREADS_PER_KEY
        blocked.may_continue.set()
        late = [
            reply.status
            for connection in asking[: readers_module.MAX_THREADS_PER_KEY]
            for reply in read_answers(connection, 1)
        ]
        assert late == [403] * readers_module.MAX_THREADS_PER_KEY
        assert cell.ask_with(greedy, "GET", "/alerts").status == 403


def test_queries_of_different_keys_alternate(make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    """A query of another key runs early, however many queries the first key has queued."""
    cell = make_cell()
    blocked, order = BlockedInvoices(monkeypatch), list[str]()

    def note(_: Reader, *, invoice_id: str, **__: object) -> list[object]:
        order.append(invoice_id)
        return []

    keys = [cell.add_key(name, "viewer")[1] for name in ("one", "two")]
    monkeypatch.setattr(Reader, "newest_alerts", note)
    with ExitStack() as opened:

        def ask(key: str, path: str) -> None:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", cell.port), timeout=SOON))
            connection.sendall(encode_request("GET", path, key))

        for key in keys:
            for _ in range(readers_module.MAX_THREADS_PER_KEY):
                ask(key, "/invoices")
        until(lambda: blocked.begun == readers_module.MAX_THREADS_PER_KEY + readers_module.SPARE_THREADS)
        asked = cell.service.readers._reading._unanswered
        for number in range(10):
            ask(keys[0], f"/alerts?invoice_id=first-{number}")
        until(lambda: asked.total() == 2 * readers_module.MAX_THREADS_PER_KEY + 10)
        ask(keys[1], "/alerts?invoice_id=second")
        until(lambda: asked.total() == 2 * readers_module.MAX_THREADS_PER_KEY + 11)
        blocked.may_continue.set()
        until(lambda: len(order) == 11)
        assert order.index("second") <= 4


def test_queries_of_disconnected_clients_are_cancelled(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell()
    blocked = BlockedInvoices(monkeypatch)
    key, text = cell.add_key("impatient", "viewer")
    asked = cell.service.readers._reading._unanswered
    limit = readers_module.MAX_QUEUED_QUERIES_PER_KEY
    for _ in range(3):
        with ExitStack() as opened:
            for _ in range(limit):
                connection = opened.enter_context(socket.create_connection(("127.0.0.1", cell.port), timeout=SOON))
                connection.sendall(encode_request("GET", "/invoices", text))
            until(lambda: asked[key.id] == limit)
        until(lambda: asked[key.id] == 0)
    blocked.may_continue.set()
    assert cell.ask_with(text, "GET", "/invoices").status == 200
    assert blocked.begun == readers_module.MAX_THREADS_PER_KEY + 1, "only the running queries and the last one"


def test_a_write_completes_though_its_client_has_disconnected(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell()
    key, text = cell.add_key("gone", "viewer")
    may_continue, begun = threading.Event(), threading.Event()
    keys = cell.service.keys
    revoke = keys.revoke

    def slowly(*given: object) -> object:
        begun.set()
        assert may_continue.wait(SOON)
        return revoke(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(keys, "revoke", slowly)
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
        connection.sendall(encode_request("DELETE", f"/keys/{key.id}", cell.keys["admin"]))
        assert begun.wait(SOON)
    may_continue.set()
    until(lambda: cell.ask_with(text, "GET", "/alerts").status == 403)


# -- pages of histories


def test_an_execution_history_is_paginated(own_cell: Cell) -> None:
    own_cell.send("ingestion", invoice_id="H")
    own_cell.send("authorization", invoice_id="H")
    for number in range(30):
        own_cell.send("reconciliation", invoice_id="H", event_id=f"m-{number}", status="mismatched", at=number + 10**15)
    (execution,) = own_cell.get("/invoices/H")["executions"]
    path = f"/executions/{execution['name']}/history"
    whole, cursor, pages = list[dict[str, Any]](), None, 0
    while pages == 0 or cursor:
        page = own_cell.get(path + "?limit=7" + (f"&cursor={cursor}" if cursor else ""))
        assert len(page["items"]) <= 7
        whole, cursor, pages = whole + page["items"], page["next_cursor"], pages + 1
    assert [event["id"] for event in whole] == list(range(1, len(whole) + 1))
    assert len(whole) > 100
    assert execution["history"] == whole[:100], "an invoice shows the start, and a cursor for the rest"
    assert own_cell.get(f"{path}?limit=500&cursor={execution['next_cursor']}") == {
        "items": whole[100:],
        "next_cursor": None,
    }
    for wrong in ("/executions/none/history", "/executions//history", "/executions/a/b/history"):
        assert own_cell.ask("GET", wrong).status == 404
    for cursor in ("x", own_cell.get("/invoices?limit=1")["next_cursor"]):
        assert own_cell.ask("GET", f"{path}?cursor={cursor}").pointers == {"/cursor"}
    assert own_cell.ask("GET", f"/executions/none/history?cursor={execution['next_cursor']}").pointers == {"/cursor"}
    assert own_cell.ask("GET", f"{path}?limit=501").pointers == {"/limit"}


# -- file descriptors


RULE = "{deadline: 1d, escalate_every: 1d, critical_at: 2, give_up_at: 30, overrides: []}"


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a webhook, and the list of webhook ids it has received."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            taken.append(self.headers["webhook-id"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}/", taken
        finally:
            listening.shutdown()


def test_idle_connections_do_not_stop_alerts(tmp_path: Path) -> None:
    """Before descriptors were reserved, 1,400 connections stopped alerts of a process with at most 1,024 open files."""
    many = 1_400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < many + 500:
        pytest.skip(f"{many} connections need {many + 500} open files, and {hard} are allowed here")
    with receiver() as (url, taken), ExitStack() as opened:
        cells, errors = tmp_path / "cells.yaml", tmp_path / "errors.log"
        policy = f"{{stages: {{{', '.join(f'{stage}: {RULE}' for stage in STAGES)}}}}}"
        webhook = f'[{{webhook: {{url: "{url}"}}}}]'
        cells.write_text(
            f"cells: [{{name: small, region: eu-west-1, policy: {policy}, "
            f"alerts: {{warning: {webhook}, critical: {webhook}}}}}]"
        )
        options = "--cells", str(cells), "--speed", str(SPEED / 5)
        with CellProcess(tmp_path / "cell", errors, *options, max_open_files=1_024) as cell_process:
            target = Target(cell_process)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many + 500), hard))
            try:
                kept = opened.enter_context(target.connect())
                kept.sendall(encode_request("GET", "/healthz", ""))
                assert [reply.status for reply in read_answers(kept, 1)] == [200]
                for _ in range(many):
                    with suppress(ConnectionError):
                        opened.enter_context(target.connect())
                process = psutil.Process(cell_process.process.pid)
                until(lambda: process.num_fds() > 500)
                assert process.num_fds() < 1_024 - file_descriptors.RESERVED_DESCRIPTORS + 100, (
                    "the reserved descriptors are free"
                )
                event = event_body("ingestion", at=SystemClock().now())
                body = json.dumps(event).encode()
                kept.sendall(encode_request("POST", "/invoices/ingestion", target.key, body=body))
                assert [reply.status for reply in read_answers(kept, 1)] == [202], "an earlier connection is served"
                kept.sendall(encode_request("GET", "/alerts", target.key))
                assert [reply.status for reply in read_answers(kept, 1)] == [200]
                assert until(lambda: len(taken) >= 3, 60)
            finally:
                opened.close()
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert cell_process.end(signal.SIGTERM) == 0
        assert "serving at most 704 connections at once instead of 2000" in errors.read_text()
        assert "Traceback" not in errors.read_text()


def test_connections_beyond_the_limit_are_answered_503(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection replaces one that has sent no request. An earlier connection with a request is kept."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server, "MAX_REFUSED_CONNECTIONS", 1)
    cell = make_cell()
    with ExitStack() as opened:

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", cell.port), timeout=SOON))

        kept, silent = connect(), connect()
        kept.sendall(encode_request("GET", "/healthz", ""))
        assert [reply.status for reply in read_answers(kept, 1)] == [200]
        other = connect()
        assert silent.recv(1) == b"", "it is aborted because it has sent no request"
        other.sendall(b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        (reply,) = read_answers(other, 1)
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        kept.sendall(encode_request("GET", "/healthz", ""))
        assert [reply.status for reply in read_answers(kept, 1)] == [200]


def test_the_limit_of_open_files_is_raised_up_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"soft": 0, "hard": 0}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.update(soft=given[0]))
    infinity = resource.RLIM_INFINITY
    for soft, hard, raised, connections in (
        (1_024, 524_288, 2_256, 2_000),
        (1_024, infinity, 2_256, 2_000),
        (infinity, infinity, infinity, 2_000),
        (65_536, 65_536, 65_536, 2_000),
        (256, 1_024, 1_024, 768),
        (256, 256, 256, 128),
    ):
        limits.update(soft=soft, hard=hard)
        assert file_descriptors.limit_connections(2_000) == connections
        assert limits["soft"] == raised


def test_a_limit_of_open_files_that_cannot_be_raised_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", fail)
    assert file_descriptors.limit_connections(2_000) == 128
    assert "stays at 256" in caplog.text


def test_readers_are_opened_before_the_first_query(
    make_cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell()

    def fail(*_: object) -> None:
        raise AssertionError("a reader was opened after the start")

    monkeypatch.setattr(readers_module, "open_reader", fail)
    run_concurrently([lambda: cell.get("/invoices")] * 5)
    assert cell.get("/alerts")["items"] == []


def test_bytes_of_incomplete_bodies_are_limited_by_key_and_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = bodies.UnfinishedBodies()
    assert unfinished.add("a", bodies.MAX_KEY_UNFINISHED_BYTES)
    assert not unfinished.add("a", 1)
    assert unfinished.add("b", 1)
    unfinished.add("a", -1)
    monkeypatch.setattr(bodies, "MAX_UNFINISHED_BYTES", 100)
    assert not unfinished.add("c", 1)

"""Malicious and faulty HTTP clients: the cell neither hangs nor crashes, and serves the other clients.

For conformance to HTTP see tests/embedded/api/test_http.py.
"""

import json
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from bems.clock import SystemClock
from bems.embedded.api.server import MAX_CONNECTIONS
from tests.cell_process import CellProcess
from tests.embedded.api import conftest
from tests.embedded.api.calls import Cell, Reply, encode_request, event_body, read_answers, send_raw
from tests.faults.conftest import Figures
from tests.waiting import SOON, until

cell = conftest.cell
"""Fixture of the API's tests, with one cell per module."""


# -- request smuggling

INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
"""A request that is answered 404 if the server treats it as separate."""

CHUNKED = b"0\r\n\r\n" + INNER
SIZE = len(CHUNKED)

AMBIGUOUS: dict[str, tuple[list[str], bytes]] = {
    "a length and chunks": ([f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"], CHUNKED),
    "chunks and a length": (["Transfer-Encoding: chunked", f"Content-Length: {SIZE}"], CHUNKED),
    "two lengths": (["Content-Length: 0", f"Content-Length: {len(INNER)}"], INNER),
    "two lengths in one": ([f"Content-Length: 0, {len(INNER)}"], INNER),
    "the same length twice": ([f"Content-Length: {len(INNER)}"] * 2, INNER),
    "a signed length": ([f"Content-Length: +{len(INNER)}"], INNER),
    "a length in hexadecimal": ([f"Content-Length: {len(INNER):#x}"], INNER),
    "a length with a tail": ([f"Content-Length: {len(INNER)}a"], INNER),
    "an empty length": (["Content-Length:"], INNER),
    "an unknown coding": (["Transfer-Encoding: xchunked"], CHUNKED),
    "chunks not last": (["Transfer-Encoding: chunked, identity"], CHUNKED),
    "chunks twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], CHUNKED),
    "a space before the colon": ([f"Content-Length: {SIZE}", "Transfer-Encoding : chunked"], CHUNKED),
    "a folded header": ([f"Content-Length: {SIZE}", "X: a\r\n Transfer-Encoding: chunked"], CHUNKED),
    "a tab in the name": ([f"Content-Length: {SIZE}", "Transfer-Encoding\t: chunked"], CHUNKED),
    "a vertical tab in the value": ([f"Content-Length: {SIZE}", "Transfer-Encoding: \x0bchunked"], CHUNKED),
    "a line that ends with a line feed": ([f"Content-Length: {SIZE}", "X: a\nTransfer-Encoding: chunked"], CHUNKED),
    "a line that ends with a return": ([f"Content-Length: {SIZE}", "X: a\rTransfer-Encoding: chunked"], CHUNKED),
    "a null in a header": ([f"Content-Length: {len(INNER)}", "X: a\0b"], INNER),
    "a size that is none": (["Transfer-Encoding: chunked"], b"-1\r\n" + INNER),
    "a size in 0x": (["Transfer-Encoding: chunked"], b"0x0\r\n\r\n" + INNER),
    "a size beyond all bounds": (["Transfer-Encoding: chunked"], b"f" * 17 + b"\r\n" + INNER),
    "an extension with a line feed": (["Transfer-Encoding: chunked"], b"2;\nxx\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": (["Transfer-Encoding: chunked"], b"1\r\n{}\r\n" + CHUNKED),
    "a chunk without its end": (["Transfer-Encoding: chunked"], b"2\r\n{}" + CHUNKED),
}


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_an_ambiguous_request_is_rejected(cell: Cell, form: str) -> None:
    headers, body = AMBIGUOUS[form]
    lines = ["POST /invoices/ingestion HTTP/1.1", "Host: a", f"x-api-key: {cell.keys['sender']}"]
    lines += ["Content-Type: application/json", *headers]
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    replies = answers(cell, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body + last)
    if form == "the same length twice":
        # RFC 9112, section 6.3, allows both.
        assert [reply.status for reply in replies] in ([400], [400, 200])
    else:
        assert [reply.status for reply in replies] == [400], "the server must close the connection"
    assert not any(b"smuggled" in reply.body for reply in replies)
    assert cell.get("/healthz")["status"] == "ok"


def answers(cell: Cell, request: bytes) -> list[Reply]:
    """Return all responses until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", cell.port), timeout=SOON) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return list(read_answers(connection, 9))


def test_chunks_with_extensions_and_trailers_are_accepted(cell: Cell) -> None:
    body = json.dumps(event_body("ingestion", event_id="chunked", invoice_id="chunked")).encode()
    chunks = b'%x;a="b";c\r\n%s\r\n%x\r\n%s\r\n0;x\r\nX-Trailer: a\r\n\r\n' % (9, body[:9], len(body) - 9, body[9:])
    start = encode_request("POST", "/invoices/ingestion", cell.keys["sender"], "Transfer-Encoding: chunked")
    assert [reply.status for reply in send_raw(cell.port, start + chunks)] == [202]


def test_hundreds_of_pipelined_requests_are_answered_in_order(cell: Cell) -> None:
    requests, expected = [], []
    for number in range(300):
        kind = number % 3
        if kind == 0:
            body = json.dumps(event_body("ingestion", event_id=f"p-{number}", invoice_id=f"p-{number}")).encode()
            requests.append(encode_request("POST", "/invoices/ingestion", cell.keys["sender"], body=body))
        else:
            path = f"/invoices/p-{number - kind}" if kind == 1 else f"/nothing/{number}"
            requests.append(encode_request("GET", path, cell.keys["viewer"]))
        expected.append((202, 200, 404)[kind])
    replies = send_raw(cell.port, b"".join(requests), answers=300)
    assert [reply.status for reply in replies] == expected
    assert [reply.content["event_id"] for reply in replies[::3]] == [f"p-{number}" for number in range(0, 300, 3)]


# -- many connections


class ManyConnections:
    """Many open connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._opened = ExitStack()

    def open(self, count: int, first_bytes: bytes = b"") -> list[socket.socket]:
        made = []
        for _ in range(count):
            made.append(self._opened.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=SOON)))
            if first_bytes:
                made[-1].sendall(first_bytes)
        return made

    def close(self) -> None:
        self._opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[CellProcess, str]]:
    """A cell process and its admin key."""
    with CellProcess(tmp_path / "cell", tmp_path / "errors.log", timeout=120) as server:
        yield server, server.read_admin_key()
        assert server.process.poll() is None, "the process has died"
        assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in (tmp_path / "errors.log").read_text()


def sender(url: str, key: str) -> Callable[[], int]:
    """Return a function that sends an event on a persistent connection and returns the status."""
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port_of(url), maxsize=1, retries=False, timeout=SOON)
    clock, numbers = SystemClock(), iter(range(1_000_000))

    def send() -> int:
        number = next(numbers)
        event = event_body("ingestion", event_id=f"real-{number}", invoice_id=f"real-{number}", at=clock.now())
        return pool.request("POST", "/invoices/ingestion", json=event, headers={"x-api-key": key}).status

    return send


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_thousands_of_idle_connections_do_not_affect_existing_ones(
    server: tuple[CellProcess, str], figures: Figures
) -> None:
    many = MAX_CONNECTIONS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < many + 500:
        pytest.skip(f"the test needs {many + 500} open files, but the limit is {hard}")
    process, key = server
    send = sender(process.url, key)
    assert send() == 202
    connections = ManyConnections(port_of(process.url))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many + 500), hard))
        idle = connections.open(many)
        assert [send() for _ in range(50)] == [202] * 50
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        (late,) = read_answers(idle[-1], 1)
        assert (late.status, late.headers["connection"], late.headers["retry-after"]) == (503, "close", "1")
    finally:
        connections.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: send() == 202)
    figures.record("idle connections", f"{many:,}", f"those beyond {MAX_CONNECTIONS:,} answered 503 and closed")


def test_slow_headers_and_bodies_do_not_block_others(server: tuple[CellProcess, str], figures: Figures) -> None:
    process, key = server
    send = sender(process.url, key)
    connections = ManyConnections(port_of(process.url))
    try:
        heads = connections.open(200, b"POST /invoices/ingestion HTTP/1.1\r\nHost: a\r\nX: ")
        bodies = connections.open(
            200, encode_request("POST", "/invoices/ingestion", key, "Content-Length: 1000") + b'{"event_id"'
        )
        for connection in (*heads, *bodies) * 3:
            connection.sendall(b" ")
        assert [send() for _ in range(100)] == [202] * 100
        health = urllib3.request("GET", f"{process.url}/healthz", retries=False, timeout=SOON)
        assert health.status == 200
    finally:
        connections.close()
    figures.record("slow headers and bodies", "400 at once", "100 events of another sender accepted meanwhile")


def test_existing_connections_are_served_when_file_descriptors_run_out(
    server: tuple[CellProcess, str], figures: Figures
) -> None:
    process, key = server
    send = sender(process.url, key)
    assert send() == 202
    used = len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))
    before = resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (used + 40, before[1]))
    connections = ManyConnections(port_of(process.url))
    try:
        # Connections without a file descriptor wait to be accepted.
        connections.open(100)
        assert [send() for _ in range(50)] == [202] * 50
    finally:
        connections.close()
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, before)
    assert send() == 202
    other = sender(process.url, key)
    until(lambda: other() == 202)
    figures.record("no file descriptors left", "100 connections, 40 files", "existing connections served, later all")

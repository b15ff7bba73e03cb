"""A cell on a free port, and functions that send requests to it."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

from bems.embedded.alerting.delivery import Destination
from bems.embedded.auth.keys import Key
from bems.embedded.clock import VirtualClock
from bems.embedded.service import Service
from bems.embedded.storage.reader import Reader, open_reader
from bems.tracker.actions import Severity
from bems.tracker.cells import Limits, Rate, StageRates
from bems.tracker.contract import SUCCESS_STATUS, Stage
from bems.tracker.control_totals import AlertMessage
from bems.tracker.instants import Instant, render
from bems.tracker.requests import Role
from tests.tracker.samples import FACTS_SENT, NOW, POLICY

__all__ = ["NOW", "POLICY"]
from tests.waiting import SOON

ROLES: tuple[Role, ...] = ("sender", "viewer", "operator", "admin")
PROBLEM = "application/problem+json"
UNLIMITED = Limits(Rate(100_000, 100_000), StageRates(*[Rate(100_000, 100_000)] * 4))

SECRETS: set[str] = set()
"""Secrets of all keys created by tests. No log may contain any of them."""


class Reply(NamedTuple):
    """A response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def faults(self) -> dict[str, str]:
        """Details of a problem's errors by pointer. Asserts that the response is a valid problem."""
        assert self.headers["content-type"] == PROBLEM
        content = self.content
        assert (content["type"], content["status"]) == ("about:blank", self.status)
        assert content["title"]
        assert content["detail"]
        return {error["pointer"]: error["detail"] for error in content.get("errors", [])}

    @property
    def pointers(self) -> set[str]:
        return {*self.faults}


class Cell:
    """A service on a free port, with a key of each role. Its clock changes only by `move_to`."""

    def __init__(self, folder: Path, *, limits: Limits = UNLIMITED, port: int = 0, **options: Any) -> None:
        self.folder = folder
        self.clock = VirtualClock(NOW)
        self.service = Service(folder, POLICY, port=port, limits=limits, clock=self.clock, **options)
        self.keys: dict[Role, str] = {}
        for role in ROLES:
            if not any(key.name == role for key in self.service.keys.all()):
                self.keys[role] = self.add_key(role, role)[1]
        self.service.start()

    def __enter__(self) -> "Cell":
        return self

    def __exit__(self, *_: object) -> None:
        self.service.stop()

    def add_key(self, name: str, role: Role) -> tuple[Key, str]:
        key, text = self.service.keys.add(name, role, "the test", NOW)
        SECRETS.add(text.split("_", 2)[2])
        return key, text

    @property
    def port(self) -> int:
        port: int = self.service.server.port
        return port

    def ask(self, method: str, path: str, body: object = None, role: Role = "admin", **headers: str) -> Reply:
        """Send a request on a new connection, with the key of a role."""
        return self.ask_with(self.keys[role], method, path, body, **headers)

    def ask_with(self, key: str | None, method: str, path: str, body: object = None, **headers: str) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        try:
            return ask(connection, key, method, path, body, **headers)
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the content of a response with status 200."""
        reply = self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.content

    def send(self, stage: Stage, **changes: Any) -> Reply:
        return self.ask("POST", f"/invoices/{stage}", event_body(stage, **changes), "sender")

    def send_all(self, stage: Stage, events: list[Any]) -> list[dict[str, Any]]:
        """Send a batch, and return its results."""
        reply = self.ask("POST", f"/invoices/{stage}/batch", {"events": events}, "sender")
        assert reply.status == 207, reply
        results: list[dict[str, Any]] = reply.content["results"]
        return results

    def move_to(self, instant: Instant) -> None:
        self.clock.move_to(instant)
        self.service.writer.wake()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open a reader of the store that bypasses the API."""
        reader = open_reader(self.folder)
        try:
            yield reader
        finally:
            reader.close()


class Inbox:
    """Alert destination that accepts every alert, and keeps its id."""

    key = "inbox"

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.everything: dict[Severity, list[Destination]] = {"warning": [self], "critical": [self]}

    def send(self, alert: AlertMessage) -> None:
        self.taken.append(alert.id)


def ask(
    connection: HTTPConnection, key: str | None, method: str, path: str, body: object = None, **headers: str
) -> Reply:
    """Send a request on an open connection. A body that is not bytes is sent as JSON."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        given["x-api-key"] = key
    if body is not None:
        given.setdefault("content-type", "application/json")
    encoded = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, encoded, given)
    return read(connection.getresponse())


def read(response: HTTPResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def send_raw(port: int, *pieces: bytes, answers: int = 1, method: str = "GET") -> list[Reply]:
    """Send bytes on a new connection, and return `answers` responses, or fewer if the cell closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOON) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return list(read_answers(connection, answers, method))


def read_answers(connection: socket.socket, count: int, method: str = "GET") -> Iterator[Reply]:
    file = connection.makefile("rb")
    for _ in range(count):
        if not file.peek(1):
            return
        response = HTTPResponse(_UnclosedFile(file), method=method)  # type: ignore[arg-type]
        response.begin()
        yield read(response)


class _UnclosedFile:
    """File shared by several HTTPResponse objects, each of which would close it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, *_: object) -> "_UnclosedFile":
        return self

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name == "close" else getattr(self._file, name)


def encode_request(method: str, path: str, key: str, *headers: str, body: bytes | None = None) -> bytes:
    """Return the bytes of a request. Content-Length is added for a body, unless a header says that it is chunked."""
    lines = [f"{method} {path} HTTP/1.1", "Host: cell", f"x-api-key: {key}", "Content-Type: application/json", *headers]
    if body is not None and not any("chunked" in line for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def event_body(stage: Stage, *, event_id: str | None = None, at: Instant = NOW, **changes: Any) -> dict[str, Any]:
    """Return the JSON object of an event."""
    invoice_id = changes.get("invoice_id", "INV-1")
    return {
        "event_id": event_id or f"{invoice_id}-{stage}",
        "invoice_id": invoice_id,
        "status": SUCCESS_STATUS[stage],
        "occurred_at": render(at),
        **FACTS_SENT,
        **changes,
    }


def run_concurrently(jobs: Iterable[Callable[[], object]]) -> None:
    """Run each job in its own thread, and raise the first exception of a job."""
    failures: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

"""Harness for the command line: a cell on a real port, a fake server, and commands run in this process."""

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from bems.cli import main
from bems.cli.files import LogFile, read_policy_file
from bems.embedded.clock import AcceleratedClock
from bems.embedded.service import Service
from bems.tracker.cells import Limits
from bems.tracker.instants import parse
from bems.tracker.requests import Role

START = "2026-03-02T10:00:00Z"


class Result(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    def error(self, code: int = 2) -> str:
        """Return the one-line error message, and assert the exit code."""
        assert (self.code, self.out, self.err.count("\n")) == (code, "", 1), self
        assert self.err.startswith("bems: ")
        return self.err.removeprefix("bems: ").rstrip("\n")


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> Result:
    """Run the command line in this process."""
    out, err, make = StringIO(), StringIO(), LogFile.__init__
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BEMS_") and not name.lower().endswith("_proxy")
    }
    with (
        ExitStack() as opened,
        TemporaryFile() as input_file,
        # Close the log at the end, as the exit of a process would.
        patch.object(LogFile, "__init__", lambda log, path: (make(log, path), opened.callback(close_log, log))[0]),
        patch("sys.stdin", input_file),
        patch.dict(os.environ, {**clean, **environment}, clear=True),
        patch("sys.argv", ["bems", *arguments]),
        patch("signal.signal"),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        input_file.write(stdin)
        input_file.seek(0)
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return Result(ended.value.code, out.getvalue(), err.getvalue())


def close_log(log: LogFile) -> None:
    log._raw.close()


class CliHarness:
    """A running cell whose clock the test advances."""

    def __init__(self, service: Service, clock: AcceleratedClock, folder: Path) -> None:
        self.service, self.clock, self.folder = service, clock, folder
        self.url = service.server.url
        self._keys: dict[str, str] = {}

    def key(self, role: Role) -> str:
        if role not in self._keys:
            self._keys[role] = self.service.keys.add(f"the-{role}", role, "tests", self.clock.now())[1]
        return self._keys[role]

    def bems(self, *arguments: str, role: Role = "admin", stdin: bytes = b"") -> Result:
        """Run a command with a key of a role."""
        return run(*arguments, stdin=stdin, BEMS_URL=self.url, BEMS_API_KEY=self.key(role))

    def send(self, *events: dict[str, Any], stage: str = "ingestion") -> None:
        sent = self.bems("send", "-", stdin=lines(*events, stage=stage))
        assert sent.code == 0, sent

    def advance_to(self, when: str) -> None:
        self.clock.advance_to(parse(when))
        self.service.writer.wake()


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[CliHarness]:
    clock = AcceleratedClock(parse(START), 1.0)
    quiet: dict[str, Any] = {"destinations": {"warning": [], "critical": []}, "limits": Limits(), "port": 0}
    policy = options.pop("policy", None) or read_policy_file(None)
    with Service(folder, policy, clock=clock, **{**quiet, **options}) as service:
        yield CliHarness(service, clock, folder)


class FakeResponse(NamedTuple):
    """A response of the fake server."""

    status: int
    body: Any
    headers: Mapping[str, str] = MappingProxyType({})


class FakeServer:
    """A fake cell: `answer` returns the response to each request, or None to close the connection."""

    def __init__(self, answer: Callable[["RecordedRequest"], FakeResponse | None]) -> None:
        self.requests: list[RecordedRequest] = []
        self.answer = answer
        fake_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                request = RecordedRequest(self.command, self.path, self.rfile.read(length), dict(self.headers))
                fake_server.requests.append(request)
                response = fake_server.answer(request)
                if response is None:
                    self.close_connection = True
                    return
                body = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
                self.send_response(response.status)
                kind = "text/html" if isinstance(response.body, bytes) else "application/json"
                for name, value in {"content-type": kind, "content-length": str(len(body)), **response.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def enable_tls(self, context: ssl.SSLContext) -> None:
        """Use TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class RecordedRequest(NamedTuple):
    """A request that the fake server received."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def events(self) -> list[dict[str, Any]]:
        sent = json.loads(self.body)
        return sent["events"] if self.path.endswith("/batch") else [sent]


StartFakeServer = Callable[[Callable[[RecordedRequest], FakeResponse | None]], FakeServer]


def event(event_id: str, status: str = "received", invoice_id: str | None = None, **other: Any) -> dict[str, Any]:
    """Return a valid event."""
    return {
        "event_id": event_id,
        "invoice_id": invoice_id or f"INV/{event_id}",
        "status": status,
        "occurred_at": "2026-03-02T09:00:00Z",
        "amount": "1250.00",
        "currency": "EUR",
        "vendor": {"id": "V-42", "name": "Acme [GmbH]"},
        "source": {"system": "sap"},
        **other,
    }


def lines(*events: dict[str, Any], stage: str = "ingestion") -> bytes:
    return b"".join(json.dumps({"stage": stage, "event": one}).encode() + b"\n" for one in events)

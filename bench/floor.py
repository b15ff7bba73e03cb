"""The floor: a minimal engine that receives events over HTTP and stores them durably.

It uses the cell's server (uvicorn with our protocol, in a separate process). It appends each body unchanged to a file
and responds when the body is on disk, with one write and one sync for all bodies that arrived during the last sync.
With `--gate`, events are parsed and validated first. It has no keys, deduplication, decisions, timers, queries or
analytics.

The cell's CPU time is given as a multiple of the floor with the gate, measured in the same run: a multiple is
comparable between machines, a core-second is not. Run it as `python -m bench.floor FOLDER [--gate]`.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from starlette.types import Receive, Scope, Send

from bems.cli.commands.up import shutdown_signal, tuned_gc
from bems.embedded.api.bodies import send_response
from bems.embedded.api.server import Server
from bems.embedded.writer import COALESCE_BELOW_ITEMS, COALESCE_SECONDS
from bems.tracker import responses
from bems.tracker.contract import STAGES, Stage
from bems.tracker.parsing import InvalidEvent, parse_event
from bems.tracker.responses import HttpResponse
from bench.cell import post
from bench.client import Client
from bench.processes import cpu_seconds

PATHS: dict[str, Stage] = {f"/invoices/{stage}": stage for stage in STAGES}
ACCEPTED = HttpResponse(202, {"content-type": responses.JSON}, b'{"status":"accepted"}')
LOG = "floor.log"

_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Appender:
    """Appends bodies to a file in a separate thread. Bodies that arrive during a write and sync go into the next one.

    With few bodies in the queue it waits for more, as the cell's writer does, so that both sync groups of similar size.
    """

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._loop = loop
        self._queue: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="floor-appender", daemon=True).start()

    def append(self, body: bytes) -> "asyncio.Future[None]":
        """Return a future that is done when the body is on disk."""
        awaited: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            self._queue.append((body, awaited))
            if len(self._queue) == 1:
                self._changed.notify()
        return awaited

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                group = [self._queue.popleft() for _ in range(len(self._queue))]
            content = b"".join(b"%d\n%s\n" % (len(body), body) for body, _ in group)
            while content:
                content = content[os.write(self._file, content) :]
            _sync(self._file)
            self._loop.call_soon_threadsafe(_resolve, [awaited for _, awaited in group])
            if 0 < len(self._queue) < COALESCE_BELOW_ITEMS:
                time.sleep(COALESCE_SECONDS)


def _resolve(group: "list[asyncio.Future[None]]") -> None:
    for awaited in group:
        if not awaited.done():
            awaited.set_result(None)


class App:
    """ASGI application; with `gate`, it parses and validates events. Create it in the event loop that serves it."""

    def __init__(self, folder: Path, *, gate: bool) -> None:
        self._appender = Appender(folder / LOG, asyncio.get_running_loop())
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a POST to one of PATHS."""
        if scope["type"] != "http":
            return
        stage = PATHS.get(scope["path"])
        if stage is None or scope["method"] != "POST":
            await send_response(send, responses.not_found("the floor takes events only"))
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answer = ACCEPTED
        if self._gate:
            event = parse_event(stage, body, time.time_ns() // 1_000)
            if isinstance(event, InvalidEvent):
                await send_response(send, responses.bad_request(event))
                return
            answer = responses.accepted(event.event_id)
        await self._appender.append(body)
        await send_response(send, answer)


class Floor:
    """A running floor in a separate process."""

    def __init__(self, folder: Path, *, gate: bool) -> None:
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "bench.floor", str(folder), *(["--gate"] if gate else [])]
        with folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout
        url = self.process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the floor did not start: {folder.with_suffix('.log').read_text()}")
        self.client = Client(url, {"content-type": "application/json"}, post)

    def cpu_seconds(self) -> float:
        return cpu_seconds([self.process.pid])

    async def wait_for_analytics(self) -> None:
        """Do nothing: the floor has no work left after its response."""

    def __enter__(self) -> "Floor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.floor", description="Run the minimal engine that the cell is compared with."
    )
    parser.add_argument("folder", type=Path, help="folder for the events")
    parser.add_argument("--gate", action="store_true", help="parse and validate each event first")
    arguments = parser.parse_args()
    ended = shutdown_signal()
    server = Server(lambda: App(arguments.folder, gate=arguments.gate), "127.0.0.1", 0).start()
    with tuned_gc():
        print(server.url, flush=True)
        while not ended(1.0):
            pass
    server.stop()


if __name__ == "__main__":
    main()

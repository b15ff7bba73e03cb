"""Minimal HTTP/1.1 client with persistent connections, for generating load.

It runs on the measured machine, so it uses as little CPU as possible.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

from bench.events import Event

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ANSWER_TIMEOUT_SECONDS = 60.0
"""Time after which a response counts as missing."""


class Connection:
    """A connection that sends one request at a time."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        split = urlsplit(url)
        self._host, self._port = split.hostname, split.port
        lines = [f"{name}: {value}\r\n" for name, value in {"host": split.netloc, **headers}.items()]
        self._headers = "".join(lines).encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and return status and body. Reconnects if the server closed the idle connection."""
        reused = self._writer is not None
        try:
            return await self._exchange(method, path, body)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if not reused or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                raise
            self.close()
            return await self._exchange(method, path, body)

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._reader, self._writer
        head = b"%s %s HTTP/1.1\r\n%scontent-length: %d\r\n\r\n" % (
            method.encode(),
            path.encode(),
            self._headers,
            len(body),
        )
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(answer)
        content = await reader.readexactly(int(found[1])) if found else b""
        if b"connection: close" in answer.lower():
            self.close()
        return int(answer[9:12]), content

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def close_and_wait(self) -> None:
        """Close the connection and wait until it is closed."""
        writer = self._writer
        self.close()
        if writer is not None:
            with suppress(OSError):
                await writer.wait_closed()


@dataclass
class LoadResult:
    """Result of a load. `latencies` are those of the requests in seconds; `statuses` counts events by status."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    elapsed_seconds: float = 0.0
    """Seconds until the last response."""

    send_seconds: float = 0.0
    """Seconds until the last event was sent; open loop only."""

    @property
    def accepted(self) -> int:
        """Number of events with a 2xx response."""
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)

    @property
    def rate(self) -> float:
        """Accepted events per second."""
        return self.accepted / self.elapsed_seconds

    def percentile(self, share: float) -> float:
        """Return the latency in milliseconds below which this share of the requests was answered."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    def latency(self) -> str:
        return f"{self.percentile(0.5):.1f} / {self.percentile(0.99):.1f} ms"


Post = Callable[[Connection, Event], Awaitable[int]]
"""Sends an event over a connection and returns the response status."""


class Client:
    """Sends events to one engine. `post` translates an event into the engine's request."""

    def __init__(self, url: str, headers: dict[str, str], post: Post) -> None:
        self._url, self._headers, self.post = url, headers, post

    def connect(self) -> Connection:
        return Connection(self._url, self._headers)

    async def closed_loop(
        self, events: Iterable[Event], connections: int, *, seconds: float | None = None
    ) -> LoadResult:
        """Send all events, or as many as `seconds` allow. Each connection sends its next event after a response."""
        result, remaining = LoadResult(), iter(events)
        started = time.perf_counter()
        deadline = started + (seconds or 1e9)

        async def send_events() -> None:
            connection = self.connect()
            for event in remaining:
                await self._send(connection, event, time.perf_counter(), result)
                if time.perf_counter() > deadline:
                    break
            await connection.close_and_wait()

        await asyncio.gather(*(send_events() for _ in range(connections)))
        result.elapsed_seconds = time.perf_counter() - started
        return result

    async def open_loop(
        self,
        events: Iterable[Event],
        rate: float,
        connections: int,
        *,
        seed: int = 1,
        window: int = 1_000,
        is_done: Callable[[], bool] = lambda: False,
    ) -> LoadResult:
        """Send events at `rate` events per second on average, as a Poisson process, without waiting for responses.

        A latency is measured from the scheduled time of the request. Events beyond `window` unanswered requests wait
        for a response, because the number of sockets is limited. The load ends after the last event, or when `is_done`
        returns true.
        """
        result, random, free = LoadResult(), Random(seed), [self.connect() for _ in range(connections)]
        pending: set[asyncio.Task[None]] = set()
        started = due = time.perf_counter()

        async def send(connection: Connection, event: Event, due: float) -> None:
            try:
                await self._send(connection, event, due, result)
            finally:
                free.append(connection)

        for event in events:
            if is_done():
                break
            due += random.expovariate(rate / event.number)
            while (pause := due - time.perf_counter()) > 0:
                # A timer may be a millisecond late, so wait for the rest in iterations of the event loop.
                await asyncio.sleep(pause - 0.001 if pause > 0.0015 else 0)
            while len(pending) >= window:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(send(free.pop() if free else self.connect(), event, due))
            pending.add(task)
            task.add_done_callback(pending.discard)
        result.send_seconds = time.perf_counter() - started
        if pending:
            await asyncio.wait(pending)
        result.elapsed_seconds = time.perf_counter() - started
        for connection in free:
            await connection.close_and_wait()
        return result

    async def _send(self, connection: Connection, event: Event, due: float, result: LoadResult) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                status = await self.post(connection, event)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            connection.close()
            status = 0
        result.latencies.append(time.perf_counter() - due)
        result.statuses[status] += event.number


async def get_json(connection: Connection, path: str) -> Any:
    """The answer of a GET, which must be 200."""
    status, body = await connection.request("GET", path)
    if status != 200:
        raise RuntimeError(f"GET {path}: {status} {body[:200]!r}")
    return json.loads(body)

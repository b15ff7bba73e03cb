"""Load generator: sends every event once, at its time, and counts every response."""

import asyncio
import time
from collections import Counter
from itertools import count
from typing import Any

import pytest

from bench.client import Client, Connection, LoadResult
from bench.events import Event

EVENTS = [Event("ingestion", f"i{number}", f"e{number}", b"{}") for number in range(60)]


class Server:
    """Responds after a delay. With faults, it answers every fifth request with 503 and disconnects at every seventh."""

    def __init__(self, delay: float = 0.0, faults: bool = False) -> None:
        self.delay, self.faults = delay, faults
        self.connections = self.requests = self.waiting = self.max_waiting = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
            except asyncio.IncompleteReadError:
                break
            self.requests += 1
            number = self.requests
            self.waiting += 1
            self.max_waiting = max(self.max_waiting, self.waiting)
            await asyncio.sleep(self.delay)
            self.waiting -= 1
            if self.faults and number % 7 == 0:
                break
            status = 503 if self.faults and number % 5 == 0 else 202
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)
        writer.close()
        await writer.wait_closed()


async def post(connection: Connection, event: Event) -> int:
    status, _ = await connection.request("POST", f"/{event.stage}", event.body)
    return status


async def load(server: Server, run: str, *arguments: float, **options: Any) -> LoadResult:
    async with await asyncio.start_server(server, "127.0.0.1") as listener:
        port = listener.sockets[0].getsockname()[1]
        client = Client(f"http://127.0.0.1:{port}", {}, post)
        result: LoadResult = await getattr(client, run)(EVENTS, *arguments, **options)
        return result


def test_a_closed_loop_reuses_its_connections() -> None:
    server = Server()
    result = asyncio.run(load(server, "closed_loop", 4))
    assert result.statuses == Counter({202: 60}) and len(result.latencies) == 60
    assert (server.connections, server.requests, result.accepted) == (4, 60, 60)


def test_refused_events_are_not_accepted_and_disconnected_requests_are_repeated() -> None:
    server = Server(faults=True)
    result = asyncio.run(load(server, "closed_loop", 3))
    assert set(result.statuses) == {202, 503} and server.requests > 60
    assert sum(result.statuses.values()) == 60
    assert result.accepted == result.statuses[202]


def test_an_open_loop_does_not_wait_for_responses() -> None:
    server = Server(delay=0.2)
    begun = time.monotonic()
    result = asyncio.run(load(server, "open_loop", 1_000, 2))
    assert result.statuses[202] == 60
    assert server.max_waiting > 20, "requests were sent while others waited"
    assert time.monotonic() - begun < 0.2 * 60 / 2, "two connections in a closed loop would have taken this long"
    assert min(result.latencies) >= 0.19


def test_a_window_limits_unanswered_requests_and_waiting_counts_as_latency() -> None:
    server = Server(delay=0.05)
    result = asyncio.run(load(server, "open_loop", 100_000, 2, window=10))
    assert server.max_waiting <= 10
    assert max(result.latencies) > 0.2, "the last request waited for five earlier groups"


def test_an_open_loop_ends_when_it_is_done() -> None:
    server, calls = Server(), count()
    # Do not count at the server: a client that is late sends everything before the server task runs.
    result = asyncio.run(load(server, "open_loop", 1_000, 2, is_done=lambda: next(calls) >= 10))
    assert 10 == sum(result.statuses.values()) == server.requests
    assert 0 < result.send_seconds <= result.elapsed_seconds


@pytest.mark.parametrize(("share", "expected"), [(0.5, 51.0), (0.99, 100.0), (0.0, 1.0)])
def test_percentiles_are_in_milliseconds(share: float, expected: float) -> None:
    result = LoadResult([number / 1000 for number in range(100, 0, -1)], Counter({202: 100}), 2.0)
    assert result.percentile(share) == pytest.approx(expected)
    assert result.rate == 50

"""The load generator: everything is sent once, at its time, and every answer is counted."""

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
    """Answers after a while; every fifth request 503, and hangs up on every seventh."""

    def __init__(self, delay: float = 0.0, faults: bool = False) -> None:
        self.delay, self.faults = delay, faults
        self.connections = self.requests = self.waiting = self.most = 0

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
            self.most = max(self.most, self.waiting)
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
    async with await asyncio.start_server(server, "127.0.0.1") as listening:
        port = listening.sockets[0].getsockname()[1]
        client = Client(f"http://127.0.0.1:{port}", {}, post)
        result: LoadResult = await getattr(client, run)(EVENTS, *arguments, **options)
        return result


def test_a_closed_load_keeps_its_connections() -> None:
    server = Server()
    result = asyncio.run(load(server, "closed_loop", 4))
    assert result.statuses == Counter({202: 60}) and len(result.latencies) == 60
    assert (server.connections, server.requests, result.accepted) == (4, 60, 60)


def test_what_is_refused_is_not_accepted_and_who_is_hung_up_on_sends_again() -> None:
    server = Server(faults=True)
    result = asyncio.run(load(server, "closed_loop", 3))
    assert set(result.statuses) == {202, 503} and server.requests > 60
    assert sum(result.statuses.values()) == 60
    assert result.accepted == result.statuses[202]


def test_an_open_load_does_not_wait_for_answers() -> None:
    server = Server(delay=0.2)
    begun = time.monotonic()
    result = asyncio.run(load(server, "open_loop", 1_000, 2))
    assert result.statuses[202] == 60
    assert server.most > 20, "they were sent while others waited"
    assert time.monotonic() - begun < 0.2 * 60 / 2, "two connections that wait would have taken so long"
    assert min(result.latencies) >= 0.19


def test_a_window_bounds_what_is_unanswered_and_the_wait_counts() -> None:
    server = Server(delay=0.05)
    result = asyncio.run(load(server, "open_loop", 100_000, 2, window=10))
    assert server.most <= 10
    assert max(result.latencies) > 0.2, "the last had to wait for five others before it"


def test_an_open_load_ends_when_there_was_enough() -> None:
    server, asked = Server(), count()
    # Not what the server has met with: a client that is late sends all before the server's turn comes.
    result = asyncio.run(load(server, "open_loop", 1_000, 2, is_done=lambda: next(asked) >= 10))
    assert 10 == sum(result.statuses.values()) == server.requests
    assert 0 < result.send_seconds <= result.elapsed_seconds


@pytest.mark.parametrize(("share", "expected"), [(0.5, 51.0), (0.99, 100.0), (0.0, 1.0)])
def test_percentiles(share: float, expected: float) -> None:
    result = LoadResult([number / 1000 for number in range(100, 0, -1)], Counter({202: 100}), 2.0)
    assert result.percentile(share) == pytest.approx(expected)
    assert result.rate == 50

"""The open loop: events that come when they come, at the rate of the month's end, and what happens past capacity."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import uvloop

from bench.cell import Cell
from bench.client import Connection, LoadResult, get_json
from bench.events import Event, lifecycles
from bench.figures import Figure
from bench.figures.floor import describe_multiple, floor_baseline

EVENTS_PER_SECOND, SECONDS = 1_000, 60
EVENTS_PER_PROBE = 200
"""Of so many events, one is looked for in `GET /invoices/{id}` as soon as it is answered."""

OVERLOAD_EVENTS_PER_SECOND, OVERLOAD_SECONDS = 8_000, 10


def measure(folder: Path) -> Iterator[Figure]:
    """1,000 events a second for a minute, each answered when durable and visible; then far more than it can do."""
    with floor_baseline(folder) as floor, Cell(folder / "open-loop") as cell:
        uvloop.run(cell.client.closed_loop(lifecycles(500, prefix="W"), 8))
        events = lifecycles(EVENTS_PER_SECOND * SECONDS // 4, prefix="O")
        floor_cost = floor.measure()
        before, probe = cell.cpu_seconds(), VisibilityProbe(cell)
        result = uvloop.run(probe.run(events))
        cores = (cell.cpu_seconds() - before) / result.elapsed_seconds
        cost, floor_cost = cores * result.elapsed_seconds / result.accepted * 1000, (floor_cost + floor.measure()) / 2
        p50, p99 = result.percentile(0.5), result.percentile(0.99)
        refused = len(events) - result.accepted
        yield Figure(
            f"open loop, {EVENTS_PER_SECOND:,} events/s for {SECONDS} s, from the request's time to durable and visible, p50 / p99",
            f"{p50:.1f} / {p99:.1f} ms, {refused} refused",
            "10 / 50 ms",
            "5 / 25 ms",
            p50 <= 10 and p99 <= 50 and not refused,
        )
        yield Figure("the same: CPU per 1,000 events", describe_multiple(cost, floor_cost))
        yield Figure("the same: cores that the cell took", f"{cores:.2f}", "0.50", "", cores <= 0.5)
        yield Figure(
            f"the same: {len(probe.seconds):,} of them looked for at once by `GET /invoices/{{id}}`",
            f"all there, answered after {probe.latency()} (p50 / p99)",
        )
    with Cell(folder / "overload") as cell:
        events = lifecycles(OVERLOAD_EVENTS_PER_SECOND * OVERLOAD_SECONDS // 4, prefix="X")
        result = uvloop.run(cell.client.open_loop(events, OVERLOAD_EVENTS_PER_SECOND, 500, window=4_000))
        uvloop.run(cell.wait_for_analytics())
        stored = uvloop.run(count(cell))
        answers = ", ".join(
            f"{number:,} x {status or 'no answer'}" for status, number in sorted(result.statuses.items())
        )
        answered = sum(result.statuses.values()) - result.statuses[0]
        yield Figure(
            f"past capacity: {len(events):,} events, {OVERLOAD_EVENTS_PER_SECOND:,} a second as far as 4,000 unanswered ones allow",
            f"{len(events) / result.send_seconds:,.0f}/s offered: {answers}; {stored:,} in the store; "
            f"{result.rate:,.0f} accepted/s; {cell.memory_mb():.0f} MB",
            "429 or 503, nothing lost",
            "",
            answered == len(events) and result.statuses[202] == stored,
        )


class VisibilityProbe:
    """Sends events in the open loop, and looks for some of them when they are answered."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.seconds: list[float] = []

    def latency(self) -> str:
        ordered = sorted(self.seconds)
        return f"{ordered[len(ordered) // 2] * 1000:.1f} / {ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms"

    async def run(self, events: list[Event]) -> LoadResult:
        client, sent = self._cell.client, 0
        post = client.post
        free: list[Connection] = []

        async def post_and_probe(connection: Connection, event: Event) -> int:
            nonlocal sent
            status = await post(connection, event)
            sent += 1
            if status == 202 and sent % EVENTS_PER_PROBE == 0:
                probe = free.pop() if free else self._cell.connect()
                lookups.add(asyncio.create_task(self._look(probe, free, event)))
            return status

        lookups: set[asyncio.Task[None]] = set()
        client.post = post_and_probe
        try:
            result = await client.open_loop(events, EVENTS_PER_SECOND, 64)
            await asyncio.gather(*lookups)
        finally:
            client.post = post
        return result

    async def _look(self, connection: Connection, free: list[Connection], event: Event) -> None:
        begun = time.perf_counter()
        view = await get_json(connection, f"/invoices/{quote(event.invoice_id, safe='')}")
        if not any(row.get("event_id") == event.event_id for row in view["transitions"]):
            raise RuntimeError(f"{event.event_id} was accepted and is not in the transitions of {event.invoice_id}")
        self.seconds.append(time.perf_counter() - begun)
        free.append(connection)


async def count(cell: Cell) -> int:
    """Accepted events in the store."""
    connection = cell.connect()
    books = await get_json(connection, "/check")
    connection.close()
    return int(books["accepted"])

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
from bench.figures.floor import told, unit

RATE, SECONDS = 1_000, 60
LOOKED_AT = 200
"""Of so many events, one is looked for in `GET /invoices/{id}` as soon as it is answered."""

OVERLOAD, OVERLOAD_SECONDS = 8_000, 10


def measure(folder: Path) -> Iterator[Figure]:
    """1,000 events a second for a minute, each answered when durable and visible; then far more than it can do."""
    with unit(folder) as floor, Cell(folder / "open-loop") as cell:
        uvloop.run(cell.client.closed(lifecycles(500, prefix="W"), 8))
        events = lifecycles(RATE * SECONDS // 4, prefix="O")
        of = floor.measure()
        before, looker = cell.cpu_seconds(), Looker(cell)
        takings = uvloop.run(looker.run(events))
        cores = (cell.cpu_seconds() - before) / takings.elapsed
        cost, of = cores * takings.elapsed / takings.accepted * 1000, (of + floor.measure()) / 2
        p50, p99 = takings.percentile(0.5), takings.percentile(0.99)
        refused = len(events) - takings.accepted
        yield Figure(
            f"open loop, {RATE:,} events/s for {SECONDS} s, from the request's time to durable and visible, p50 / p99",
            f"{p50:.1f} / {p99:.1f} ms, {refused} refused",
            "10 / 50 ms",
            "5 / 25 ms",
            p50 <= 10 and p99 <= 50 and not refused,
        )
        yield Figure("the same: CPU per 1,000 events", told(cost, of))
        yield Figure("the same: cores that the cell took", f"{cores:.2f}", "0.50", "", cores <= 0.5)
        yield Figure(
            f"the same: {len(looker.seconds):,} of them looked for at once by `GET /invoices/{{id}}`",
            f"all there, answered after {looker.latency()} (p50 / p99)",
        )
    with Cell(folder / "overload") as cell:
        events = lifecycles(OVERLOAD * OVERLOAD_SECONDS // 4, prefix="X")
        takings = uvloop.run(cell.client.open(events, OVERLOAD, 500, window=4_000))
        uvloop.run(cell.fed())
        stored = uvloop.run(count(cell))
        answers = ", ".join(
            f"{number:,} x {status or 'no answer'}" for status, number in sorted(takings.statuses.items())
        )
        answered = sum(takings.statuses.values()) - takings.statuses[0]
        yield Figure(
            f"past capacity: {len(events):,} events, {OVERLOAD:,} a second as far as 4,000 unanswered ones allow",
            f"{len(events) / takings.sending:,.0f}/s offered: {answers}; {stored:,} in the store; "
            f"{takings.rate:,.0f} accepted/s; {cell.memory_mb():.0f} MB",
            "429 or 503, nothing lost",
            "",
            answered == len(events) and takings.statuses[202] == stored,
        )


class Looker:
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

        async def post_and_look(connection: Connection, event: Event) -> int:
            nonlocal sent
            status = await post(connection, event)
            sent += 1
            if status == 202 and sent % LOOKED_AT == 0:
                looker = free.pop() if free else self._cell.connect()
                looking.add(asyncio.create_task(self._look(looker, free, event)))
            return status

        looking: set[asyncio.Task[None]] = set()
        client.post = post_and_look
        try:
            takings = await client.open(events, RATE, 64)
            await asyncio.gather(*looking)
        finally:
            client.post = post
        return takings

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

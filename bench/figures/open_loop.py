"""Open loop: events sent at the fixed rate of a month's end, and above the cell's capacity."""

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

RATE, SECONDS = 1_000, 60
"""Events per second, and the duration."""

EVENTS_PER_PROBE = 200
"""One event in this number is looked up with `GET /invoices/{id}` as soon as it is accepted."""

OVERLOAD_RATE, OVERLOAD_SECONDS = 8_000, 10
"""Events per second, and the duration."""


def measure(folder: Path) -> Iterator[Figure]:
    """Send 1,000 events per second for a minute, then more than the cell can handle."""
    with floor_baseline(folder) as floor, Cell(folder / "open-loop") as cell:
        uvloop.run(cell.client.closed_loop(lifecycles(500, prefix="W"), 8))
        events = lifecycles(RATE * SECONDS // 4, prefix="O")
        floor_cost = floor.measure()
        before, probe = cell.cpu_seconds(), VisibilityProbe(cell)
        result = uvloop.run(probe.run(events))
        cores = (cell.cpu_seconds() - before) / result.elapsed_seconds
        cost, floor_cost = cores * result.elapsed_seconds / result.accepted * 1000, (floor_cost + floor.measure()) / 2
        p50, p99 = result.percentile(0.5), result.percentile(0.99)
        refused = len(events) - result.accepted
        yield Figure(
            f"open loop, {RATE:,} events/s for {SECONDS} s, from the request's time to durable and visible, p50 / p99",
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
        events = lifecycles(OVERLOAD_RATE * OVERLOAD_SECONDS // 4, prefix="X")
        result = uvloop.run(cell.client.open_loop(events, OVERLOAD_RATE, 500, window=4_000))
        uvloop.run(cell.wait_for_analytics())
        stored = uvloop.run(count(cell))
        answers = ", ".join(
            f"{number:,} x {status or 'no answer'}" for status, number in sorted(result.statuses.items())
        )
        answered = sum(result.statuses.values()) - result.statuses[0]
        yield Figure(
            f"past capacity: {len(events):,} events, {OVERLOAD_RATE:,} a second as far as 4,000 unanswered ones allow",
            f"{len(events) / result.send_seconds:,.0f}/s offered: {answers}; {stored:,} in the store; "
            f"{result.rate:,.0f} accepted/s; {cell.memory_mb():.0f} MB",
            "429 or 503, nothing lost",
            "",
            answered == len(events) and result.statuses[202] == stored,
        )


class VisibilityProbe:
    """Sends events in the open loop and looks up some of them as soon as they are accepted."""

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
            result = await client.open_loop(events, RATE, 64)
            await asyncio.gather(*lookups)
        finally:
            client.post = post
        return result

    async def _look(self, connection: Connection, free: list[Connection], event: Event) -> None:
        started = time.perf_counter()
        view = await get_json(connection, f"/invoices/{quote(event.invoice_id, safe='')}")
        if not any(row.get("event_id") == event.event_id for row in view["transitions"]):
            raise RuntimeError(f"{event.event_id} was accepted and is not in the transitions of {event.invoice_id}")
        self.seconds.append(time.perf_counter() - started)
        free.append(connection)


async def count(cell: Cell) -> int:
    """Return the number of accepted events in the store."""
    connection = cell.connect()
    check = await get_json(connection, "/check")
    connection.close()
    return int(check["accepted"])

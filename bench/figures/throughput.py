"""Throughput: what an event costs, one a request and in batches, how much the cell takes at the most, and how long its
answers take on the way there."""

from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.cell import Cell
from bench.client import Takings
from bench.events import Event, batches, lifecycles
from bench.figures import Figure

INVOICES = 10_000
CURVE = {False: (1, 4, 16, 32, 64, 200), True: (1, 2, 4, 8, 16)}
"""Connections; the cost is taken at 200, and at 4 for batches, where each has as many events under way."""

CURVE_INVOICES = 2_000
TARGETS = {False: (200, 0.30, 0.15), True: (4, 0.15, 0.08)}


def measure(folder: Path) -> Iterator[Figure]:
    """CPU per 1,000 events, and the latency curve up to saturation, of connections that send as soon as they are
    answered."""
    for batched, name in ((False, "single-event requests"), (True, "batches of 100")):
        connections, must, aim = TARGETS[batched]
        with Cell(folder / f"throughput-{batched:d}") as cell:
            takings, seconds = run(cell, lifecycles(INVOICES, prefix="C"), batched, connections)
            cost = seconds / takings.accepted * 1000
            yield Figure(
                f"CPU of the cell per 1,000 events, {name}, {connections} connections",
                f"{cost:.3f} core-seconds",
                f"{must:.2f}",
                f"{aim:.2f}",
                cost <= must,
            )
            yield Figure(
                f"{name}, {connections} connections that never pause",
                f"{takings.rate:,.0f} events/s, p50 / p99 {takings.latency()}",
            )
            points = []
            for number in CURVE[batched]:
                takings, seconds = run(cell, lifecycles(CURVE_INVOICES, prefix=f"L{number}"), batched, number)
                cost = seconds / takings.accepted * 1000
                points.append(f"{number}: {takings.rate:,.0f}/s, {takings.latency()}, {cost:.2f}")
            yield Figure(
                f"the latency curve, {name}: connections, events/s, p50 / p99, core-seconds per 1,000",
                "<br>".join(points),
            )


def run(cell: Cell, events: list[Event], batched: bool, connections: int) -> tuple[Takings, float]:
    """What the load met with, and the core-seconds of the cell, all its threads, DuckDB's too."""
    before = cell.cpu_seconds()
    takings = uvloop.run(cell.client.closed(batches(events) if batched else events, connections))
    if takings.accepted != len(events):
        raise RuntimeError(f"{len(events)} events were sent and {takings.accepted} accepted: {takings.statuses}")
    uvloop.run(cell.fed())
    return takings, cell.cpu_seconds() - before

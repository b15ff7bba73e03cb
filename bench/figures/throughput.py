"""Throughput: what an event costs, and how much the cell takes at the most, one event a request and in batches."""

from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.cell import Cell
from bench.client import Takings
from bench.events import Event, batches, lifecycles
from bench.figures import Figure

INVOICES = 10_000
CONNECTIONS = 32
BATCH_CONNECTIONS = 4


def measure(folder: Path) -> Iterator[Figure]:
    """CPU per 1,000 events, events a second and latencies, with connections that send as soon as they are answered."""
    for name, batched, must, aim in (
        ("single-event requests", False, 0.30, 0.15),
        ("batches of 100", True, 0.15, 0.08),
    ):
        events = lifecycles(INVOICES, prefix="B" if batched else "S")
        sent = list(batches(events)) if batched else events
        connections = BATCH_CONNECTIONS if batched else CONNECTIONS
        with Cell(folder / name.replace(" ", "-")) as cell:
            takings, seconds = run(cell, sent, connections)
        if takings.accepted != len(events):
            raise RuntimeError(f"{len(events)} events were sent and {takings.accepted} accepted: {takings.statuses}")
        cost = seconds / takings.accepted * 1000
        yield Figure(
            f"CPU of the cell per 1,000 events, {name}",
            f"{cost:.3f} core-seconds",
            f"{must:.2f}",
            f"{aim:.2f}",
            cost <= must,
        )
        yield Figure(
            f"{name}, {connections} connections that never pause", f"{takings.rate:,.0f} events/s, {takings.latency()}"
        )


def run(cell: Cell, events: list[Event], connections: int) -> tuple[Takings, float]:
    """What the load met with, and the core-seconds of the cell, all its threads, DuckDB's too."""
    before = cell.cpu_seconds()
    takings = uvloop.run(cell.client.closed(events, connections))
    return takings, cell.cpu_seconds() - before

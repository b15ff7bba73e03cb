"""Throughput: cost per event for single events and batches, maximum throughput, and latencies up to it.

Costs are multiples of the floor with the gate for single events over 200 connections, measured in the same run.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.cell import Cell
from bench.events import batches, lifecycles
from bench.figures import Figure
from bench.figures.floor import BUDGET, describe_multiple, floor_baseline, run

INVOICES = 10_000
CURVE = {False: (1, 4, 16, 32, 64, 200), True: (1, 2, 4, 8, 16)}
"""Numbers of connections, by whether requests are batches. The cost is measured at 200, and at 4 for batches, which
have as many events in flight."""

CURVE_INVOICES = 2_000
TARGETS = {False: (200, BUDGET, 3.0), True: (4, 2.6, 1.5)}
"""Number of connections, required multiple and goal, by whether requests are batches."""


def measure(folder: Path) -> Iterator[Figure]:
    """Measure CPU per event and latency up to saturation, in a closed loop."""
    with floor_baseline(folder) as floor:
        for batched, name in ((False, "single-event requests"), (True, "batches of 100")):
            connections, must, aim = TARGETS[batched]
            with Cell(folder / f"throughput-{batched:d}") as cell:
                before, sent = floor.measure(), lifecycles(INVOICES, prefix="C")
                result, seconds = run(cell, list(batches(sent)) if batched else sent, connections)
                cost, floor_cost = seconds / result.accepted * 1000, (before + floor.measure()) / 2
                yield Figure(
                    f"CPU of the cell per 1,000 events, {name}, {connections} connections",
                    describe_multiple(cost, floor_cost),
                    f"{must} x",
                    f"{aim} x",
                    round(cost / floor_cost, 1) <= must,
                )
                yield Figure(
                    f"{name}, {connections} connections that never pause",
                    f"{result.rate:,.0f} events/s, p50 / p99 {result.latency()}",
                )
                points = []
                for number in CURVE[batched]:
                    sent = lifecycles(CURVE_INVOICES, prefix=f"L{number}")
                    result, seconds = run(cell, list(batches(sent)) if batched else sent, number)
                    multiple = seconds / result.accepted * 1000 / floor_cost
                    points.append(f"{number}: {result.rate:,.0f}/s, {result.latency()}, {multiple:.1f} x")
                yield Figure(
                    f"the latency curve, {name}: connections, events/s, p50 / p99, CPU as a multiple of the floor",
                    "<br>".join(points),
                )

"""CPU time per event of the cell, as a multiple of the floor, a minimal engine.

The two floors (see `bench.floor`) and the cell take turns, so that other load on the machine affects all of them alike.
The result is the median of the rounds' multiples.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from bench.cell import Cell
from bench.client import LoadResult
from bench.events import Event, lifecycles
from bench.figures import Figure
from bench.floor import Floor

CONNECTIONS = (200, 32)
BUDGET = 4.4
"""Maximum multiple of the floor with the gate for single events, for every change. 4.8 with the console's read model,
which is updated with every event."""

ROUNDS, INVOICES, WARM_UP_INVOICES = 5, 2_000, 500
BASELINE_ROUNDS = 3


@dataclass
class Costs:
    """Core-seconds per 1,000 events of the two floors and the cell, by round."""

    floor: list[float] = field(default_factory=list)
    floor_with_gate: list[float] = field(default_factory=list)
    cell: list[float] = field(default_factory=list)

    def multiple(self) -> float:
        """Return the median over the rounds of the cell's cost divided by that of the floor with the gate."""
        return median(cell / floor for cell, floor in zip(self.cell, self.floor_with_gate, strict=True))

    def describe(self) -> str:
        return f"{median(self.floor):.3f} / {median(self.floor_with_gate):.3f} / {median(self.cell):.3f}"

    def describe_rounds(self) -> str:
        multiples = sorted(cell / floor for cell, floor in zip(self.cell, self.floor_with_gate, strict=True))
        return f"{multiples[0]:.2f} to {multiples[-1]:.2f}"


def measure(folder: Path, budget: float = BUDGET) -> Iterator[Figure]:
    """Measure single events over 200 and over 32 connections."""
    with ExitStack() as engines:
        floor = engines.enter_context(Floor(folder / "floor", gate=False))
        with_gate = engines.enter_context(Floor(folder / "floor-with-gate", gate=True))
        cell = engines.enter_context(Cell(folder / "cell"))
        for engine in (floor, with_gate, cell):
            run(engine, lifecycles(WARM_UP_INVOICES, prefix="W"), CONNECTIONS[0])
        for connections in CONNECTIONS:
            costs = Costs()
            for number in range(ROUNDS):
                events = lifecycles(INVOICES, prefix=f"R{connections}-{number}")
                costs.floor.append(cost(floor, events, connections))
                costs.floor_with_gate.append(cost(with_gate, events, connections))
                costs.cell.append(cost(cell, events, connections))
            multiple = costs.multiple()
            yield Figure(
                f"CPU of the cell as a multiple of the floor with the gate, single events by {connections} connections",
                f"{multiple:.1f} x ({costs.describe_rounds()} in {ROUNDS} rounds)",
                f"{budget} x",
                "",
                round(multiple, 1) <= budget,
            )
            yield Figure(
                "the same, as it was measured: core-seconds per 1,000 events of floor / floor with gate / cell",
                costs.describe(),
            )


class FloorBaseline:
    """The floor with the gate, measured next to another experiment as the unit of its CPU time."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._runs = 0
        run(floor, lifecycles(WARM_UP_INVOICES, prefix="W"), CONNECTIONS[0])

    def measure(self) -> float:
        """Return the floor's current core-seconds per 1,000 single events over 200 connections."""
        self._runs += 1
        rounds = [lifecycles(INVOICES // 2, prefix=f"U{self._runs}-{number}") for number in range(BASELINE_ROUNDS)]
        return median(cost(self._floor, events, CONNECTIONS[0]) for events in rounds)


@contextmanager
def floor_baseline(folder: Path) -> Iterator[FloorBaseline]:
    """Run a floor to compare with inside the block."""
    with Floor(folder / "unit", gate=True) as floor:
        yield FloorBaseline(floor)


def describe_multiple(seconds: float, floor_seconds: float) -> str:
    """Return a cost as a multiple of the floor's and in core-seconds."""
    return f"{seconds / floor_seconds:.1f} x the floor ({seconds:.3f} core-seconds)"


def cost(engine: Floor | Cell, events: Sequence[Event], connections: int) -> float:
    """Return the core-seconds per 1,000 events."""
    result, seconds = run(engine, events, connections)
    return seconds / result.accepted * 1000


def run(engine: Floor | Cell, events: Sequence[Event], connections: int) -> tuple[LoadResult, float]:
    """Run a load and return its result and the engine's core-seconds, including DuckDB's threads."""
    before = engine.cpu_seconds()
    result = uvloop.run(engine.client.closed_loop(events, connections))
    sent = sum(event.number for event in events)
    if result.accepted != sent:
        raise RuntimeError(f"{sent} events were sent and {result.accepted} accepted: {result.statuses}")
    uvloop.run(engine.wait_for_analytics())
    return result, engine.cpu_seconds() - before

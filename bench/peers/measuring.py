"""Measurement of the engines: all get the same invoices in the same order per connection."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import uvloop

from bench.calibration import calibrate
from bench.client import Client, LoadResult
from bench.events import Event, lifecycles
from bench.peers.engine import Engine, EngineUnavailable

Invoice = Sequence[Event]
"""Events of an invoice in the order of its stages."""

OPEN_PER_CONNECTION = 2
"""Number of open invoices per connection. With more, the slowest engines would get no further than ingestions."""

WARM_UP_SECONDS = 2.0
WARM_UP_INVOICES, KILL_INVOICES = 3_000, 3_000
"""Number of invoices for the warm-up, and for the load during the kill."""

MAX_EVENTS_PER_SECOND = 6_000
"""Maximum throughput for which invoices are prepared."""

MAX_IDLE_CORES = 0.1
"""Maximum CPU use of an engine that counts as idle."""


@dataclass
class Row:
    """Measurements of an engine with a number of requests in flight, over all rounds."""

    engine: Engine
    version: str
    connections: int
    result: LoadResult = field(default_factory=LoadResult)
    cpu: float = 0.0
    memory_mb: float = 0.0
    stored_bytes: int | None = None
    """Bytes on disk per invoice."""

    calibrations: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Core-seconds per 1,000 events."""
        return self.cpu / self.result.accepted * 1000

    @property
    def refused(self) -> dict[int, int]:
        """Number of events that were not accepted, by status; 0 means no response."""
        return {status: count for status, count in self.result.statuses.items() if not 200 <= status < 300}


def invoices(number: int, prefix: str) -> list[Invoice]:
    """Return a number of invoices with the events that every engine gets."""
    gathered: dict[str, list[Event]] = {}
    for event in lifecycles(number, prefix=prefix):
        gathered.setdefault(event.invoice_id, []).append(event)
    return list(gathered.values())


def interleave(left: Iterator[Invoice]) -> Iterator[Event]:
    """Yield the events for one connection, a few invoices at a time: the first event of each, then the second, ..."""
    while group := list(islice(left, OPEN_PER_CONNECTION)):
        for stage in zip(*group, strict=True):
            yield from stage


async def load(client: Client, sent: Iterable[Invoice], connections: int, seconds: float) -> LoadResult:
    """Run a closed loop. A connection sends its next event after a response, so events of an invoice stay in order."""
    left = iter(sent)
    parts = await asyncio.gather(
        *(client.closed_loop(interleave(left), 1, seconds=seconds) for _ in range(connections))
    )
    return merge(parts)


def merge(parts: Iterable[LoadResult]) -> LoadResult:
    """Merge the results of concurrent loads."""
    whole = LoadResult()
    for part in parts:
        add(whole, part)
        whole.elapsed_seconds = max(whole.elapsed_seconds, part.elapsed_seconds)
    return whole


def add(whole: LoadResult, part: LoadResult) -> None:
    whole.latencies += part.latencies
    whole.statuses += part.statuses


def measure_load(engine: Engine, client: Client, row: Row, sent: Iterable[Invoice], seconds: float) -> None:
    """Run one load and add its result to the row."""
    row.calibrations.append(calibrate())
    before = engine.cpu_seconds()
    result = uvloop.run(load(client, sent, row.connections, seconds))
    row.memory_mb = max(row.memory_mb, engine.memory_mb())
    wait_until_idle(engine)
    row.cpu += engine.cpu_seconds() - before
    add(row.result, result)
    row.result.elapsed_seconds += result.elapsed_seconds
    row.calibrations.append(calibrate())
    if not result.accepted:
        raise RuntimeError(f"no event was accepted: {dict(result.statuses)}")


def wait_until_idle(engine: Engine) -> None:
    """Wait at most 5 seconds until the engine is idle, because work that it deferred after the response counts too."""
    for _ in range(10):
        before = engine.cpu_seconds()
        time.sleep(0.5)
        if engine.cpu_seconds() - before < MAX_IDLE_CORES / 2:
            return


def recover(engine: Engine, client: Client, folder: Path, sent: list[Invoice]) -> float:
    """Kill all processes under load, restart, and return the seconds from the start to the first accepted event."""

    async def load_and_kill() -> None:
        loading = asyncio.create_task(load(client, sent[1:], 20, 3.0))
        await asyncio.sleep(2.0)
        engine.kill()
        await loading

    uvloop.run(load_and_kill())
    started = time.perf_counter()
    again = engine.start(folder)
    while time.perf_counter() - started < 120:
        if uvloop.run(load(again, sent[:1], 1, 0.0)).accepted:
            return time.perf_counter() - started
        time.sleep(0.05)
    raise RuntimeError("no event was accepted within two minutes after kill -9")


@dataclass
class Outcome:
    """Measured rows, and the reasons why other engines could not be measured, by name."""

    rows: list[Row] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    recoveries: dict[str, float] = field(default_factory=dict)
    """Seconds from restart to first accepted event, by the engine's name."""


def measure(
    engines: Sequence[Engine], folder: Path, rounds: int, seconds: float, on_progress: Callable[[str], None]
) -> Outcome:
    """Measure the engines in turns, one at a time, for a number of rounds.

    An engine that is unavailable or fails loses its rows; the measurement of the others continues.
    """
    outcome, remaining = Outcome(), list(engines)
    for engine in engines:
        on_progress(f"Setting up {engine.name} ...")
        try:
            version = engine.prepare()
        except (EngineUnavailable, OSError) as why:
            _exclude(engine, str(why), remaining, outcome)
        else:
            outcome.rows += [Row(engine, version, connections) for connections in engine.connections]
    max_loads = max((len(engine.connections) for engine in remaining), default=0)
    loads = [invoices(int(seconds * MAX_EVENTS_PER_SECOND / 4) + 1, f"L{number}") for number in range(max_loads)]
    for turn in range(rounds):
        for engine in list(remaining):
            on_progress(f"Round {turn + 1} of {rounds}: {engine.name} ...")
            try:
                engine_folder = folder / f"{turn}-{engines.index(engine)}"
                _measure_turn(engine, engine_folder, turn, seconds, loads, outcome)
                if turn == rounds - 1 and engine.recovers:
                    on_progress(f"Killing {engine.name} ...")
                    with engine.running(engine_folder) as client:
                        outcome.recoveries[engine.name] = recover(
                            engine, client, engine_folder, invoices(KILL_INVOICES, "K")
                        )
            except Exception as error:
                _exclude(engine, f"{type(error).__name__}: {error}", remaining, outcome)
    return outcome


def _measure_turn(
    engine: Engine, folder: Path, turn: int, seconds: float, loads: list[list[Invoice]], outcome: Outcome
) -> None:
    rows = [row for row in outcome.rows if row.engine is engine]
    accepted = sum(row.result.accepted for row in rows)
    with engine.running(folder) as client:
        warm_up = uvloop.run(load(client, invoices(WARM_UP_INVOICES, "W"), rows[0].connections, WARM_UP_SECONDS))
        # The engine has more data in later measurements, so the order alternates between turns.
        for row, sent in list(zip(rows, loads, strict=False))[:: -1 if turn % 2 else 1]:
            measure_load(engine, client, row, sent, seconds)
    accepted = warm_up.accepted + sum(row.result.accepted for row in rows) - accepted
    stored = engine.stored_bytes(folder)
    for row in rows:
        row.stored_bytes = None if stored is None else round(stored / accepted * 4)


def _exclude(engine: Engine, why: str, remaining: list[Engine], outcome: Outcome) -> None:
    remaining.remove(engine)
    outcome.rows = [row for row in outcome.rows if row.engine is not engine]
    outcome.unavailable[engine.name] = " ".join(why.split())

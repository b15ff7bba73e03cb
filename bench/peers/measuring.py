"""Measuring an engine: the same invoices to each, in the same order on every connection."""

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
"""Its events, in the order of its stages."""

OPEN_PER_CONNECTION = 2
"""Invoices that each connection has open at a time. With more, the slowest engines would take ingestions only."""

WARM_UP_SECONDS = 2.0
WARM_UP_INVOICES, KILL_INVOICES = 3_000, 3_000
"""Invoices to be warmed up with, and to be killed under."""

MAX_EVENTS_PER_SECOND = 6_000
"""Events a second for which invoices are made beforehand."""

MAX_IDLE_CORES = 0.1
"""Cores of which an engine that was left alone takes no more."""


@dataclass
class Row:
    """What was measured of an engine with so many requests in flight, in all rounds."""

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
        """Events that were not accepted, by status; 0 is no answer."""
        return {status: count for status, count in self.result.statuses.items() if not 200 <= status < 300}


def invoices(number: int, prefix: str) -> list[Invoice]:
    """So many invoices, with the events that every engine gets."""
    gathered: dict[str, list[Event]] = {}
    for event in lifecycles(number, prefix=prefix):
        gathered.setdefault(event.invoice_id, []).append(event)
    return list(gathered.values())


def interleave(left: Iterator[Invoice]) -> Iterator[Event]:
    """The events for one connection, some invoices at a time: the first event of each, then the second of each..."""
    while some := list(islice(left, OPEN_PER_CONNECTION)):
        for stage in zip(*some, strict=True):
            yield from stage


async def load(client: Client, sent: Iterable[Invoice], connections: int, seconds: float) -> LoadResult:
    """Each connection sends its next event when the last was answered, so an invoice's events come in their order."""
    left = iter(sent)
    parts = await asyncio.gather(
        *(client.closed_loop(interleave(left), 1, seconds=seconds) for _ in range(connections))
    )
    return merge(parts)


def merge(parts: Iterable[LoadResult]) -> LoadResult:
    """Of loads that ran at the same time."""
    whole = LoadResult()
    for part in parts:
        add(whole, part)
        whole.elapsed_seconds = max(whole.elapsed_seconds, part.elapsed_seconds)
    return whole


def add(whole: LoadResult, part: LoadResult) -> None:
    whole.latencies += part.latencies
    whole.statuses += part.statuses


def measure_load(engine: Engine, client: Client, row: Row, sent: Iterable[Invoice], seconds: float) -> None:
    """One load; what it met with is added to the row."""
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
    """What was put off until after the answer counts too: wait until it is done, 5 seconds at the most."""
    for _ in range(10):
        before = engine.cpu_seconds()
        time.sleep(0.5)
        if engine.cpu_seconds() - before < MAX_IDLE_CORES / 2:
            return


def recover(engine: Engine, client: Client, folder: Path, sent: list[Invoice]) -> float:
    """Seconds from the start after a SIGKILL of all its processes under load, to the first event accepted."""

    async def load_and_kill() -> None:
        loading = asyncio.create_task(load(client, sent[1:], 20, 3.0))
        await asyncio.sleep(2.0)
        engine.kill()
        await loading

    uvloop.run(load_and_kill())
    begun = time.perf_counter()
    again = engine.start(folder)
    while time.perf_counter() - begun < 120:
        if uvloop.run(load(again, sent[:1], 1, 0.0)).accepted:
            return time.perf_counter() - begun
        time.sleep(0.05)
    raise RuntimeError("no event was accepted within two minutes after kill -9")


@dataclass
class Outcome:
    """Rows of what could be measured, and by name why the others could not."""

    rows: list[Row] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    recoveries: dict[str, float] = field(default_factory=dict)
    """Seconds, by the engine's name."""


def measure(
    engines: Sequence[Engine], folder: Path, rounds: int, seconds: float, on_progress: Callable[[str], None]
) -> Outcome:
    """The engines take turns, one running at a time, as often as there are rounds. One that cannot be had, or fails,
    loses its rows; the others go on."""
    outcome, present = Outcome(), list(engines)
    for engine in engines:
        on_progress(f"Setting up {engine.name} ...")
        try:
            version = engine.prepare()
        except (EngineUnavailable, OSError) as why:
            _drop(engine, str(why), present, outcome)
        else:
            outcome.rows += [Row(engine, version, connections) for connections in engine.connections]
    places = max((len(engine.connections) for engine in present), default=0)
    loads = [invoices(int(seconds * MAX_EVENTS_PER_SECOND / 4) + 1, f"L{place}") for place in range(places)]
    for turn in range(rounds):
        for engine in list(present):
            on_progress(f"Round {turn + 1} of {rounds}: {engine.name} ...")
            try:
                engine_folder = folder / f"{turn}-{engines.index(engine)}"
                _take_turn(engine, engine_folder, turn, seconds, loads, outcome)
                if turn == rounds - 1 and engine.recovers:
                    on_progress(f"Killing {engine.name} ...")
                    with engine.running(engine_folder) as client:
                        outcome.recoveries[engine.name] = recover(
                            engine, client, engine_folder, invoices(KILL_INVOICES, "K")
                        )
            except Exception as error:
                _drop(engine, f"{type(error).__name__}: {error}", present, outcome)
    return outcome


def _take_turn(
    engine: Engine, folder: Path, turn: int, seconds: float, loads: list[list[Invoice]], outcome: Outcome
) -> None:
    rows = [row for row in outcome.rows if row.engine is engine]
    accepted = sum(row.result.accepted for row in rows)
    with engine.running(folder) as client:
        warm = uvloop.run(load(client, invoices(WARM_UP_INVOICES, "W"), rows[0].connections, WARM_UP_SECONDS))
        # What is measured last finds the engine's data grown, so the order changes from turn to turn.
        for row, sent in list(zip(rows, loads, strict=False))[:: -1 if turn % 2 else 1]:
            measure_load(engine, client, row, sent, seconds)
    accepted = warm.accepted + sum(row.result.accepted for row in rows) - accepted
    stored = engine.stored_bytes(folder)
    for row in rows:
        row.stored_bytes = None if stored is None else round(stored / accepted * 4)


def _drop(engine: Engine, why: str, present: list[Engine], outcome: Outcome) -> None:
    present.remove(engine)
    outcome.rows = [row for row in outcome.rows if row.engine is not engine]
    outcome.unavailable[engine.name] = " ".join(why.split())

"""Hot path by function: gate, decision, state machine and store, in one thread and without HTTP."""

import cProfile
import gc
import pstats
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bems.cli.files import read_policy_file
from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine, read_resolved_definition
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.instants import Instant
from bems.tracker.parsing import parse_event
from bench.events import lifecycles
from bench.figures import Figure

INVOICES, EVENTS_PER_TURN, MAX_FUNCTIONS = 2_500, 16, 22


def measure(folder: Path) -> Iterator[Figure]:
    """Measure the cost per event in turns of 16, then profile the same load. The profiler slows down frequent calls."""
    gate, turns = _run(folder / "plain", "A", None)
    yield Figure(
        f"the hot path without HTTP, turns of {EVENTS_PER_TURN}",
        f"gate {gate:.0f} us an event, all the rest {turns:.0f} us",
    )
    profiler = cProfile.Profile(time.process_time)
    _run(folder / "profiled", "B", profiler)
    functions: Any = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    total = sum(own for _, (_, _, own, _, _) in functions)
    ranked = sorted(functions, key=lambda one: -one[1][2])[:MAX_FUNCTIONS]
    profile_lines = [f"{own / total * 100:.1f}% {_name(*where)}" for where, (_, _, own, _, _) in ranked]
    yield Figure("its profile: own time by function", "<br>".join(profile_lines))


def _run(folder: Path, prefix: str, profiler: cProfile.Profile | None) -> tuple[float, float]:
    """Return the CPU microseconds per event of the gate, and of the turn from its start to its commit."""
    machine, store, now = load_machine(), SqliteStore(folder), time.time_ns() // 1_000
    store.store_definition(machine.digest, read_resolved_definition())
    cell = Cell(read_policy_file(None), machine, store)
    sent = [
        (stage, event.body) for event in lifecycles(INVOICES, prefix=prefix) for stage in STAGES if stage == event.stage
    ]
    gc.collect()
    gc.freeze()
    if profiler:
        profiler.enable()
    started = time.process_time()
    events = [_parse(stage, body, now) for stage, body in sent]
    parsed_at = time.process_time()
    for number in range(0, len(events), EVENTS_PER_TURN):
        turn = events[number : number + EVENTS_PER_TURN]
        store.prefetch(turn)
        for event in turn:
            with store.savepoint():
                cell.handle_event(event, now)
        store.commit()
    committed_at = time.process_time()
    if profiler:
        profiler.disable()
    gc.unfreeze()
    store.close()
    return (parsed_at - started) / len(events) * 1e6, (committed_at - parsed_at) / len(events) * 1e6


def _parse(stage: Stage, body: bytes, now: Instant) -> Event:
    event = parse_event(stage, body, now)
    if not isinstance(event, Event):
        raise RuntimeError(f"an event was refused: {event}")
    return event


def _name(file: str, line: int, function: str) -> str:
    module = Path(file)
    return f"{module.parent.name}/{module.name} {function}" if line else function.strip("<>{}").replace("|", "/")

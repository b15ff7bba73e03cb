"""The hot path by function: gate, decision, state machine, store, in one thread and without HTTP."""

import cProfile
import gc
import pstats
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bems.cli.files import load_policy
from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine, resolved_text
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.instants import Instant
from bems.tracker.parsing import parse_event
from bench.events import lifecycles
from bench.figures import Figure

INVOICES, TURN, SHOWN = 2_500, 16, 22


def measure(folder: Path) -> Iterator[Figure]:
    """What a turn of 16 events costs, an event; then the same under a profiler, which slows down what calls much."""
    gate, turns = _run(folder / "plain", "A", None)
    yield Figure(
        f"the hot path without HTTP, turns of {TURN}", f"gate {gate:.0f} us an event, all the rest {turns:.0f} us"
    )
    profiler = cProfile.Profile(time.process_time)
    _run(folder / "profiled", "B", profiler)
    functions: Any = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    total = sum(own for _, (_, _, own, _, _) in functions)
    ranked = sorted(functions, key=lambda one: -one[1][2])[:SHOWN]
    profile_lines = [f"{own / total * 100:.1f}% {_name(*where)}" for where, (_, _, own, _, _) in ranked]
    yield Figure("its profile: own time by function", "<br>".join(profile_lines))


def _run(folder: Path, prefix: str, profiler: cProfile.Profile | None) -> tuple[float, float]:
    """Microseconds of CPU an event: of the gate, and of everything from the turn's beginning to its commit."""
    machine, store, now = load_machine(), SqliteStore(folder), time.time_ns() // 1_000
    store.store_definition(machine.digest, resolved_text())
    cell = Cell(load_policy(None), machine, store)
    sent = [
        (stage, event.body) for event in lifecycles(INVOICES, prefix=prefix) for stage in STAGES if stage == event.stage
    ]
    gc.collect()
    gc.freeze()
    if profiler:
        profiler.enable()
    begun = time.process_time()
    events = [_read(stage, body, now) for stage, body in sent]
    read = time.process_time()
    for number in range(0, len(events), TURN):
        turn = events[number : number + TURN]
        store.prefetch(turn)
        for event in turn:
            with store.savepoint():
                cell.handle_event(event, now)
        store.commit()
    done = time.process_time()
    if profiler:
        profiler.disable()
    gc.unfreeze()
    store.close()
    return (read - begun) / len(events) * 1e6, (done - read) / len(events) * 1e6


def _read(stage: Stage, body: bytes, now: Instant) -> Event:
    event = parse_event(stage, body, now)
    if not isinstance(event, Event):
        raise RuntimeError(f"an event was refused: {event}")
    return event


def _name(file: str, line: int, function: str) -> str:
    module = Path(file)
    return f"{module.parent.name}/{module.name} {function}" if line else function.strip("<>{}").replace("|", "/")

"""A million open invoices: what they cost while nothing happens, at a start, and with a tenth overdue at once.

Also how an event's cost grows with the number of open invoices, on the way there, and how long it takes from a kill to
the first answer when there are so many.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.cell import Cell
from bench.client import LoadResult, get_json
from bench.events import Event, batches, ingestions, lifecycles
from bench.figures import Figure
from bench.figures.floor import told, unit

OPEN, DUE = 1_000_000, 100_000
STEPS = (1_000, 10_000, 100_000, OPEN)
PROBES = 500
"""So many invoices are led to their end at each step, and counted."""

CHUNK, PATTERN = 20_000, 1_000
HURRIED = '"vendor":{"id":"HURRIED"'
DEADLINE = 75
"""Seconds that the hurried ones have: as long as the rest of the experiment takes before they shall be due."""

PROBE_RATE, MOST_SECONDS = 200, 120

POLICY = f"""stages:
  authorization:
    deadline: 2d
    overrides: [{{when: {{vendor: HURRIED}}, deadline: {DEADLINE}s, escalate_every: 30d}}]
"""


def measure(folder: Path) -> Iterator[Figure]:
    """Fill, look at the idle cell, start it again, have it killed, and have a tenth of all timers due at once."""
    home, costs = folder / "million", []
    with unit(folder) as floor, Cell(home, policy=POLICY) as cell:
        filled = 0
        for step in STEPS:
            # The hurried ones last, so that little time passes between their first and their last.
            rest = step - filled - (DUE if step == OPEN else 0)
            fill(cell, rest, f"F{step}")
            filled = step
            of = floor.measure()
            if step == OPEN:
                begun = time.monotonic()
                fill(cell, DUE, "H", hurried=True)
            costs.append(f"{step:,}: {told(probe(cell, f'P{step}'), of)}")
        key = cell.key
        uvloop.run(cell.fed())
        memory, idle = cell.memory_mb(), idle_cores(cell)
        cell.stop()
    yield Figure(
        "CPU per 1,000 events by the number of open invoices (batches of 100, complete lifecycles)", "<br>".join(costs)
    )
    yield Figure(f"{OPEN:,} open invoices: resident memory", f"{memory:.0f} MB", "500 MB", "300 MB", memory <= 500)
    yield Figure("the same: CPU while nothing happens", f"{idle * 100:.2f}%", "1%", "", idle <= 0.01)
    with Cell(home, policy=POLICY, key=key) as cell:
        seconds = uvloop.run(first_answer(cell))
        yield Figure("the same: start to first answer", f"{seconds:.2f} s", "5 s", "2 s", seconds <= 5)
        load = lifecycles(2_000, prefix="K")
        seconds = uvloop.run(kill_under_load(cell, load, home, key))
    yield Figure("the same: kill -9 under load to first answer", f"{seconds:.2f} s", "5 s", "1 s", seconds <= 5)
    if time.monotonic() - begun > DEADLINE:
        raise RuntimeError(f"this machine took more than {DEADLINE} s to get here, and alerts came before they should")
    time.sleep(DEADLINE + 12 - (time.monotonic() - begun))
    with Cell(home, policy=POLICY, key=key) as cell:
        takings, seconds = uvloop.run(load_until_all_are_done(cell))
    p50, p99 = takings.percentile(0.5), takings.percentile(0.99)
    yield Figure(
        f"the same: {DUE:,} timers due at once; p50 / p99 of {PROBE_RATE} requests/s meanwhile",
        f"{p50:.1f} / {p99:.1f} ms, all alerts out after {seconds:.0f} s",
        "p99 250 ms",
        "",
        p99 <= 250 and takings.accepted == sum(takings.statuses.values()),
    )


def fill(cell: Cell, invoices: int, prefix: str, *, hurried: bool = False) -> None:
    """Begin so many invoices."""
    pattern = list(ingestions(lifecycles(PATTERN, prefix="BASE")))
    if hurried:
        pattern = [event._replace(body=hurry(event.body)) for event in pattern]
    for number in range(0, invoices, CHUNK):
        count = min(CHUNK, invoices - number)
        # Both ids begin with the prefix; making a million events would take as long as sending them.
        prefixes = [f'"{prefix}-{number + more}'.encode() for more in range(0, count, PATTERN)]
        events = [event._replace(body=event.body.replace(b'"BASE', one)) for one in prefixes for event in pattern]
        events = events[:count]
        takings = uvloop.run(cell.client.closed(batches(events), 3))
        if takings.accepted != count:
            raise RuntimeError(f"{count} were sent and {takings.accepted} accepted: {takings.statuses}")


def hurry(body: bytes) -> bytes:
    """The same event, of the vendor that the policy has a short deadline for."""
    before, _, after = body.partition(b'"vendor":{"id":"')
    return before + HURRIED.encode() + after[after.index(b'"') + 1 :]


def probe(cell: Cell, prefix: str) -> float:
    """Core-seconds per 1,000 events now."""
    events = lifecycles(PROBES, prefix=prefix)
    uvloop.run(cell.fed())
    before = cell.cpu_seconds()
    takings = uvloop.run(cell.client.closed(batches(events), 4))
    uvloop.run(cell.fed())
    return (cell.cpu_seconds() - before) / takings.accepted * 1000


def idle_cores(cell: Cell, seconds: float = 8.0) -> float:
    """Cores that it takes while nobody asks it anything."""
    time.sleep(1)
    before = cell.cpu_seconds()
    time.sleep(seconds)
    return (cell.cpu_seconds() - before) / seconds


async def first_answer(cell: Cell) -> float:
    """Seconds from the start of the process until an event was accepted."""
    connection = cell.connect()
    [event, *_] = lifecycles(1, prefix=f"R{time.monotonic_ns()}")
    status = await cell.client.post(connection, event)
    seconds = time.perf_counter() - cell.started
    connection.close()
    if status != 202:
        raise RuntimeError(f"the first event after the start was answered {status}")
    return seconds


async def kill_under_load(cell: Cell, load: list[Event], home: Path, key: str) -> float:
    """Seconds from SIGKILL until the next life answers."""
    sending = asyncio.create_task(cell.client.closed(load, 16))
    await asyncio.sleep(1)
    begun = time.perf_counter()
    cell.process.kill()
    await sending
    cell.kill()
    with Cell(home, policy=POLICY, key=key) as again:
        await first_answer(again)
        return time.perf_counter() - begun


async def load_until_all_are_done(cell: Cell) -> tuple[LoadResult, float]:
    """Send events in the open loop until every overdue invoice has its alert; and the seconds that took."""
    begun, connection = time.perf_counter(), cell.connect()
    events = lifecycles(PROBE_RATE * MOST_SECONDS // 4, prefix="D")
    done = False
    sending = asyncio.create_task(cell.client.open(events, PROBE_RATE, 16, enough=lambda: done))
    while not done and not sending.done():
        await asyncio.sleep(0.5)
        done = (await get_json(connection, "/check"))["alert_rows"] >= DUE
    seconds = time.perf_counter() - begun
    connection.close()
    takings = await sending
    if not done:
        raise RuntimeError(f"after {MOST_SECONDS} s there were still invoices without their alert")
    return takings, seconds

"""A million open invoices: their cost while the cell is idle, at a start, and when a tenth is overdue at once.

It also measures how the cost of an event grows with the number of open invoices, and the time from a kill to the first
response.
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
from bench.figures.floor import describe_multiple, floor_baseline

OPEN_INVOICES, DUE_INVOICES = 1_000_000, 100_000
STEPS = (1_000, 10_000, 100_000, OPEN_INVOICES)
PROBE_INVOICES = 500
"""Number of complete lifecycles that are measured at each step."""

CHUNK, PATTERN = 20_000, 1_000
SHORT_DEADLINE_VENDOR = '"vendor":{"id":"HURRIED"'
DEADLINE_SECONDS = 75
"""Deadline of the invoices that become overdue together. It must exceed the duration of the experiment until then."""

PROBE_EVENTS_PER_SECOND, MAX_LOAD_SECONDS = 200, 120

POLICY = f"""stages:
  authorization:
    deadline: 2d
    overrides: [{{when: {{vendor: HURRIED}}, deadline: {DEADLINE_SECONDS}s, escalate_every: 30d}}]
"""


def measure(folder: Path) -> Iterator[Figure]:
    """Fill the cell, then measure it idle, after a restart, after a kill, and with a tenth of timers due at once."""
    cell_folder, costs = folder / "million", []
    with floor_baseline(folder) as floor, Cell(cell_folder, policy=POLICY) as cell:
        filled = 0
        for step in STEPS:
            # Invoices with a short deadline come last, so that little time passes between the first and the last one.
            rest = step - filled - (DUE_INVOICES if step == OPEN_INVOICES else 0)
            fill(cell, rest, f"F{step}")
            filled = step
            floor_cost = floor.measure()
            if step == OPEN_INVOICES:
                started = time.monotonic()
                fill(cell, DUE_INVOICES, "H", short_deadline=True)
            costs.append(f"{step:,}: {describe_multiple(probe(cell, f'P{step}'), floor_cost)}")
        key = cell.key
        uvloop.run(cell.wait_for_analytics())
        memory, idle = cell.memory_mb(), idle_cores(cell)
        cell.stop()
    yield Figure(
        "CPU per 1,000 events by the number of open invoices (batches of 100, complete lifecycles)", "<br>".join(costs)
    )
    yield Figure(
        f"{OPEN_INVOICES:,} open invoices: resident memory", f"{memory:.0f} MB", "500 MB", "300 MB", memory <= 500
    )
    yield Figure("the same: CPU while nothing happens", f"{idle * 100:.2f}%", "1%", "", idle <= 0.01)
    with Cell(cell_folder, policy=POLICY, key=key) as cell:
        seconds = uvloop.run(first_answer(cell))
        yield Figure("the same: start to first answer", f"{seconds:.2f} s", "5 s", "2 s", seconds <= 5)
        load = lifecycles(2_000, prefix="K")
        seconds = uvloop.run(kill_under_load(cell, load, cell_folder, key))
    yield Figure("the same: kill -9 under load to first answer", f"{seconds:.2f} s", "5 s", "1 s", seconds <= 5)
    if time.monotonic() - started > DEADLINE_SECONDS:
        raise RuntimeError(
            f"the experiment took more than {DEADLINE_SECONDS} s until here, so alerts were raised too early"
        )
    time.sleep(DEADLINE_SECONDS + 12 - (time.monotonic() - started))
    with Cell(cell_folder, policy=POLICY, key=key) as cell:
        result, seconds = uvloop.run(load_until_all_are_done(cell))
    p50, p99 = result.percentile(0.5), result.percentile(0.99)
    yield Figure(
        f"the same: {DUE_INVOICES:,} timers due at once; p50 / p99 of {PROBE_EVENTS_PER_SECOND} requests/s meanwhile",
        f"{p50:.1f} / {p99:.1f} ms, all alerts out after {seconds:.0f} s",
        "p99 250 ms",
        "",
        p99 <= 250 and result.accepted == sum(result.statuses.values()),
    )


def fill(cell: Cell, invoices: int, prefix: str, *, short_deadline: bool = False) -> None:
    """Begin a number of invoices."""
    pattern = list(ingestions(lifecycles(PATTERN, prefix="BASE")))
    if short_deadline:
        pattern = [event._replace(body=with_short_deadline(event.body)) for event in pattern]
    for number in range(0, invoices, CHUNK):
        count = min(CHUNK, invoices - number)
        # Replace the prefix of both ids: generating a million events would take as long as sending them.
        prefixes = [f'"{prefix}-{number + more}'.encode() for more in range(0, count, PATTERN)]
        events = [event._replace(body=event.body.replace(b'"BASE', one)) for one in prefixes for event in pattern]
        events = events[:count]
        result = uvloop.run(cell.client.closed_loop(batches(events), 3))
        if result.accepted != count:
            raise RuntimeError(f"{count} events were sent and {result.accepted} accepted: {result.statuses}")


def with_short_deadline(body: bytes) -> bytes:
    """Return the event with the vendor for which the policy has a short deadline."""
    before, _, after = body.partition(b'"vendor":{"id":"')
    return before + SHORT_DEADLINE_VENDOR.encode() + after[after.index(b'"') + 1 :]


def probe(cell: Cell, prefix: str) -> float:
    """Return the current core-seconds per 1,000 events."""
    events = lifecycles(PROBE_INVOICES, prefix=prefix)
    uvloop.run(cell.wait_for_analytics())
    before = cell.cpu_seconds()
    result = uvloop.run(cell.client.closed_loop(batches(events), 4))
    uvloop.run(cell.wait_for_analytics())
    return (cell.cpu_seconds() - before) / result.accepted * 1000


def idle_cores(cell: Cell, seconds: float = 8.0) -> float:
    """Return the number of cores that the cell uses without requests."""
    time.sleep(1)
    before = cell.cpu_seconds()
    time.sleep(seconds)
    return (cell.cpu_seconds() - before) / seconds


async def first_answer(cell: Cell) -> float:
    """Return the seconds from the start of the process until an event is accepted."""
    connection = cell.connect()
    [event, *_] = lifecycles(1, prefix=f"R{time.monotonic_ns()}")
    status = await cell.client.post(connection, event)
    seconds = time.perf_counter() - cell.started
    connection.close()
    if status != 202:
        raise RuntimeError(f"the first event after the start was answered {status}")
    return seconds


async def kill_under_load(cell: Cell, load: list[Event], cell_folder: Path, key: str) -> float:
    """Return the seconds from SIGKILL until the restarted cell responds."""
    sending = asyncio.create_task(cell.client.closed_loop(load, 16))
    await asyncio.sleep(1)
    started = time.perf_counter()
    cell.process.kill()
    await sending
    cell.kill()
    with Cell(cell_folder, policy=POLICY, key=key) as again:
        await first_answer(again)
        return time.perf_counter() - started


async def load_until_all_are_done(cell: Cell) -> tuple[LoadResult, float]:
    """Send events in the open loop until every overdue invoice has its alert. Returns the result and the seconds."""
    started, connection = time.perf_counter(), cell.connect()
    events = lifecycles(PROBE_EVENTS_PER_SECOND * MAX_LOAD_SECONDS // 4, prefix="D")
    done = False
    sending = asyncio.create_task(cell.client.open_loop(events, PROBE_EVENTS_PER_SECOND, 16, is_done=lambda: done))
    while not done and not sending.done():
        await asyncio.sleep(0.5)
        done = (await get_json(connection, "/check"))["alert_rows"] >= DUE_INVOICES
    seconds = time.perf_counter() - started
    connection.close()
    result = await sending
    if not done:
        raise RuntimeError(f"after {MAX_LOAD_SECONDS} s some overdue invoices had no alert")
    return result, seconds

"""Soak test: a steady load for an hour, with queries. Resident memory must not grow once the caches are full.

New invoices begin all the time. Most complete all stages; some stay open, and some of those get alerts. The test thus
detects memory that grows with the number of all invoices or of open invoices.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import uvloop

from bems.tracker.contract import STAGES
from bench.cell import Cell
from bench.client import Connection, LoadResult, get_json
from bench.events import OCCURRED_AT, Event, lifecycles
from bench.figures import Figure
from bench.figures.million import with_short_deadline

MINUTES, RATE = 60.0, 500.0
WARM_UP_MINUTES = 10.0
"""Time that the caches have to fill."""

MAX_MB_PER_HOUR = 20.0
"""Maximum slope of the samples' regression line after the warm-up. A leak of 100 bytes per event gives 180."""

SAMPLE_SECONDS, QUERY_SECONDS = 10.0, 0.5
PATTERN = 1_000
OPEN_ONE_IN, STUCK_ONE_IN = 10, 50
"""One invoice in this number stays open after its reconciliation; one in this number waits for its authorization
forever and gets an alert every few minutes."""

POLICY = """stages:
  authorization:
    overrides: [{when: {vendor: HURRIED}, deadline: 60s, escalate_every: 5m}]
"""

QUERIES = (
    "/invoices?stuck=true&limit=100",
    "/invoices?status=AwaitingPosting&limit=100",
    "/alerts?limit=100",
    "/dashboards/backlog",
    "/dashboards/volume",
    "/dashboards/visibility",
    "/dashboards/alerts",
    "/dashboards/amounts",
    "/metrics",
    "/check",
)
"""Queried in turn; every other query is `GET /invoices/{id}` for a recent invoice."""


class Sample(NamedTuple):
    """Resident memory at a time since the start."""

    seconds: float
    mb: float


def measure(folder: Path, minutes: float = MINUTES, rate: float = RATE) -> Iterator[Figure]:
    """Sample resident memory every ten seconds and measure its growth after the first ten minutes."""
    with Cell(folder / "soak", policy=POLICY) as cell:
        samples, result, answered = uvloop.run(_run(cell, minutes * 60, rate))
        refused = sum(result.statuses.values()) - result.accepted
        after_warm_up = [sample for sample in samples if sample.seconds >= WARM_UP_MINUTES * 60]
        yield Figure(
            f"{rate:,.0f} events/s for {minutes:g} minutes, {answered:,} questions meanwhile",
            f"{result.accepted:,} accepted, {refused} not; {result.rate:,.0f}/s; p50 / p99 {result.latency()}",
            "none refused",
            "",
            not refused,
        )
        yield Figure("resident memory of the cell by minute", describe_curve(samples))
        if len(after_warm_up) > 1:
            slope, highest = slope_per_hour(after_warm_up), max(sample.mb for sample in after_warm_up)
            yield Figure(
                f"the same: growth after the first {WARM_UP_MINUTES:g} minutes",
                f"{slope:+.1f} MB an hour; {after_warm_up[0].mb:.0f} MB then, {samples[-1].mb:.0f} MB at the end, "
                f"{highest:.0f} MB at most",
                f"{MAX_MB_PER_HOUR:.0f} MB an hour",
                "flat",
                slope <= MAX_MB_PER_HOUR,
            )


async def _run(cell: Cell, seconds: float, rate: float) -> tuple[list[Sample], LoadResult, int]:
    started = time.monotonic()
    samples = [Sample(0.0, cell.memory_mb())]
    newest = [""]
    sampling = asyncio.create_task(_sample(cell, started, samples))
    querying = asyncio.create_task(_query_repeatedly(cell, newest))

    post = cell.client.post

    async def post_and_note(connection: Connection, event: Event) -> int:
        status = await post(connection, event)
        if status == 202:
            newest[0] = event.invoice_id
        return status

    cell.client.post = post_and_note
    result = await cell.client.open_loop(
        endless_events(), rate, 64, is_done=lambda: time.monotonic() - started >= seconds
    )
    sampling.cancel()
    querying.cancel()
    _, answered = await asyncio.gather(sampling, querying, return_exceptions=True)
    if isinstance(answered, BaseException):
        raise answered
    samples.append(Sample(time.monotonic() - started, cell.memory_mb()))
    return samples, result, int(answered or 0)


async def _sample(cell: Cell, started: float, samples: list[Sample]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        samples.append(Sample(time.monotonic() - started, cell.memory_mb()))


async def _query_repeatedly(cell: Cell, newest: Sequence[str]) -> int:
    """Send one query after another until cancelled. Returns their number."""
    connection, answered = cell.connect(), 0
    try:
        while True:
            await asyncio.sleep(QUERY_SECONDS)
            if answered % 2:
                await _get(connection, QUERIES[answered // 2 % len(QUERIES)])
            elif newest[0]:
                await get_json(connection, f"/invoices/{quote(newest[0], safe='')}")
            answered += 1
    except asyncio.CancelledError:
        connection.close()
        return answered


async def _get(connection: Connection, path: str) -> None:
    status, body = await connection.request("GET", path)
    if status != 200:
        raise RuntimeError(f"GET {path}: {status} {body[:200]!r}")


def endless_events(now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Event]:
    """Generate events of new invoices without end. They repeat the events of `PATTERN` invoices with new ids each time,
    and occur when they are taken from the iterator."""
    base = lifecycles(PATTERN, prefix="BASE")
    numbers = {id: number for number, id in enumerate(dict.fromkeys(event.invoice_id for event in base))}
    pattern = []
    for event in base:
        number, stage = numbers[event.invoice_id], STAGES.index(event.stage)
        if number % STUCK_ONE_IN == 0:
            if stage == 0:
                pattern.append(event._replace(body=with_short_deadline(event.body)))
        elif stage < len(STAGES) - 1 or number % OPEN_ONE_IN:
            pattern.append(event)
    [occurred] = {found[0].encode() for event in base if (found := OCCURRED_AT.search(event.body.decode()))}
    round_number = 0
    while True:
        prefix = f"S{round_number}"
        ids = f'"{prefix}'.encode()
        for event in pattern:
            at = now().isoformat(timespec="milliseconds")
            body = event.body.replace(b'"BASE', ids).replace(occurred, f'"occurred_at":"{at}"'.encode())
            yield Event(event.stage, prefix + event.invoice_id[4:], prefix + event.event_id[4:], body)
        round_number += 1


def slope_per_hour(samples: Sequence[Sample]) -> float:
    """Return the slope of the regression line through the samples (least squares), in MB per hour."""
    middle = sum(sample.seconds for sample in samples) / len(samples)
    mean = sum(sample.mb for sample in samples) / len(samples)
    spread = sum((sample.seconds - middle) ** 2 for sample in samples)
    return sum((sample.seconds - middle) * (sample.mb - mean) for sample in samples) / spread * 3600


def describe_curve(samples: Sequence[Sample], points: int = 14) -> str:
    """Return the samples at the start, at the end and at evenly spaced times in between."""
    chosen = sorted({round(number * (len(samples) - 1) / (points - 1)) for number in range(points)})
    return "<br>".join(f"{samples[one].seconds / 60:.1f}: {samples[one].mb:.0f} MB" for one in chosen)

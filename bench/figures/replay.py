"""Replay: `bems replay` on a generated log with the faults of an ordinary month."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bems.generator.event_log import EVERYDAY, generate
from bench.figures import Figure

INVOICES = 30_000


def measure(folder: Path) -> Iterator[Figure]:
    """Measure the events per second of the command, including its start."""
    log = folder / "log.jsonl"
    with log.open("wb") as file:
        file.writelines(generate(INVOICES, 5, profile=EVERYDAY))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bems.cli", "replay", str(log), "--json"], capture_output=True, check=True
    )
    seconds = time.perf_counter() - started
    report = json.loads(done.stdout)
    lines = sum(report["events"].values())
    alerts = sum(count for counts in report["alerts"].values() for count in counts.values())
    rate = lines / seconds
    yield Figure(
        f"`bems replay`, a generated month of {lines:,} lines, {alerts:,} alerts",
        f"{rate:,.0f} events/s",
        "10,000",
        "20,000",
        rate >= 10_000,
    )

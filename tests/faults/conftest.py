"""Figures of the fault tests: each fault, how often and how long it was injected, and the outcome.

`make faults` writes them to bench/RESULTS.md. Tests run in several processes, so pytest-xdist's workers pass their
figures to the main process, which writes them all.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.results import RESULTS, table, write_section

OUTPUT_VARIABLE = "BEMS_FAULTS_OUT"
"""Environment variable that writes the figures at the end: `1` for bench/RESULTS.md, else the path of a file."""

Row = tuple[str, str, float, str]
FIGURES = pytest.StashKey[list[Row]]()
HEADER = ("fault", "how often", "seconds", "outcome")


class Figures:
    """Figures of a test. Discarded if a test fails."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._begun = time.perf_counter()

    def record(self, fault: str, count: str, outcome: str) -> None:
        """Add a row: `fault` was injected `count` times with this outcome.

        Its duration is the time since the previous row, or since the test began.
        """
        now = time.perf_counter()
        self.rows.append((fault, count, now - self._begun, outcome))
        self._begun = now


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """The test's figures."""
    figures = Figures()
    yield figures
    if not request.session.testsfailed:
        request.config.stash.setdefault(FIGURES, []).extend(figures.rows)


def add_up(rows: Iterable[Row]) -> list[list[str]]:
    """Merge rows with the same fault and outcome: add their seconds, and their counts if these are numbers."""
    sums: dict[tuple[str, str], tuple[str, float]] = {}
    for fault, count, seconds, outcome in rows:
        known, so_far = sums.get((fault, outcome), ("", 0.0))
        if known.isdecimal() and count.isdecimal():
            count = str(int(known) + int(count))
        elif known and known != count:
            count = f"{known}; {count}"
        sums[fault, outcome] = count, so_far + seconds
    return [
        [fault, f"{int(count):,}" if count.isdecimal() else count, f"{seconds:.1f}", outcome]
        for (fault, outcome), (count, seconds) in sorted(sums.items())
    ]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Pass the figures on in a worker; write them in the main process, unless a test failed."""
    rows: list[Row] = session.config.stash.get(FIGURES, [])
    handed_on: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if handed_on is not None:
        handed_on["bems_figures"] = rows
        return
    out = os.environ.get(OUTPUT_VARIABLE)
    if out and rows and exitstatus == 0:
        path = RESULTS if out == "1" else Path(out)
        write_section("faults", "Faults", table(HEADER, add_up(rows)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the figures of a pytest-xdist worker that has ended."""
    rows = getattr(node, "workeroutput", {}).get("bems_figures", [])
    node.config.stash.setdefault(FIGURES, []).extend(tuple(row) for row in rows)

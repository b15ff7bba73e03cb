"""The cell keeps all invariants under every fault that a seed draws, and the simulation detects every mutant."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Figures
from tests.faults.invariants import InvariantViolated
from tests.faults.mutants import MUTANTS, find
from tests.faults.simulation import run_scenario

LONG = bool(os.environ.get("BEMS_LONG"))
CHUNK, CHUNKS = (100, int(os.environ.get("BEMS_SEEDS", "10000")) // 100) if LONG else (10, 5)

FOUND_BY = {
    "commits are not synced": 2,
    "commits are synced by the next checkpoint": 2,
    "a store whose making was cut off is refused": 7,
    "events are answered before the commit": 3,
    "a commit that failed is acknowledged": 3,
    "a turn that failed is stored with the next one": 3,
    "an item that failed leaves its traces": 1,
    "records are cached before they are committed, and after they are not": 3,
    "a turn is stored in two transactions": 2,
    "repeats are not looked for": 1,
    "what was looked up for a turn is believed in the next": 4,
    "an invoice that was not there in one turn is not looked for in the next": 3,
    "a failed commit takes its numbers along": 3,
    "a row leads to the one before of another invoice": 3,
    "a timer that was moved stays where it was": 1,
    "a record that was changed is not looked at again": 1,
    "a timer is stored a day late": 1,
    "a record is looked at a day late": 1,
    "what fails when it is due is never tried again": 7,
    "what is due earlier than anything before is not looked for": 3,
    "values are written against a dictionary that is not kept": 3,
    "a dictionary is used though the turn that kept it failed": 3,
    "what is long overdue is passed over": 2,
    "who registers after the clock went back is taken for late": 2,
    "an event whose handling failed is not kept": 1,
    "a redriven letter stays": 1,
    "what was not stored is answered with 202": 3,
    "an alert does not wait for the one before": 10,
    "the watermark of alerts moves before they are in the outbox": 4,
    "an alert is forgotten before it is sent": 1,
    "an alert that was not taken is not tried again": 1,
    "an alert that was sent is not forgotten": 1,
    "new alerts are read from the first again": 1,
}
"""First seed that detects each mutant. `python -m tests.faults.mutants` prints them."""

SLOW_MUTANTS = {
    "repeats are not looked for",
    "what was looked up for a turn is believed in the next",
    "an alert that was not taken is not tried again",
    "an alert that was sent is not forgotten",
}
"""Mutants that never become idle, so that detection takes seconds."""

MAX_FURTHER_SEEDS = 40
"""Maximum number of further seeds to try: every change of the cell changes the scenarios slightly."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_cell_keeps_its_invariants_under_faults(tmp_path: Path, chunk: int, figures: Figures) -> None:
    count: Counter[str] = Counter()
    for seed in range(chunk * CHUNK + 1, (chunk + 1) * CHUNK + 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        environment = run_scenario(seed, folder)
        count["scenarios"] += 1
        count["steps"] += environment.steps
        count["crashes"] += environment.crashes
        count["disk failures"] += environment.disk.failures
        count["disk operations"] += environment.disk.operations
    for name, times in count.items():
        figures.record(f"seeded simulation of a whole cell: {name}", str(times), "all invariants held")


def test_a_seed_reproduces_its_scenario(tmp_path: Path) -> None:
    traces: list[list[str]] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        traces.append([])
        run_scenario(4, tmp_path / name, traces[-1].append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


@pytest.mark.parametrize("name", [name for name in MUTANTS if LONG or name not in SLOW_MUTANTS])
def test_a_mutant_is_detected(name: str, figures: Figures) -> None:
    found = find(name, FOUND_BY[name], MAX_FURTHER_SEEDS)
    assert found, "no seed detects the mutant"
    figures.record("mutants of the cell", "1", "detected by the simulation")


def test_a_violation_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.environment.MAX_STEPS", 10)
    with pytest.raises(InvariantViolated, match=r"^seed 3, step 10 at 2026-.*the scenario does not end"):
        run_scenario(3, tmp_path)

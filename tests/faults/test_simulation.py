"""The cell keeps all invariants under every fault that a seed draws, and the simulation detects every mutant."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Figures
from tests.faults.invariants import InvariantViolated
from tests.faults.mutants import MAX_MUTANT_STEPS, MUTANTS, find
from tests.faults.simulation import run_scenario

LONG = bool(os.environ.get("BEMS_LONG"))
CHUNK, CHUNKS = (100, int(os.environ.get("BEMS_SEEDS", "10000")) // 100) if LONG else (10, 5)

FOUND_BY = {
    "commits are not synced": 3,
    "commits are synced only at the next checkpoint": 3,
    "a store whose creation was interrupted is rejected": 2,
    "events are answered before the commit": 2,
    "a failed commit is acknowledged": 2,
    "a failed group is stored with the next one": 1,
    "a failed item leaves changes behind": 2,
    "records are cached before the commit and kept after a rollback": 1,
    "a group is stored in two transactions": 2,
    "duplicates are not detected": 1,
    "event lookups of a group are reused in the next one": 2,
    "missing invoices of a group count as missing in the next one": 6,
    "a failed commit consumes row numbers": 1,
    "a row links to the previous row of another invoice": 2,
    "a changed timer keeps its old time": 1,
    "a changed record keeps its old check time": 1,
    "a timer is stored a day late": 1,
    "a record is checked a day late": 1,
    "a due item that fails is never retried": 7,
    "an item that is due before all others is not found": 1,
    "values are compressed with a dictionary that is not stored": 3,
    "a dictionary is used although the group that stored it failed": 3,
    "an item that is long overdue is skipped": 1,
    "a wait registered after the clock went back is ignored as late": 45,
    "an event whose handling failed is not stored": 2,
    "a redriven dead letter is not removed": 2,
    "an event that was not stored is answered 202": 2,
    "an alert does not wait for the previous one": 3,
    "the alert watermark advances before the alerts are in the outbox": 4,
    "an alert is removed before it is sent": 1,
    "a rejected alert is not retried": 1,
    "a sent alert is not removed": 1,
    "the newest known alert is read again as new": 1,
}
"""First seed that detects each mutant. `python -m tests.faults.mutants` prints them."""

MAX_FURTHER_SEEDS = 40
"""Maximum number of further seeds to try: every change of the cell changes the scenarios slightly."""

MUTANT_SEEDS = range(1, max(FOUND_BY.values()) + MAX_FURTHER_SEEDS + 1)
"""Seeds with which a mutant may run."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_cell_keeps_its_invariants_under_faults(tmp_path: Path, chunk: int, figures: Figures) -> None:
    count: Counter[str] = Counter()
    for seed in range(chunk * CHUNK + 1, (chunk + 1) * CHUNK + 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        environment = run_scenario(seed, folder)
        if seed in MUTANT_SEEDS:
            assert environment.steps < MAX_MUTANT_STEPS, "a mutant would count as detected without having an effect"
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
        run_scenario(3, tmp_path / name, traces[-1].append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_detected(name: str, figures: Figures) -> None:
    found = find(name, FOUND_BY[name], MAX_FURTHER_SEEDS)
    assert found, "no seed detects the mutant"
    figures.record("mutants of the cell", "1", "detected by the simulation")


def test_a_violation_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.environment.MAX_STEPS", 10)
    with pytest.raises(InvariantViolated, match=r"^seed 3, step 10 at 2026-.*the scenario does not end"):
        run_scenario(3, tmp_path)

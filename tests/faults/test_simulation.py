"""The cell holds what `examine` says, whatever a seed makes go wrong; and if it did not, the seeds would tell."""

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
"""How many seeds it takes until one breaks the mutant; `python -m tests.faults.mutants` counts them."""

ENDLESS = {
    "repeats are not looked for",
    "what was looked up for a turn is believed in the next",
    "an alert that was not taken is not tried again",
    "an alert that was sent is not forgotten",
}
"""Broken so, the cell never comes to rest; it takes seconds to see that."""

PATIENCE = 40
"""So many more seeds may be tried: a change of the cell changes all stories, a little."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_goes_wrong_the_cell_keeps_its_promises(tmp_path: Path, chunk: int, figures: Figures) -> None:
    count: Counter[str] = Counter()
    for seed in range(chunk * CHUNK + 1, (chunk + 1) * CHUNK + 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        environment = run_scenario(seed, folder)
        count["stories"] += 1
        count["steps"] += environment.steps
        count["ends of the process"] += environment.crashes
        count["failures of the disk"] += environment.disk.failures
        count["operations of the disk"] += environment.disk.operations
    for name, times in count.items():
        figures.record(f"a seeded simulation of the whole cell: {name}", str(times), "every promise held")


def test_a_seed_tells_the_same_story_again(tmp_path: Path) -> None:
    stories: list[list[str]] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        stories.append([])
        run_scenario(4, tmp_path / name, stories[-1].append)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20


@pytest.mark.parametrize("name", [name for name in MUTANTS if LONG or name not in ENDLESS])
def test_a_broken_promise_is_noticed(name: str, figures: Figures) -> None:
    found = find(name, FOUND_BY[name], PATIENCE)
    assert found, "no seed breaks it"
    figures.record("the cell broken on purpose, each time in another way", "1", "noticed by the simulation")


def test_a_story_that_breaks_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.environment.MAX_STEPS", 10)
    with pytest.raises(InvariantViolated, match=r"^seed 3, step 10 at 2026-.*the story has no end"):
        run_scenario(3, tmp_path)

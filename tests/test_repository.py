"""Budgets of the repository: what a newcomer has to look at and configure, and what an installation takes."""

import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

from bems.tracker.cells import CellConfig

ROOT = Path(__file__).parents[1]

MAX_ROOT_ENTRIES = 16
MAX_CELLS_LINES = 40
MAX_CELL_KEYS = 16
MAX_INSTALLED_MB = 200


def test_the_root_has_few_entries() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    entries = {name.split("/")[0] for name in listed.stdout.splitlines()}
    visible = sorted(name for name in entries if not name.startswith("."))
    assert len(visible) <= MAX_ROOT_ENTRIES, visible


def test_the_committed_cells_are_read_at_a_glance() -> None:
    assert len((ROOT / "cells.yaml").read_text(encoding="utf-8").splitlines()) <= MAX_CELLS_LINES


def test_a_cell_has_few_keys() -> None:
    assert len(CellConfig.__struct_fields__) <= MAX_CELL_KEYS


def test_an_installation_is_small() -> None:
    """The installed size of what running needs, without what only tests and synthesis need."""
    lock = (ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    names = [line.split("==")[0] for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    size = 0
    for name in names:
        try:
            files = distribution(name).files or []
        except ModuleNotFoundError:  # not for this platform
            continue
        size += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    assert len(names) > 10
    assert size / 1_000_000 <= MAX_INSTALLED_MB

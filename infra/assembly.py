"""The assembly: the cells of a folder's `cells.yaml` as stacks, or everything that is wrong with them at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from constructs import Construct

from bems.calendars import expand
from bems.tracker.cells import Cell
from bems.tracker.config import ConfigError, read_cells
from infra.cell import CellStack
from infra.compute import concurrency
from infra.compute.function_code import read_cell_policy

CELLS = "cells.yaml"


class InvalidCells(Exception):
    """Every mistake in the configuration, one a line."""


def add_stacks(scope: Construct, folder: Path) -> None:
    """Add a stack for each cell. InvalidCells, before anything is made of them where that can be told before."""
    mistakes: list[str] = []
    cells: tuple[Cell, ...] = ()
    with _collected(mistakes, CELLS):
        cells = tuple(read_cells((folder / CELLS).read_text(encoding="utf-8"), CELLS).cells)
    with _collected(mistakes, CELLS):
        concurrency.check_account_quota(cells)
    for cell in cells:
        with _collected(mistakes, cell.policy_file or f"{CELLS}: the policy of {cell.name}"):
            expand(read_cell_policy(cell, folder))
    if not mistakes:
        for cell in cells:
            with _collected(mistakes, CELLS):
                CellStack(scope, cell)
    if mistakes:
        raise InvalidCells("\n".join(mistakes))


@contextmanager
def _collected(mistakes: list[str], what: str) -> Iterator[None]:
    """What is wrong with `what` is added to the mistakes."""
    try:
        yield
    except ConfigError as wrong:
        mistakes.append(str(wrong))
    except OSError as wrong:
        mistakes.append(f"{what}: {wrong.strerror}")
    except UnicodeDecodeError as wrong:
        mistakes.append(f"{what}: not UTF-8 text: {wrong.reason} at byte {wrong.start}")
    except ValueError as wrong:
        mistakes.append(f"{what}: {wrong}")

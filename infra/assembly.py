"""Stacks for the cells in a folder's `cells.yaml`, or a report of every mistake in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from constructs import Construct

from bems.calendars import expand
from bems.tracker.cells import CellConfig
from bems.tracker.config import ConfigError, read_cells
from infra.cell import CellStack
from infra.compute import concurrency
from infra.compute.function_code import read_cell_policy

CELLS = "cells.yaml"


class InvalidCells(Exception):
    """Every mistake in the configuration, one per line."""


def add_stacks(scope: Construct, folder: Path) -> None:
    """Add a stack for each cell in the folder's `cells.yaml`.

    Raises InvalidCells when the configuration has mistakes. No stack is added while mistakes are found in the files; a
    mistake that only a construct can find is reported after its stack was started.
    """
    mistakes: list[str] = []
    cells: tuple[CellConfig, ...] = ()
    with _collected(mistakes, CELLS):
        cells = tuple(read_cells((folder / CELLS).read_text(encoding="utf-8"), CELLS).cells)
    with _collected(mistakes, CELLS):
        concurrency.check_account_quota(cells)
    for cell in cells:
        with _collected(
            mistakes, cell.policy if isinstance(cell.policy, str) else f"{CELLS}: the policy of {cell.name}"
        ):
            expand(read_cell_policy(cell, folder))
    if not mistakes:
        for cell in cells:
            with _collected(mistakes, CELLS):
                CellStack(scope, cell)
    if mistakes:
        raise InvalidCells("\n".join(mistakes))


@contextmanager
def _collected(mistakes: list[str], source: str) -> Iterator[None]:
    """Append any configuration error that the block raises to `mistakes`, with its source where the error lacks it."""
    try:
        yield
    except ConfigError as error:
        mistakes.append(str(error))
    except OSError as error:
        mistakes.append(f"{source}: {error.strerror}")
    except UnicodeDecodeError as error:
        mistakes.append(f"{source}: not UTF-8 text: {error.reason} at byte {error.start}")
    except ValueError as error:
        mistakes.append(f"{source}: {error}")

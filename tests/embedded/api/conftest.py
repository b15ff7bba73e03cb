"""Fixtures of cells: one shared by the tests of a module, and new ones for a single test."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.embedded.api.calls import SECRETS, Cell


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Cell shared by all tests of a module; each test uses its own invoice ids."""
    cell = Cell(tmp_path_factory.mktemp("cell"))
    yield cell
    cell.service.stop()


@pytest.fixture
def make_cell(tmp_path: Path) -> Iterator[Callable[..., Cell]]:
    """Function that creates a cell, after stopping the previous one in the same folder."""
    cells: list[Cell] = []

    def make_cell(**options: object) -> Cell:
        for cell in cells:
            cell.service.stop()
        cells.append(Cell(tmp_path / "cell", **options))  # type: ignore[arg-type]
        return cells[-1]

    yield make_cell
    for cell in cells:
        cell.service.stop()


@pytest.fixture
def own_cell(make_cell: Callable[..., Cell]) -> Cell:
    """New cell for one test."""
    return make_cell()


@pytest.fixture(autouse=True)
def assert_no_secret_is_logged() -> Iterator[None]:
    """Assert after each test that no log message contains a secret of a key."""
    lines: list[str] = []

    class ListHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, root = ListHandler(), logging.getLogger()
    root.addHandler(handler)
    yield
    root.removeHandler(handler)
    assert not [line for line in lines for secret in SECRETS if secret in line]

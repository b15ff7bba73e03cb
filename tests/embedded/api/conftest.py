"""Cells to ask: one that the tests of a module share, and as many of their own as they like."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.embedded.api.calls import SECRETS, Cell


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """One for all tests of a module, which send events of invoices of their own."""
    cell = Cell(tmp_path_factory.mktemp("cell"))
    yield cell
    cell.service.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cell]]:
    """Makes cells, each in the same folder after the one before was stopped."""
    cells: list[Cell] = []

    def make(**options: object) -> Cell:
        for cell in cells:
            cell.service.stop()
        cells.append(Cell(tmp_path / "cell", **options))  # type: ignore[arg-type]
        return cells[-1]

    yield make
    for cell in cells:
        cell.service.stop()


@pytest.fixture
def own(make: Callable[..., Cell]) -> Cell:
    """One for this test alone."""
    return make()


@pytest.fixture(autouse=True)
def nothing_secret_is_logged() -> Iterator[None]:
    """Whatever a test asks."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, root = Kept(), logging.getLogger()
    root.addHandler(handler)
    yield
    root.removeHandler(handler)
    assert not [line for line in lines for secret in SECRETS if secret in line]

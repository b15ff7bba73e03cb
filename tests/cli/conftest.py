"""Worlds that end with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.worlds import Asked, Play, Played, Said, World, running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running(tmp_path / "cell") as world:
        yield world


@pytest.fixture
def play() -> Iterator[Play]:
    """Starts played cells."""
    made: list[Played] = []

    def start(answer: Callable[[Asked], Said | None]) -> Played:
        made.append(Played(answer))
        return made[-1]

    yield start
    for played in made:
        played.close()

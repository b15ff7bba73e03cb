"""Worlds that end with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.cli_harness import CliHarness, FakeResponse, FakeServer, Play, RecordedRequest, running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[CliHarness]:
    with running(tmp_path / "cell") as world:
        yield world


@pytest.fixture
def play() -> Iterator[Play]:
    """Starts played cells."""
    made: list[FakeServer] = []

    def start(answer: Callable[[RecordedRequest], FakeResponse | None]) -> FakeServer:
        made.append(FakeServer(answer))
        return made[-1]

    yield start
    for played in made:
        played.close()

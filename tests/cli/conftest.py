"""Worlds that end with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.cli_harness import CliHarness, FakeResponse, FakeServer, RecordedRequest, StartFakeServer, running


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[CliHarness]:
    with running(tmp_path / "cell") as harness:
        yield harness


@pytest.fixture
def start_fake_server() -> Iterator[StartFakeServer]:
    """Starts fake_server cells."""
    made: list[FakeServer] = []

    def start(answer: Callable[[RecordedRequest], FakeResponse | None]) -> FakeServer:
        made.append(FakeServer(answer))
        return made[-1]

    yield start
    for fake_server in made:
        fake_server.close()

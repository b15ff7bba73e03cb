"""Fixtures: a running cell and fake servers, stopped after each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bems.calendars import expand
from tests.cli.cli_harness import CliHarness, FakeResponse, FakeServer, RecordedRequest, StartFakeServer, running
from tests.tracker.samples import FIRST_SPEC


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[CliHarness]:
    with running(tmp_path / "cell") as harness:
        yield harness


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[CliHarness]:
    """A running cell with the policy of version 0.1.0, which raises an alert every few days."""
    with running(tmp_path / "cell", policy=expand(FIRST_SPEC)) as harness:
        yield harness


@pytest.fixture
def start_fake_server() -> Iterator[StartFakeServer]:
    """Return a function that starts a fake server."""
    started: list[FakeServer] = []

    def start(answer: Callable[[RecordedRequest], FakeResponse | None]) -> FakeServer:
        started.append(FakeServer(answer))
        return started[-1]

    yield start
    for fake_server in started:
        fake_server.close()

"""Fixtures of the end-to-end tests (`make e2e`): one emulator and one deployed cell for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cell import DeployedCell
from tests.e2e.deployment import deploy, synthesize
from tests.e2e.emulator import Emulator

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-e2e"


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if not (ENVIRONMENT / "bin" / "ministack").exists():
        reason = f"no emulator in {ENVIRONMENT}: `make e2e` installs it, with Python 3.12"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    running = Emulator(ENVIRONMENT, tmp_path_factory.mktemp("emulator"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def cell(emulator: Emulator) -> DeployedCell:
    return DeployedCell(emulator, deploy(ENVIRONMENT, emulator, synthesize(emulator.home)))

"""Fixtures of the end-to-end tests (`make e2e`): one emulator, and one cell that most tests share."""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.cell import DeployedCell
from tests.e2e.deployment import ENVIRONMENT, WEBHOOK_URL, bootstrap, deploy, synthesize
from tests.e2e.emulator import Emulator
from tests.e2e.stand_ins import StandIns


@pytest.fixture(scope="session")
def stand_ins() -> Iterator[StandIns]:
    running = StandIns()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory, stand_ins: StandIns) -> Iterator[Emulator]:
    """Start the emulator, and bootstrap its account."""
    if not (ENVIRONMENT / "bin" / "ministack").exists():
        reason = f"no emulator in {ENVIRONMENT}: `make e2e` installs it, with Python 3.12"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    running = Emulator(ENVIRONMENT, tmp_path_factory.mktemp("emulator"), stand_ins.variables)
    try:
        bootstrap(running)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def cell(emulator: Emulator) -> DeployedCell:
    """Deploy the cell us-east of the example."""
    stack = "bems-us-east"
    outputs = deploy(emulator, synthesize(emulator.home, "example"), {"BemsUsChatUrl": WEBHOOK_URL})
    return DeployedCell(emulator, stack, outputs[stack])

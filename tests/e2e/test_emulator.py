"""Test of the emulator itself."""

import pytest

from tests.e2e.cell import DeployedCell

pytestmark = pytest.mark.e2e


def test_the_emulator_listens_only_on_loopback(cell: DeployedCell) -> None:
    assert cell.emulator.addresses() == {"127.0.0.1"}

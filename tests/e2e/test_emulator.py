"""The emulator itself."""

import pytest

from tests.e2e.cell import DeployedCell

pytestmark = pytest.mark.e2e


def test_nothing_listens_beyond_this_machine(cell: DeployedCell) -> None:
    assert cell.emulator.addresses() == {"127.0.0.1"}

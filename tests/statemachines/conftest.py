from collections.abc import Callable, Iterator

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from bems.tracker.policy import Policy
from tests.statemachines.lifecycle import Lifecycle

Start = Callable[[str, Policy], Lifecycle]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(at, policy) returns a Lifecycle whose frozen clock is at a time."""
    with freeze_time("2000-01-01") as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)

        def start(at: str, policy: Policy) -> Lifecycle:
            frozen.move_to(at)
            return Lifecycle(frozen, policy)

        yield start

from collections.abc import Iterator

import pytest

from tests.engine.parity import MotoWorld, moto_world


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoWorld]:
    with moto_world() as world:
        yield world

from collections.abc import Iterator

import pytest

from tests.engine.parity import MotoRunner, moto_runner


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoRunner]:
    with moto_runner() as runner:
        yield runner

"""One cloud for all tests of a module: each forgets what the one before it left."""

from collections.abc import Iterator

import pytest

from tests.aws.cloud import Cloud, open_cloud


@pytest.fixture(scope="module")
def whole_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with open_cloud(tmp_path_factory.mktemp("asset")) as cloud:
        yield cloud


@pytest.fixture
def cloud(whole_cloud: Cloud) -> Iterator[Cloud]:
    fakes, functions = dict(whole_cloud.wire.fakes), dict(whole_cloud.machine.functions)
    whole_cloud.reset()
    yield whole_cloud
    whole_cloud.wire.fakes, whole_cloud.machine.functions = fakes, functions

"""One Cloud for all tests of a module, reset before each test."""

from collections.abc import Iterator

import pytest

from tests.aws.cloud import Cloud, open_cloud


@pytest.fixture(scope="module")
def module_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with open_cloud(tmp_path_factory.mktemp("asset")) as cloud:
        yield cloud


@pytest.fixture
def cloud(module_cloud: Cloud) -> Iterator[Cloud]:
    fakes, functions = dict(module_cloud.aws.fakes), dict(module_cloud.machine.functions)
    module_cloud.reset()
    yield module_cloud
    module_cloud.aws.fakes, module_cloud.machine.functions = fakes, functions

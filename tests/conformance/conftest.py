"""The two runtimes that every clause runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aws.cloud import Cloud
from tests.aws.fixtures import cloud, module_cloud
from tests.conformance.aws_runtime import AwsRuntime
from tests.conformance.embedded_runtime import EmbeddedRuntime
from tests.conformance.runtime import Runtime
from tests.handlers.conftest import logs_are_captured

__all__ = ["cloud", "logs_are_captured", "module_cloud"]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedRuntime]:
    runtime = EmbeddedRuntime(tmp_path / "cell")
    yield runtime
    runtime.close()


@pytest.fixture
def aws(cloud: Cloud) -> AwsRuntime:
    return AwsRuntime(cloud)


@pytest.fixture(params=["embedded", "aws"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    runtime: Runtime = request.getfixturevalue(request.param)
    return runtime

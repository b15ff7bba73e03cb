"""Adapters that the contract tests run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bems.embedded.definition import read_resolved_definition
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import MemoryStore
from tests.aws.cloud import Cloud
from tests.aws.fixtures import cloud, module_cloud
from tests.ports.adapters import MACHINE, AwsExecutions, EmbeddedExecutions, ExecutionsAdapter

__all__ = ["cloud", "module_cloud"]


@pytest.fixture(params=["moto", "fakes"])
def aws(request: pytest.FixtureRequest, cloud: Cloud) -> Cloud:
    """A cell on moto, and on the fakes that replace moto where it is too slow."""
    if request.param == "fakes":
        cloud.replace_moto()
    return cloud


@pytest.fixture(params=["memory", "sqlite", "aws"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ExecutionsAdapter]:
    if request.param == "memory":
        yield EmbeddedExecutions(MemoryStore(keep_history=True))
    elif request.param == "sqlite":
        store = SqliteStore(tmp_path)
        store.store_definition(MACHINE.digest, read_resolved_definition())
        yield EmbeddedExecutions(store)
        store.close()
    else:
        yield AwsExecutions(request.getfixturevalue("cloud"))

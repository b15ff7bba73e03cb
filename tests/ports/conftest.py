"""Adapters that the contract tests run on."""

from collections.abc import Iterator
from os import environ
from pathlib import Path

import pytest

from bems.aws.clients import client
from bems.embedded.definition import read_resolved_definition
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import MemoryStore
from tests.aws.cloud import TABLE, Cloud
from tests.aws.fixtures import cloud, module_cloud
from tests.ports.adapters import MACHINE, Adapter, AwsAdapter, EmbeddedAdapter

__all__ = ["cloud", "module_cloud"]


@pytest.fixture(params=["memory", "sqlite", "aws on moto", "aws on fakes"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Adapter]:
    if request.param == "memory":
        memory = MemoryStore(keep_history=True)
        yield EmbeddedAdapter(memory, lambda: sorted({alert.id for alert in memory.alerts}))
        return
    if request.param == "sqlite":
        store = SqliteStore(tmp_path)
        store.store_definition(MACHINE.digest, read_resolved_definition())
        yield EmbeddedAdapter(store, lambda: sqlite_alerts(store))
        store.close()
        return
    moto: Cloud = request.getfixturevalue("cloud")
    if request.param == "aws on fakes":
        moto.replace_moto()
    topics = {severity: environ[f"BEMS_{severity.upper()}_TOPIC_ARN"] for severity in ("warning", "critical")}
    yield AwsAdapter(moto, client, topics, TABLE)


def sqlite_alerts(store: SqliteStore) -> list[str]:
    store.commit()
    return sorted(alert.id for _, alert in store.alerts())

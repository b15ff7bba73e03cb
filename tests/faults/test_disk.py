"""The simulated disk, and crashes at every single operation, which are too rare for random scenarios."""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest

from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from tests.faults.conftest import Figures
from tests.faults.disk import Disk, close_all
from tests.tracker.samples import NOW, event


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(Random("disk"))
    monkeypatch.setattr("sys.excepthook", disk.handle_exception)
    monkeypatch.setattr("sys.unraisablehook", disk.unraisable_hook)
    yield disk
    disk.unregister()


def test_a_cell_does_not_run_without_a_write_ahead_log(tmp_path: Path) -> None:
    """SQLite would fall back to another journal mode, and a power cut could undo commits."""
    default = str(apsw.vfs_details()[0]["zName"])
    SqliteStore(tmp_path).close()
    # This VFS has no shared memory, which a write-ahead log needs.
    apsw.set_default_vfs("unix-dotfile")
    try:
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises(StoreUnusable, match=r"cell.db cannot be \w+: "):
                SqliteStore(folder)
    finally:
        apsw.set_default_vfs(default)
    SqliteStore(tmp_path).close()


def make_and_fill(folder: Path, events: int) -> int:
    """Create a store and commit events one by one until the disk dies. Returns how many were committed."""
    opened: list[SqliteStore] = []
    answered = 0
    try:
        store = SqliteStore(folder)
        opened.append(store)
        for number in range(events):
            store.add_event(event("ingestion", "received", NOW, f"e{number}"))
            store.commit()
            answered += 1
    except (StoreUnusable, StoreFailed, apsw.Error):
        pass
    finally:
        close_all(*opened)
    return answered


def read_events(folder: Path) -> list[str]:
    store = SqliteStore(folder)
    ids = [one.event_id for _, one in store.events()]
    assert store._connection.pragma("integrity_check") == "ok"
    store.close()
    return ids


def test_a_power_cut_keeps_synced_writes_and_may_drop_others(disk: Disk, tmp_path: Path) -> None:
    """Two commits, of which only the first is synced."""
    lost = 0
    for number in range(40):
        path = tmp_path / str(number)
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)").fetchall()
        connection.execute("PRAGMA synchronous = OFF; INSERT INTO t VALUES (2)").fetchall()
        disk.is_dead = True
        with suppress(apsw.Error):
            connection.close()
        disk.cut_power()
        connection = apsw.Connection(str(path))
        found = connection.execute("SELECT a FROM t").fetchall()
        assert found in ([(1,)], [(1,), (2,)])
        lost += len(found) == 1
        connection.close()
    assert 5 < lost < 40, "the second commit must be lost sometimes, but not always"


def test_a_killed_process_loses_nothing_that_it_wrote(disk: Disk, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "file"))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE t (a)").fetchall()
    disk.is_dead = True
    with suppress(apsw.Error):
        connection.close()
    disk.restart()
    connection = apsw.Connection(str(tmp_path / "file"))
    assert connection.execute("SELECT count(*) FROM t").get == 0
    connection.close()


def test_a_full_disk_fails_commits_until_there_is_space(disk: Disk, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    disk.free_bytes = 0
    store.add_event(event("ingestion", "received"))
    with pytest.raises(StoreFailed, match="full"):
        store.commit()
    disk.free_bytes = None
    store.add_event(event("ingestion", "received"))
    store.commit()
    store.close()


def test_a_crash_at_any_operation_loses_no_committed_event(disk: Disk, tmp_path: Path, figures: Figures) -> None:
    """Crash at each operation of a store's creation, two commits and close."""
    logging.disable(logging.CRITICAL)
    folder = tmp_path / "whole"
    assert make_and_fill(folder, 2) == 2
    operations = disk.operations
    step = 1 if os.environ.get("BEMS_LONG") else 7
    for last in range(0, operations, step):
        for power in (True, False) if last % 3 else (True, True):
            folder = tmp_path / f"{last} {power} {disk.operations}"
            disk.die_after(last)
            answered = make_and_fill(folder, 2)
            assert disk.is_dead
            if power:
                disk.cut_power()
            else:
                disk.restart()
            assert read_events(folder) in [
                [f"e{number}" for number in range(count)] for count in (answered, answered + 1)
            ]
    logging.disable(logging.NOTSET)
    assert operations > 80
    figures.record(
        "crash at every operation of a store's creation, first commits and close",
        f"{len(range(0, operations, step)) * 2}",
        "every committed event kept",
    )


def test_a_commit_that_the_next_process_read_survives_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    """A process is killed between writing and syncing a commit.

    The next process reads the event and may report it, so a power cut must not drop it.
    """
    store = SqliteStore(tmp_path)
    for id in ("e0", "e1"):
        store.add_event(event("ingestion", "received", NOW, id))
        if id == "e0":
            store.commit()
    disk.dies_at_sync = True
    with pytest.raises(StoreFailed):
        store.commit()
    close_all(store)
    disk.restart()
    store = SqliteStore(tmp_path)
    assert store.digest("e1") is not None
    disk.is_dead = True
    close_all(store)
    disk.cut_power(drop=True)
    assert read_events(tmp_path) == ["e0", "e1"]


def test_a_foreign_database_with_a_journal_is_rejected_unchanged(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.execute("PRAGMA application_id = 7; CREATE TABLE t (a)").fetchall()
    connection.close()
    (tmp_path / f"{DATABASE}-journal").write_bytes(b"x" * 512)
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreUnusable, match="another program made it"):
        SqliteStore(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before
    assert (tmp_path / f"{DATABASE}-journal").read_bytes() == b"x" * 512

"""Ownership of a log: after a crash a database knows its own log, whoever has reset it, and no other."""

import shutil
from pathlib import Path

import apsw
import pytest

from bems.embedded.backup import back_up
from bems.embedded.storage import sqlite_store, wal_identity
from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.wal_identity import WalOwnership, find_wal_ownership, wal_path
from tests.data.store import list_stored_versions, unpack
from tests.tracker.samples import NOW, event


def crash(folder: Path, name: str) -> Path:
    """Copy the folder as a crash would leave it now."""
    return Path(shutil.copytree(folder, folder.with_name(name)))


def add(store: SqliteStore, id: str) -> None:
    store.add_event(event("ingestion", "received", NOW, id))
    store.commit()


def events(folder: Path) -> list[str]:
    store = SqliteStore(folder)
    ids = [one.event_id for _, one in store.events()]
    store.close()
    return ids


def test_a_log_stays_known_when_another_connection_resets_it(tmp_path: Path) -> None:
    """Readers reset a log that is too long. SQLite makes a random salt for a connection that has not done so itself."""
    store = SqliteStore(tmp_path / "cell")
    reader = apsw.Connection(str(tmp_path / "cell" / DATABASE))
    for number in range(5):
        add(store, f"e{number}")
        assert find_wal_ownership(crash(tmp_path / "cell", f"crashed-{number}") / DATABASE) is WalOwnership.OWN
        assert reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").get == (0, 0, 0)
    add(store, "last")
    left = crash(tmp_path / "cell", "left")
    reader.close()
    store.close()
    assert events(left) == ["e0", "e1", "e2", "e3", "e4", "last"]


def test_the_log_of_a_cell_that_runs_for_years_stays_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_identity, "_MAX_AHEAD", 8)
    monkeypatch.setattr(sqlite_store, "UPDATE_SALT_EVERY_COMMITS", 3)
    store = SqliteStore(tmp_path / "cell")
    for number in range(30):
        add(store, f"e{number}")
        store._execute("PRAGMA wal_checkpoint").fetchall()
        assert find_wal_ownership(tmp_path / "cell" / DATABASE) is WalOwnership.OWN
    store.close()


def test_the_log_of_an_interrupted_start_is_not_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cell"
    store = SqliteStore(folder)
    add(store, "e")
    store.close()
    left = list[Path]()
    remember = wal_identity.update_salt

    def spy(connection: apsw.Connection, database: Path) -> None:
        left.append(crash(folder, f"before-{len(left)}"))
        remember(connection, database)
        left.append(crash(folder, f"after-{len(left)}"))

    with monkeypatch.context() as patch:
        patch.setattr(wal_identity, "update_salt", spy)
        SqliteStore(folder).close()
    assert [find_wal_ownership(one / DATABASE) for one in left] == [WalOwnership.STARTING] * 2
    assert [events(one) for one in left] == [["e"]] * 2


def test_a_log_that_sqlite_ignores_counts_as_no_log(tmp_path: Path) -> None:
    database = tmp_path / DATABASE
    SqliteStore(tmp_path).close()
    for content in (b"", b"x" * 100, b"\x37\x7f\x06\x82" + bytes(28), b"\x37\x7f\x06\x82" + bytes(100_000)):
        wal_path(database).write_bytes(content)
        assert find_wal_ownership(database) is WalOwnership.NO_LOG


def test_every_log_is_foreign_to_a_backup(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "cell")
    add(store, "e1")
    back_up(tmp_path / "cell", tmp_path / "copy")
    add(store, "e2")
    shutil.copy(wal_path(tmp_path / "cell" / DATABASE), tmp_path / "copy")
    store.close()
    assert find_wal_ownership(tmp_path / "copy" / DATABASE) is WalOwnership.FOREIGN
    with pytest.raises(StoreUnusable, match="is not the log of"):
        back_up(tmp_path / "copy", tmp_path / "again")


@pytest.mark.parametrize("fits", [True, False])
def test_a_database_without_a_salt_is_read_completely(tmp_path: Path, fits: bool) -> None:
    """The cell crashed under an older program, or another database's log lies beside it."""
    folder = unpack(list_stored_versions()[2], tmp_path / "cell")
    connection = apsw.Connection(str(folder / DATABASE))
    connection.execute("PRAGMA wal_autocheckpoint = 0; DELETE FROM letters").fetchall()
    left = crash(folder, "left")
    connection.close()
    assert find_wal_ownership(left / DATABASE) is WalOwnership.UNKNOWN
    if fits:
        store = SqliteStore(left)
        assert store.dead_letters() == []
        store.close()
        return
    other = SqliteStore(tmp_path / "other")
    other.commit()
    for number in range(40):
        add(other, f"e{number}")
    shutil.copy(wal_path(tmp_path / "other" / DATABASE), left)
    other.close()
    before = {path.name: path.read_bytes() for path in left.iterdir() if path.suffix != ".db-shm"}
    with pytest.raises(StoreUnusable, match="damaged"):
        SqliteStore(left)
    assert {name: (left / name).read_bytes() for name in before if "shm" not in name} == {
        name: content for name, content in before.items() if "shm" not in name
    }

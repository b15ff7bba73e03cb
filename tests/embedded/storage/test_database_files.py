"""The folder of a cell and its database: which are refused, and which older versions are migrated."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from bems.embedded.storage.database_files import LOCK_FILE, StoreUnusable, lock_folder, open_database
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.tracker.record import InvoiceRecord
from tests.tracker.samples import FACTS, NOW

RECORD = InvoiceRecord("INV-1", FACTS, (NOW, "e"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path)
    yield store
    store.close()


# -- the folder and its database


def test_a_second_cell_on_the_folder_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=f"{tmp_path} is in use"):
        SqliteStore(tmp_path)
    store.close()
    SqliteStore(tmp_path).close()


def test_a_folder_is_created_and_closing_leaves_one_database(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a" / "b")
    store.put_record(RECORD)
    store.commit()
    store.close()
    store.close()
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {DATABASE, LOCK_FILE}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="cannot be used"):
        SqliteStore(tmp_path / "file")


def assert_refused(folder: Path, reason: str) -> None:
    """Assert that the store is refused for this reason, and that no byte of it is changed."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK_FILE}
    with pytest.raises(StoreUnusable, match=reason):
        SqliteStore(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK_FILE} == before
    lock_folder(folder).close()


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0"])
def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    assert_refused(tmp_path, "not a store of a cell")


@pytest.mark.parametrize("application", [0, 7])
def test_another_programs_database_is_refused(tmp_path: Path, application: int) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA application_id = {application}; CREATE TABLE t (a)")
    connection.close()
    assert_refused(tmp_path, "another program made it")


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    SqliteStore(tmp_path).close()


def test_a_truncated_store_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    store.close()
    os.truncate(tmp_path / DATABASE, 8192)
    assert_refused(tmp_path, "cut short")


def test_a_damaged_store_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    store.close()
    content = bytearray((tmp_path / DATABASE).read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (tmp_path / DATABASE).write_bytes(content)
    assert_refused(tmp_path, "damaged")


def test_the_journal_of_another_database_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    """The other database was interrupted while it was created. SQLite would truncate this one to the other's size."""
    store.close()
    other = apsw.Connection(str(tmp_path / "other"))
    other.execute("PRAGMA cache_size = 1; CREATE TABLE t (a); BEGIN; INSERT INTO t VALUES (zeroblob(100000))")
    other.cache_flush()
    journal = (tmp_path / "other-journal").read_bytes()
    assert journal[:4] == b"\xd9\xd5\x05\xf9"
    (tmp_path / f"{DATABASE}-journal").write_bytes(journal)
    other.close()
    assert_refused(tmp_path, "is not the journal of the cell.db beside it")


# -- versions


def migrate_to_next_version(connection: apsw.Connection) -> None:
    connection.execute("ALTER TABLE invoices ADD COLUMN colour TEXT")
    connection.execute("UPDATE invoices SET colour = 'blue'")


def test_an_older_store_is_migrated_and_then_refused_by_the_older_program(store: SqliteStore, tmp_path: Path) -> None:
    store.put_record(RECORD)
    store.commit()
    store.close()
    for _ in range(2):
        connection = open_database(tmp_path / DATABASE, (*MIGRATIONS, migrate_to_next_version), APPLICATION_ID)
        assert connection.pragma("user_version") == len(MIGRATIONS) + 1
        assert connection.execute("SELECT invoice_id, colour FROM invoices").fetchall() == [("INV-1", "blue")]
        connection.close()
    assert_refused(
        tmp_path, f"is of version {len(MIGRATIONS) + 1}, and this program knows versions up to {len(MIGRATIONS)}"
    )


def test_a_newer_version_that_is_only_in_the_log_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    store._execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    before = (copy / DATABASE).read_bytes()
    with pytest.raises(StoreUnusable, match="use the newer program"):
        SqliteStore(copy)
    assert (copy / DATABASE).read_bytes() == before
    assert (copy / f"{DATABASE}-wal").read_bytes() == (tmp_path / f"{DATABASE}-wal").read_bytes()


def test_a_migration_that_fails_changes_nothing(store: SqliteStore, tmp_path: Path) -> None:
    store.put_record(RECORD)
    store.commit()
    store.close()

    def fail(connection: apsw.Connection) -> None:
        migrate_to_next_version(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        open_database(tmp_path / DATABASE, (*MIGRATIONS, fail), APPLICATION_ID)
    connection = apsw.Connection(str(tmp_path / DATABASE))
    assert connection.pragma("user_version") == len(MIGRATIONS)
    assert "colour" not in str(connection.execute("SELECT sql FROM sqlite_schema").fetchall())
    connection.close()
    again = SqliteStore(tmp_path)
    assert again.record("INV-1") == RECORD
    again.close()


def test_a_store_migrated_from_any_version_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    """The migrations run one by one, and all at once."""
    schemas = []
    for folder in (tmp_path / "at-once", tmp_path / "stepwise"):
        folder.mkdir()
        steps = range(1, len(MIGRATIONS) + 1) if folder.name == "stepwise" else [len(MIGRATIONS)]
        for version in steps:
            open_database(folder / DATABASE, MIGRATIONS[:version], APPLICATION_ID).close()
        connection = open_database(folder / DATABASE, MIGRATIONS, APPLICATION_ID)
        schemas.append(connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall())
        connection.close()
    assert schemas[0] == schemas[1]

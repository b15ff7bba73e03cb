"""Restore: the content of the new folder, and refusals of bad backups and of folders that are not empty."""

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from bems.embedded import backup
from bems.embedded.auth.keys import KEYS_DATABASE
from bems.embedded.backup import back_up
from bems.embedded.restore import RestoreRefused, restore
from bems.embedded.storage.database_files import LOCK_FILE, PARTIAL_RESTORE_PREFIX, StoreUnusable
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.schema import DATABASE, MIGRATIONS
from bems.embedded.storage.sqlite_store import SqliteStore
from tests.data.store import FILES, list_stored_versions, read_contents, unpack
from tests.embedded.storage.corrupt_files import corrupt_header, corrupt_pages, make_newer, put_foreign_database


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A backup."""
    back_up(unpack(list_stored_versions()[len(MIGRATIONS)], tmp_path / "cell"), tmp_path / "copy")
    return tmp_path / "copy"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("made", [False, True])
def test_a_restored_folder_equals_the_backup_which_is_unchanged(copy: Path, tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "restored"
    if made:
        folder.mkdir()
        (folder / "lost+found").mkdir()
    before = content(copy)
    restored = restore(copy, folder)
    assert content(copy) == before, "no log is left beside the backup"
    assert {path.name for path in folder.iterdir() if path.is_file()} - {LOCK_FILE} == set(FILES)
    held = read_contents(folder)
    assert held == read_contents(tmp_path / "cell")
    assert restored.events == len(held["events"]) and restored.invoices == len(held["invoices"])
    assert restored.latest == held["transitions"][-1][1]["recorded_at"]


@pytest.mark.parametrize("version", sorted(list_stored_versions()))
def test_a_backup_of_any_version_is_restored(tmp_path: Path, version: int) -> None:
    old = unpack(list_stored_versions()[version], tmp_path / "old")
    restored = restore(old, tmp_path / "restored")
    assert read_contents(tmp_path / "restored") == read_contents(old)
    assert restored.events and restored.invoices and restored.latest


def test_a_snapshot_is_restored_with_the_content_of_its_log(copy: Path, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "cell")
    store._execute("DELETE FROM letters")
    shutil.copytree(tmp_path / "cell", tmp_path / "snapshot")
    store.close()
    assert restore(tmp_path / "snapshot", tmp_path / "restored").dead_letters == 0
    assert restore(copy, tmp_path / "other").dead_letters > 0


def test_a_folder_that_is_not_empty_is_left_alone(copy: Path, tmp_path: Path) -> None:
    cell, file = content(tmp_path / "cell"), tmp_path / "file"
    with pytest.raises(RestoreRefused, match=r"cell is not empty: it holds .*Stop the cell.* move the folder away"):
        restore(copy, tmp_path / "cell")
    assert content(tmp_path / "cell") == cell
    file.touch()
    for path, reason in ((file, "is not a folder"), (file / "cell", "is not a folder"), (copy, "is not empty")):
        with pytest.raises(RestoreRefused, match=reason):
            restore(copy, path)


def corrupt_index(path: Path) -> None:
    """Make the entries of an index wrong, which only a full check finds."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    connection.execute("PRAGMA journal_mode = DELETE")
    sql = "UPDATE sqlite_schema SET sql = replace(sql, '(status, invoice_id,', '(invoice_id, status,')"
    connection.execute(f"{sql} WHERE name = 'invoices_by_status'")
    connection.close()


@pytest.mark.parametrize(
    ("corrupt", "error", "reason"),
    [
        (corrupt_header, StoreUnusable, "not an SQLite database"),
        (corrupt_pages, StoreFailed, "damaged"),
        (corrupt_index, StoreFailed, "damaged"),
        (make_newer, StoreUnusable, "use the newer program"),
        (put_foreign_database, StoreUnusable, "another program made it"),
        (Path.unlink, RestoreRefused, "not a backup of a cell"),
    ],
)
def test_an_unusable_backup_is_not_restored(
    copy: Path, tmp_path: Path, corrupt: Callable[[Path], None], error: type[Exception], reason: str
) -> None:
    corrupt(copy / DATABASE)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(error, match=reason):
            restore(copy, tmp_path / name)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "empty").iterdir())


def test_a_folder_of_backups_is_not_a_backup(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    copy.rename(tmp_path / "backups" / "monday")
    with pytest.raises(RestoreRefused, match="backups/monday does: give that folder"):
        restore(tmp_path / "backups", tmp_path / "new")
    with pytest.raises(RestoreRefused, match="nowhere is not a folder"):
        restore(tmp_path / "nowhere", tmp_path / "new")


def test_a_failed_restore_leaves_nothing(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        restore(copy, tmp_path / "new", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not (tmp_path / "new").exists()

    def fail(path: Path) -> None:
        if path.name == "new":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "sync", fail)
        with pytest.raises(StoreFailed, match="new could not be written: No space"):
            restore(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_cell_starts_on_a_killed_restore(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed before `cell.db` is moved to its place, and after all other files are."""
    folder = tmp_path / "new"

    def die(path: Path) -> None:
        if path == folder and (folder / KEYS_DATABASE).exists():
            shutil.copytree(folder, tmp_path / "killed")
            raise KeyboardInterrupt

    monkeypatch.setattr(backup, "sync", die)
    with pytest.raises(KeyboardInterrupt):
        restore(copy, folder)
    assert list((tmp_path / "killed").glob(f"{PARTIAL_RESTORE_PREFIX}*/{DATABASE}"))
    with pytest.raises(StoreUnusable, match=r"an interrupted restore .*: delete the folder, and restore again"):
        SqliteStore(tmp_path / "killed")
    with pytest.raises(RestoreRefused, match="is not empty"):
        restore(copy, tmp_path / "killed")

"""Only the owner can access a cell's folder and files, whatever the umask is and whatever permissions they had."""

import gzip
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.auth.keys import Keys
from bems.embedded.backup import back_up
from bems.embedded.restore import restore
from bems.embedded.storage.database_files import LOCK_FILE, lock_folder
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from tests.cell_process import CellProcess
from tests.cli.cli_harness import run
from tests.data.store import FILES, list_stored_versions


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Set a umask that denies nobody anything."""
    before = os.umask(0)
    yield
    os.umask(before)


def list_accessible_to_others(folder: Path) -> list[str]:
    """Return the paths that users other than the owner have any access to."""
    found = [folder, *folder.rglob("*")]
    return [str(path) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def unpack_accessible(folder: Path) -> Path:
    """Unpack a stored cell with the permissions that the umask gives, as older programs did."""
    folder.mkdir()
    newest = list_stored_versions()[max(list_stored_versions())]
    for name in FILES:
        (folder / name).write_bytes(gzip.decompress((newest / f"{name}.gz").read_bytes()))
    (folder / f"{ANALYTICS}.damaged-1").write_text("old rows")
    assert len(list_accessible_to_others(folder)) == len(FILES) + 2
    return folder


def test_files_of_a_running_cell_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with CellProcess(folder, tmp_path / "errors.log") as process:
        process.read_admin_key()
        names = {path.name for path in folder.iterdir()}
        assert {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK_FILE, "keys.db", "deliveries.db"} <= names
        assert list_accessible_to_others(folder) == []
        process.end(signal.SIGTERM)
    assert (folder / ANALYTICS).exists()
    assert list_accessible_to_others(folder) == []


def test_a_start_makes_an_accessible_folder_private_and_logs_it_once(tmp_path: Path) -> None:
    folder, log = unpack_accessible(tmp_path / "cell"), tmp_path / "errors.log"
    for _ in range(2):
        with CellProcess(folder, log) as process:
            process.end(signal.SIGTERM)
    assert list_accessible_to_others(folder) == []
    assert log.read_text().count("was accessible to other users; now only to its owner") == 1


def test_in_a_folder_with_other_files_only_the_cells_files_become_private(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder may be a home directory or `/tmp`."""
    folder = unpack_accessible(tmp_path / "home")
    (folder / "notes.txt").write_text("Dear all")
    SqliteStore(folder).close()
    assert list_accessible_to_others(folder) == [str(folder), str(folder / "notes.txt")]
    assert "because it holds more than a cell" in caplog.text


def test_a_key_created_in_a_new_folder_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "cell"
    assert run("keys", "add", "boss", "--role", "admin", "--store", str(folder)).code == 0
    assert list_accessible_to_others(folder) == []
    lock = lock_folder(tmp_path / "other")
    Keys(tmp_path / "other").close()
    lock.close()
    assert list_accessible_to_others(tmp_path / "other") == []


def test_backups_and_restored_folders_are_private(tmp_path: Path) -> None:
    back_up(unpack_accessible(tmp_path / "cell"), tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "copy", tmp_path / "empty")
    for name in ("copy", "new", "empty"):
        assert list_accessible_to_others(tmp_path / name) == []


def test_outputs_with_real_events_are_private_and_generated_logs_are_not(tmp_path: Path) -> None:
    made = tmp_path / "made.jsonl"
    assert run("generate", "--invoices", "5", "--out", str(made)).code == 0
    assert stat.S_IMODE(made.stat().st_mode) == 0o666
    outs = {name: str(tmp_path / name) for name in ("invoices", "refused")}
    replayed = run("replay", str(made), "--invoices-out", outs["invoices"], "--refused-out", outs["refused"])
    assert replayed.code == 0
    assert [stat.S_IMODE(os.stat(out).st_mode) for out in outs.values()] == [0o600, 0o600]

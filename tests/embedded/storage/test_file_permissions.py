"""A cell's folder and files are its owner's alone, whatever the umask is, and whatever they were before."""

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
from bems.embedded.storage.database_files import LOCK, lock_folder
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from tests.cell_process import CellProcess
from tests.cli.cli_harness import run
from tests.data.store import FILES, list_stored_versions


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Everybody may do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What anybody but the owner may do anything with."""
    found = [folder, *folder.rglob("*")]
    return [str(path) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def wide(folder: Path) -> Path:
    """A cell's folder as it was made by programs that did not care."""
    folder.mkdir()
    newest = list_stored_versions()[max(list_stored_versions())]
    for name in FILES:
        (folder / name).write_bytes(gzip.decompress((newest / f"{name}.gz").read_bytes()))
    (folder / f"{ANALYTICS}.damaged-1").write_text("old rows")
    assert len(open_to_others(folder)) == len(FILES) + 2
    return folder


def test_what_a_running_cell_makes_is_its_owners(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with CellProcess(folder, tmp_path / "errors.log") as life:
        life.read_admin_key()
        names = {path.name for path in folder.iterdir()}
        assert {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK, "keys.db", "deliveries.db"} <= names
        assert open_to_others(folder) == []
        life.end(signal.SIGTERM)
    assert (folder / ANALYTICS).exists()
    assert open_to_others(folder) == []


def test_a_folder_that_was_open_is_closed_at_the_start_and_that_is_said_once(tmp_path: Path) -> None:
    folder, log = wide(tmp_path / "cell"), tmp_path / "errors.log"
    for _ in range(2):
        with CellProcess(folder, log) as life:
            life.end(signal.SIGTERM)
    assert open_to_others(folder) == []
    assert log.read_text().count("was accessible to other users; now only to its owner") == 1


def test_a_folder_in_which_other_things_are_stays_and_the_files_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a home, or `/tmp`."""
    folder = wide(tmp_path / "home")
    (folder / "letters.txt").write_text("Dear all")
    SqliteStore(folder).close()
    assert open_to_others(folder) == [str(folder), str(folder / "letters.txt")]
    assert "because it holds more than a cell" in caplog.text


def test_a_key_made_in_a_folder_that_is_not_there_yet_is_the_owners(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "cell"
    assert run("keys", "add", "boss", "--role", "admin", "--store", str(folder)).code == 0
    assert open_to_others(folder) == []
    lock = lock_folder(tmp_path / "other")
    Keys(tmp_path / "other").close()
    lock.close()
    assert open_to_others(tmp_path / "other") == []


def test_a_backup_and_what_is_restored_are_the_owners(tmp_path: Path) -> None:
    back_up(wide(tmp_path / "cell"), tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "copy", tmp_path / "empty")
    for name in ("copy", "new", "empty"):
        assert open_to_others(tmp_path / name) == []


def test_what_is_written_of_events_is_the_owners_and_what_is_made_up_is_anybodys(tmp_path: Path) -> None:
    made = tmp_path / "made.jsonl"
    assert run("generate", "--invoices", "5", "--out", str(made)).code == 0
    assert stat.S_IMODE(made.stat().st_mode) == 0o666
    outs = {name: str(tmp_path / name) for name in ("invoices", "refused")}
    told = run("replay", str(made), "--invoices-out", outs["invoices"], "--refused-out", outs["refused"])
    assert told.code == 0
    assert [stat.S_IMODE(os.stat(out).st_mode) for out in outs.values()] == [0o600, 0o600]

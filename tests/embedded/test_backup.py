"""Backup: content and moment of a copy, and what is left when none can be made."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import apsw
import pytest

from bems.embedded import backup
from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.auth.keys import KEYS_DATABASE
from bems.embedded.backup import Backup, BackupRefused, back_up
from bems.embedded.storage.database_files import StoreUnusable, open_database
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.tracker.instants import DAY
from tests.data.store import list_stored_versions, read_contents, unpack
from tests.embedded.api.calls import Cell, Inbox, event_body
from tests.embedded.storage.corrupt_files import corrupt_header, corrupt_pages, make_newer, put_foreign_database
from tests.tracker.samples import NOW
from tests.waiting import until

FILES = {DATABASE, DELIVERIES, KEYS_DATABASE}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a cell that does not run."""
    return unpack(list_stored_versions()[len(MIGRATIONS)], tmp_path / "cell")


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def assert_files(folder: Path, *names: str) -> None:
    """Assert that the folder holds exactly these names."""
    assert {path.name for path in folder.iterdir()} == set(names)


def test_a_cell_that_does_not_run_is_copied_and_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    # Reading the contents opens the store, which migrates an older one. So `content` comes second.
    held, before = read_contents(folder), content(folder)
    made = back_up(folder, tmp_path / "copy")
    assert_files(tmp_path / "copy", *FILES)
    assert content(folder) == before
    assert read_contents(tmp_path / "copy") == held == read_contents(folder)
    assert made == Backup(
        bytes=sum(map(len, before.values())),
        events=len(held["events"]),
        invoices=len(held["invoices"]),
        transitions=len(held["transitions"]),
        alerts=sum(alert["kind"] != "resolved" for _, alert in held["alerts"]),
        dead_letters=len(held["letters"]),
        deliveries=len(held["deliveries"][0]),
        keys=2,
        latest=held["transitions"][-1][1]["recorded_at"],
    )


def test_content_that_is_only_in_the_log_of_a_killed_cell_is_copied(folder: Path, tmp_path: Path) -> None:
    connection = open_database(folder / DATABASE, MIGRATIONS, APPLICATION_ID)
    connection.execute("PRAGMA wal_autocheckpoint = 0; DELETE FROM letters").fetchall()
    killed = tmp_path / "killed"
    killed.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".db-shm":
            (killed / path.name).write_bytes(path.read_bytes())
    connection.close()
    database = (killed / DATABASE).read_bytes()
    assert back_up(killed, tmp_path / "copy").dead_letters == 0
    assert (killed / DATABASE).read_bytes() == database != (tmp_path / "copy" / DATABASE).read_bytes()


def test_a_running_cell_continues_while_its_copy_shows_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each chunk more events arrive, alerts are raised and delivered, and a key is added."""
    monkeypatch.setattr(backup, "COPY_CHUNK_BYTES", 16 * 4096)
    inbox = Inbox()
    chunks = list[int]()

    def run_cell(done: int, _: int) -> None:
        chunks.append(done)
        cell.send_all(
            "ingestion", [event_body("ingestion", event_id=f"{n}-{done}", invoice_id=f"{n}-{done}") for n in range(30)]
        )
        cell.move_to(cell.clock.now() + DAY)
        until(lambda: len(chunks) < 4 or len(inbox.taken) >= 99)
        cell.service.keys.add(f"made-{done}", "viewer", "the test", NOW)

    with Cell(tmp_path / "cell", destinations=inbox.everything) as cell:
        cell.send_all("ingestion", [event_body("ingestion", event_id=f"{n}", invoice_id=f"{n}") for n in range(99)])
        made = back_up(cell.folder, tmp_path / "copy", run_cell)
    assert len(chunks) > 5
    assert made.events == 99 + 30, "the moment of its copy is after that of the deliveries"
    assert made.keys == 4 + len(chunks) - 1, "keys are copied last"
    with Cell(tmp_path / "copy", destinations=inbox.everything) as restored:
        restored.keys |= cell.keys
        assert restored.get("/check")["accepted"] == made.events


def test_deliveries_in_a_copy_are_never_ahead_of_its_alerts(tmp_path: Path) -> None:
    """An alert that is raised and delivered during the copy is delivered again by a cell that starts on the copy."""
    inbox = Inbox()
    chunks = list[int]()

    def alert(done: int, _: int) -> None:
        chunks.append(done)
        if len(chunks) == 1:
            cell.move_to(NOW + 3 * DAY)
            until(lambda: len(inbox.taken) == 1 and cell.service.deliveries.waiting() == 0)

    with Cell(tmp_path / "cell", destinations=inbox.everything) as cell:
        cell.send("ingestion")
        back_up(cell.folder, tmp_path / "copy", alert)
    with Cell(tmp_path / "copy", destinations=inbox.everything) as restored:
        restored.move_to(NOW + 3 * DAY)
        until(lambda: len(inbox.taken) == 2)
    assert len(set(inbox.taken)) == 1


def test_a_copy_gets_its_name_after_everything_is_synced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, synced = list[str](), dict[str, bytes]()
    sync, rename = backup.sync, Path.rename

    def spy_sync(path: Path) -> None:
        sync(path)
        if path.is_file():
            synced[path.name] = path.read_bytes()
        done.append(path.name.partition(".copy.")[1] or path.name)

    def spy_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(backup, "sync", spy_sync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    back_up(folder, tmp_path / "copy")
    monkeypatch.undo()
    once = [name for name, _ in groupby(done)]
    assert once == [DELIVERIES, DATABASE, KEYS_DATABASE, ".copy.", "rename", tmp_path.name]
    assert synced == content(tmp_path / "copy")


# -- failures


def assert_nothing_left(folder: Path, *names: str) -> None:
    """Assert that there is nothing beside the cell's folder but these names."""
    assert_files(folder.parent, "cell", *names)


def test_an_existing_target_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(BackupRefused, match=f"{name} already exists"):
            back_up(folder, tmp_path / name)
    assert_nothing_left(folder, "empty", "file", "link")
    with pytest.raises(BackupRefused, match="is not a folder"):
        back_up(folder, tmp_path / "file" / "copy")


def test_a_target_created_during_the_copy_is_left_alone(folder: Path, tmp_path: Path) -> None:
    def make(*_: object) -> None:
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / "mine").touch()

    with pytest.raises(BackupRefused, match="it was created during the copy"):
        back_up(folder, tmp_path / "copy", make)
    assert_nothing_left(folder, "copy")
    assert_files(tmp_path / "copy", "mine")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("corrupt", "error", "reason"),
    [
        (corrupt_header, StoreUnusable, "not an SQLite database"),
        (corrupt_pages, StoreFailed, "damaged"),
        (make_newer, StoreUnusable, "use the newer program"),
        (put_foreign_database, StoreUnusable, "another program made it"),
        (remove, BackupRefused, "not the folder of a cell"),
    ],
)
def test_an_unusable_cell_is_not_copied(
    folder: Path, tmp_path: Path, corrupt: Callable[[Path], None], error: type[Exception], reason: str
) -> None:
    corrupt(folder / DATABASE)
    with pytest.raises(error, match=reason):
        back_up(folder, tmp_path / "copy")
    assert_nothing_left(folder)


@pytest.mark.parametrize("name", [DELIVERIES, KEYS_DATABASE])
def test_an_unusable_side_database_is_named_in_the_error(folder: Path, tmp_path: Path, name: str) -> None:
    corrupt_header(folder / name)
    with pytest.raises(StoreUnusable, match=name):
        back_up(folder, tmp_path / "copy")
    assert_nothing_left(folder)
    (folder / name).unlink()
    assert back_up(folder, tmp_path / "copy").events
    assert_files(tmp_path / "copy", *FILES - {name})


def test_without_enough_free_space_nothing_is_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = sum(map(len, content(folder).values())) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Free(free))
    with pytest.raises(BackupRefused, match=f"{free:,} are free"):
        back_up(folder, tmp_path / "copy")
    assert_nothing_left(folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Free(free + 1))
    back_up(folder, tmp_path / "copy")


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize("error", [apsw.FullError("database or disk is full"), OSError(28, "No space left on device")])
def test_a_failed_copy_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(backup, "sync", fail)
        with pytest.raises(StoreFailed, match=r"copy could not be written: .*(full|space)"):
            back_up(folder, tmp_path / "copy")
    assert_nothing_left(folder)
    with pytest.raises(KeyboardInterrupt):
        back_up(folder, tmp_path / "copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert_nothing_left(folder)

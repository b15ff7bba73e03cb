"""Copies of a cell's folder: what they hold, of which moment, and what is left where none can be made."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import apsw
import pytest

from bems.embedded import backup
from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.auth.keys import KEYS
from bems.embedded.backup import Backup, BackupRefused, back_up
from bems.embedded.storage.database_files import StoreUnusable, open_database
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.schema import APPLICATION_ID, DATABASE, MIGRATIONS
from bems.tracker.instants import DAY
from tests.data.store import stored, unpack, view
from tests.embedded.api.calls import Cell, Inbox, event_body
from tests.embedded.storage.corrupt_files import make_newer, put_anothers
from tests.tracker.samples import NOW
from tests.waiting import until

FILES = {DATABASE, DELIVERIES, KEYS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a cell that does not run."""
    return unpack(stored()[len(MIGRATIONS)], tmp_path / "cell")


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def only(folder: Path, *names: str) -> None:
    """What is in it."""
    assert {path.name for path in folder.iterdir()} == set(names)


def test_a_cell_that_does_not_run_is_copied_and_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    # First what it holds: an older store is brought up to date by that.
    held, before = view(folder), content(folder)
    made = back_up(folder, tmp_path / "copy")
    only(tmp_path / "copy", *FILES)
    assert content(folder) == before
    assert view(tmp_path / "copy") == held == view(folder)
    assert made == Backup(
        bytes=sum(map(len, before.values())),
        events=len(held["events"]),
        invoices=len(held["invoices"]),
        transitions=len(held["transitions"]),
        alerts=len(held["alerts"]),
        dead_letters=len(held["letters"]),
        deliveries=len(held["deliveries"][0]),
        keys=2,
        latest=held["transitions"][-1][1]["recorded_at"],
    )


def test_what_only_the_log_of_a_killed_cell_has_is_copied_too(folder: Path, tmp_path: Path) -> None:
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


def test_a_running_cell_goes_on_meanwhile_and_the_copy_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each piece more comes in; alerts are raised and delivered, and a key is revoked."""
    monkeypatch.setattr(backup, "COPY_CHUNK_BYTES", 16 * 4096)
    inbox = Inbox()
    pieces = list[int]()

    def go_on(done: int, _: int) -> None:
        pieces.append(done)
        cell.send_all(
            "ingestion", [event_body("ingestion", event_id=f"{n}-{done}", invoice_id=f"{n}-{done}") for n in range(30)]
        )
        cell.move_to(cell.clock.now() + DAY)
        until(lambda: len(pieces) < 4 or len(inbox.taken) >= 99)
        cell.service.keys.add(f"made-{done}", "viewer", "the test", NOW)

    with Cell(tmp_path / "cell", destinations=inbox.everything) as cell:
        cell.send_all("ingestion", [event_body("ingestion", event_id=f"{n}", invoice_id=f"{n}") for n in range(99)])
        made = back_up(cell.folder, tmp_path / "copy", go_on)
    assert len(pieces) > 5
    assert made.events == 99 + 30, "as when its turn came, after the deliveries"
    assert made.keys == 4 + len(pieces) - 1, "the keys come last"
    with Cell(tmp_path / "copy", destinations=inbox.everything) as restored:
        restored.keys |= cell.keys
        assert restored.get("/check")["accepted"] == made.events


def test_its_deliveries_are_never_ahead_of_it(tmp_path: Path) -> None:
    """An alert is raised and delivered while the files are copied: the copy starts, and tells it again."""
    inbox = Inbox()
    told = list[int]()

    def alert(done: int, _: int) -> None:
        told.append(done)
        if len(told) == 1:
            cell.move_to(NOW + 3 * DAY)
            until(lambda: len(inbox.taken) == 1 and cell.service.deliveries.waiting() == 0)

    with Cell(tmp_path / "cell", destinations=inbox.everything) as cell:
        cell.send("ingestion")
        back_up(cell.folder, tmp_path / "copy", alert)
    with Cell(tmp_path / "copy", destinations=inbox.everything) as restored:
        restored.move_to(NOW + 3 * DAY)
        until(lambda: len(inbox.taken) == 2)
    assert len(set(inbox.taken)) == 1


def test_it_has_its_name_when_all_of_it_is_on_the_disk(
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
    assert once == [DELIVERIES, DATABASE, KEYS, ".copy.", "rename", tmp_path.name]
    assert synced == content(tmp_path / "copy")


# -- where there is none


def nothing_left(folder: Path, *names: str) -> None:
    only(folder.parent, "cell", *names)


def test_an_existing_target_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(BackupRefused, match=f"{name} is there already"):
            back_up(folder, tmp_path / name)
    nothing_left(folder, "empty", "file", "link")
    with pytest.raises(BackupRefused, match="is no folder"):
        back_up(folder, tmp_path / "file" / "copy")


def test_a_target_that_somebody_makes_meanwhile_is_left_alone(folder: Path, tmp_path: Path) -> None:
    def make(*_: object) -> None:
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / "mine").touch()

    with pytest.raises(BackupRefused, match="somebody made it meanwhile"):
        back_up(folder, tmp_path / "copy", make)
    nothing_left(folder, "copy")
    only(tmp_path / "copy", "mine")


def spoil_header(path: Path) -> None:
    path.write_bytes(b"x" * 5000)


def spoil_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8 * 4096] = b"\xff" * (8 * 4096)
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (spoil_header, StoreUnusable, "no SQLite database"),
        (spoil_pages, StoreFailed, "damaged"),
        (make_newer, StoreUnusable, "use the newer program"),
        (put_anothers, StoreUnusable, "another program made it"),
        (remove, BackupRefused, "not the folder of a cell"),
    ],
)
def test_what_is_no_good_cell_is_not_copied(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], reason: str
) -> None:
    spoil(folder / DATABASE)
    with pytest.raises(error, match=reason):
        back_up(folder, tmp_path / "copy")
    nothing_left(folder)


@pytest.mark.parametrize("name", [DELIVERIES, KEYS])
def test_a_file_beside_it_that_is_no_good_is_told_of(folder: Path, tmp_path: Path, name: str) -> None:
    spoil_header(folder / name)
    with pytest.raises(StoreUnusable, match=name):
        back_up(folder, tmp_path / "copy")
    nothing_left(folder)
    (folder / name).unlink()
    assert back_up(folder, tmp_path / "copy").events
    only(tmp_path / "copy", *FILES - {name})


def test_where_there_is_no_room_nothing_is_begun(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = sum(map(len, content(folder).values())) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Free(free))
    with pytest.raises(BackupRefused, match=f"{free:,} are free"):
        back_up(folder, tmp_path / "copy")
    nothing_left(folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Free(free + 1))
    back_up(folder, tmp_path / "copy")


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize("error", [apsw.FullError("database or disk is full"), OSError(28, "No space left on device")])
def test_what_fails_in_the_middle_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(backup, "sync", fail)
        with pytest.raises(StoreFailed, match=r"copy could not be written: .*(full|space)"):
            back_up(folder, tmp_path / "copy")
    nothing_left(folder)
    with pytest.raises(KeyboardInterrupt):
        back_up(folder, tmp_path / "copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    nothing_left(folder)

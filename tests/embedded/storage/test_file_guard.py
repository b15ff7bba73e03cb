"""Writes to files that are no longer where they were opened are refused, because they would be lost."""

import shutil
from pathlib import Path

import pytest

from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.auth.keys import KEYS_DATABASE
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.file_guard import FileGuard
from bems.embedded.storage.schema import DATABASE
from bems.embedded.storage.sqlite_store import SqliteStore
from tests.embedded.api.calls import Cell
from tests.tracker.samples import NOW, event
from tests.waiting import until


def test_a_fault_says_what_happened_and_is_permanent(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.touch()
    guard = FileGuard([file, tmp_path / "never"])
    assert guard.find_fault() is None
    file.parent.rename(tmp_path / "away")
    assert str(guard.find_fault()).startswith(f"{file.parent} was removed or renamed while the cell ran")
    (tmp_path / "away").rename(file.parent)
    assert guard.find_fault() == guard.fault is not None
    guard = FileGuard([file])
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").rename(file)
    assert str(guard.find_fault()).startswith(f"{file} was replaced by another one")


def test_a_commit_to_a_moved_file_is_not_acknowledged(tmp_path: Path) -> None:
    """The folder is renamed in the middle of a commit."""
    store = SqliteStore(tmp_path / "cell")
    store._connection.set_commit_hook(lambda: bool((tmp_path / "cell").rename(tmp_path / "away")) and False)
    store.add_event(event("ingestion", "received", NOW, "e"))
    with pytest.raises(StoreFailed, match="was removed or renamed"):
        store.commit()
    store._connection.set_commit_hook(None)
    (tmp_path / "away").rename(tmp_path / "cell")
    for call in (store.commit, store.check_writable):
        with pytest.raises(StoreFailed, match="start the cell again"):
            call()
    store.close()


def test_an_empty_commit_detects_a_removed_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.commit()
    (tmp_path / DATABASE).unlink()
    with pytest.raises(StoreFailed, match=f"{DATABASE} was removed or renamed"):
        store.commit()
    store.close()


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [(KEYS_DATABASE, "/keys", {"name": "late", "role": "viewer"}), (DELIVERIES, "/deliveries/retry", None)],
)
def test_an_operators_write_is_refused_and_names_the_moved_file(
    tmp_path: Path, name: str, path: str, body: object
) -> None:
    with Cell(tmp_path / "cell") as cell:
        assert cell.ask("POST", path, body and {"name": "early", "role": "viewer"}).status in (200, 201)
        (tmp_path / "cell" / name).rename(tmp_path / name)
        answer = cell.ask("POST", path, body)
        assert answer.status == 503
        assert f"{name} was removed or renamed" in answer.content["detail"]


def test_commands_and_redrives_are_refused_when_the_folder_was_moved(tmp_path: Path) -> None:
    with Cell(tmp_path / "cell") as cell:
        cell.send("ingestion")
        (tmp_path / "cell").rename(tmp_path / "away")
        until(lambda: cell.service.writer.failure)
        command = {"command_id": "c", "verb": "park", "invoice_id": "INV-1", "note": "x"}
        for path, body in (("/commands", command), ("/dead-letters/redrive", {"event_ids": ["e"]})):
            answer = cell.ask("POST", path, body)
            assert answer.status == 503 and "was removed or renamed" in answer.content["detail"], answer

"""A write-ahead log next to another database: `bems up` rejects it with a message and changes nothing.

A log that a crash left next to its own database is never rejected.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bems.clock import SystemClock
from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.auth.keys import KEYS_DATABASE
from bems.embedded.backup import back_up
from bems.embedded.clock import VirtualClock
from bems.embedded.service import Service
from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.reader import open_reader
from bems.embedded.storage.schema import DATABASE
from bems.embedded.writer import Redrive, Writer
from bems.tracker.instants import DAY
from tests.cell_process import CellProcess
from tests.cli.cli_harness import run
from tests.embedded.api.calls import Cell, Inbox, event_body
from tests.embedded.submit import submit
from tests.faults.conftest import Figures
from tests.tracker.samples import NOW, POLICY
from tests.waiting import SOON, until

TIMEOUT_SECONDS = 60


class Folder:
    """A cell's folder and its admin key."""

    def __init__(self, path: Path) -> None:
        self.path, self.key, self.count = path, "", 0
        self.log = path.with_name(f"{path.name}.log")

    def run_cell(self, events: int, end: signal.Signals = signal.SIGKILL) -> None:
        """Run a cell, send events, and end it."""
        with CellProcess(self.path, self.log) as server:
            self.key = self.key or server.read_admin_key()
            for _ in range(events):
                self.count += 1
                self.send(server, self.count)
            server.end(end)

    def send(self, server: CellProcess, number: int) -> None:
        event: Any = event_body("ingestion", event_id=f"e{number}", invoice_id=f"i{number}", at=SystemClock().now())
        answer = urllib3.request(
            "POST", f"{server.url}/invoices/ingestion", json=event, headers={"x-api-key": self.key}
        )
        assert answer.status == 202, answer.data

    def events(self) -> int:
        reader = open_reader(self.path)
        try:
            return reader.counts().events
        finally:
            reader.close()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the files except the lock and SQLite's WAL index, which is recreated whenever the log is read."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in files if not path.match("cell.lock*") and not path.match("*-shm")}


def rejection(folder: Path) -> str:
    """Check that `bems up` rejects the folder without changes. Returns its message, which is one line."""
    before = snapshot(folder)
    command = [sys.executable, "-m", "bems", "up", "--port", "0", "--store", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    message = [line for line in done.stderr.splitlines() if "was accessible to other users" not in line]
    assert len(message) == 1 and message[0].startswith("bems: "), done.stderr
    assert snapshot(folder) == before, "the folder was changed"
    return message[0]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cell")


def test_a_backup_copied_over_the_folder_of_a_killed_cell_is_rejected(
    folder: Folder, tmp_path: Path, figures: Figures
) -> None:
    folder.run_cell(3, signal.SIGTERM)
    backup = tmp_path / "backup"
    assert run("backup", "--store", str(folder.path), str(backup)).code == 0
    folder.run_cell(4)
    assert (folder.path / f"{DATABASE}-wal").stat().st_size
    for path in backup.iterdir():
        shutil.copy(path, folder.path)
    message = rejection(folder.path)
    assert f"{DATABASE}-wal is not the log of the {DATABASE} beside it" in message
    assert "bems restore BACKUP --store FOLDER" in message and f"move {DATABASE}-wal away" in message
    # Both remedies in the message work.
    assert run("restore", str(backup), "--store", str(tmp_path / "restored")).code == 0
    restored = Folder(tmp_path / "restored")
    restored.key, restored.count = folder.key, 10
    restored.run_cell(2, signal.SIGTERM)
    assert restored.events() == 5
    for name in (DATABASE, KEYS_DATABASE, DELIVERIES):
        (folder.path / f"{name}-wal").unlink(missing_ok=True)
    folder.run_cell(0, signal.SIGTERM)
    assert folder.events() == 3
    figures.record("a backup copied over the folder of a killed cell", "1", "rejected with a message, no byte changed")


def test_a_backup_copied_over_the_folder_of_the_same_process_is_rejected(folder: Folder, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with CellProcess(folder.path, folder.log) as server:
        folder.key = server.read_admin_key()
        folder.send(server, 1)
        assert run("backup", "--store", str(folder.path), str(backup)).code == 0
        folder.send(server, 2)
        server.end(signal.SIGKILL)
    shutil.copy(backup / DATABASE, folder.path)
    assert "is not the log of" in rejection(folder.path)


@pytest.mark.parametrize("name", [DATABASE, KEYS_DATABASE])
def test_a_cold_copy_next_to_a_later_log_is_rejected(folder: Folder, tmp_path: Path, name: str) -> None:
    folder.run_cell(1, signal.SIGTERM)
    shutil.copytree(folder.path, tmp_path / "copy")
    with CellProcess(folder.path, folder.log) as server:
        folder.send(server, 2)
        headers = {"x-api-key": folder.key}
        body = {"name": "late", "role": "viewer"}
        assert urllib3.request("POST", f"{server.url}/keys", json=body, headers=headers).status == 201
        server.end(signal.SIGKILL)
    shutil.copy(tmp_path / "copy" / name, folder.path)
    assert f"{name}-wal is not the log of the {name} beside it" in rejection(folder.path)


def test_the_log_of_another_cell_is_rejected(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    folder.run_cell(1, signal.SIGTERM)
    other.run_cell(1)
    shutil.copy(other.path / f"{DATABASE}-wal", folder.path)
    assert "is not the log of" in rejection(folder.path)


def test_a_log_without_its_database_is_rejected(folder: Folder) -> None:
    """SQLite would delete the log, and an empty cell would start."""
    folder.run_cell(1)
    (folder.path / DATABASE).unlink()
    assert f"{DATABASE} is missing, but {DATABASE}-wal, its log, exists" in rejection(folder.path)
    (folder.path / DATABASE).touch()
    assert "its log, exists" in rejection(folder.path)


def test_the_log_left_by_a_crash_is_recovered_each_time(folder: Folder, tmp_path: Path) -> None:
    """Also if the folder was moved, or copied with its log, or has a foreign WAL index."""
    for attempt in range(4):
        folder.run_cell(2)
        moved = tmp_path / f"moved-{attempt}"
        if attempt % 2:
            shutil.copytree(folder.path, moved)
            (moved / f"{DATABASE}-shm").write_bytes(os.urandom(32768))
        else:
            folder.path.rename(moved)
        folder.path = moved
    folder.run_cell(0, signal.SIGTERM)
    assert folder.events() == 8


def test_a_cell_in_a_subfolder_is_suggested(folder: Folder, tmp_path: Path) -> None:
    folder.run_cell(1, signal.SIGTERM)
    existing = tmp_path / "existing"
    existing.mkdir()
    subprocess.run(["cp", "-r", str(folder.path), str(existing)], check=True)
    message = rejection(existing)
    assert f"{existing} holds no cell, but {existing}/cell does" in message and "bems restore" in message
    assert {path.name for path in existing.iterdir()} == {"cell"}, "files were created"
    keys = run("keys", "add", "boss", "--role", "admin", "--store", str(existing))
    assert f"{existing}/cell does" in keys.error(2)


def test_deliveries_of_a_later_state_are_rejected_before_the_writer_raises_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored `cell.db` next to newer deliveries: with as many alerts, the mismatch would not be detectable."""
    folder, inbox, later = tmp_path / "cell", Inbox(), NOW + 3 * DAY
    with Cell(folder, destinations=inbox.everything) as cell:
        cell.send_all("ingestion", [event_body("ingestion", event_id=f"{n}", invoice_id=f"{n}") for n in range(3)])
        back_up(folder, tmp_path / "copy")
        cell.move_to(later)
        until(lambda: len(inbox.taken) == 3 and cell.service.deliveries.waiting() == 0)
    shutil.copy(tmp_path / "copy" / DATABASE, folder)
    start = Writer.start

    def start_and_raise(writer: Writer) -> Writer:
        start(writer)
        submit(writer, Redrive("nothing")).result(SOON)
        return writer

    monkeypatch.setattr(Writer, "start", start_and_raise)
    service = Service(folder, POLICY, port=0, clock=VirtualClock(later), destinations=inbox.everything)
    with pytest.raises(StoreUnusable, match="belongs to another store, or to a later state of this one"):
        service.start()

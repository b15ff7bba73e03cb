"""A folder that is removed or replaced under a running cell: later events get a 503 with the reason, never a 202."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bems.clock import SystemClock
from bems.embedded.storage.reader import open_reader
from bems.embedded.storage.schema import DATABASE
from tests.cell_process import CellProcess
from tests.embedded.api.calls import event_body
from tests.faults.conftest import Figures
from tests.waiting import until


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def replace(folder: Path) -> None:
    """Replace the folder by a copy."""
    rename(folder)
    shutil.copytree(folder.with_name("away"), folder)


def unlink_database(folder: Path) -> None:
    (folder / DATABASE).unlink()


def unlink_log(folder: Path) -> None:
    (folder / f"{DATABASE}-wal").unlink()


def replace_log(folder: Path) -> None:
    log = folder / f"{DATABASE}-wal"
    content = log.read_bytes()
    log.unlink()
    log.write_bytes(content)


REMOVALS: dict[Callable[[Path], None], str] = {
    remove: "{folder} was removed or renamed",
    rename: "{folder} was removed or renamed",
    replace: "{folder}/cell.db was replaced by another one",
    unlink_database: "{folder}/cell.db was removed or renamed",
    unlink_log: "{folder}/cell.db-wal was removed or renamed",
    replace_log: "{folder}/cell.db-wal was replaced by another one",
}


@pytest.mark.parametrize("remove_files", REMOVALS, ids=lambda remove_files: remove_files.__name__)
def test_every_later_write_fails_with_the_reason(
    remove_files: Callable[[Path], None], tmp_path: Path, figures: Figures
) -> None:
    folder = tmp_path / "cell"
    reason = REMOVALS[remove_files].format(folder=folder)
    with CellProcess(folder, tmp_path / "errors.log") as server:
        key = server.read_admin_key()

        def ask(method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
            # By default urllib3 would wait for the Retry-After of a 503, and ask three more times.
            return urllib3.request(method, server.url + path, headers={"x-api-key": key}, retries=False, **options)

        def event(number: int) -> Any:
            return event_body("ingestion", event_id=f"e{number}", invoice_id=f"i{number}", at=SystemClock().now())

        assert ask("POST", "/invoices/ingestion", json=event(1)).status == 202
        remove_files(folder)
        # Detected at once, by a check after each commit.
        answer = ask("POST", "/invoices/ingestion", json=event(2))
        assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
        assert reason in answer.json()["detail"]
        batch = ask("POST", "/invoices/ingestion/batch", json={"events": [event(3)]}).json()["results"]
        assert batch[0]["code"] == 503 and reason in batch[0]["detail"]
        command = {"command_id": "c", "verb": "park", "invoice_id": "i1", "note": "x"}
        acted = ask("POST", "/commands", json=command)
        assert acted.status == 503 and reason in acted.json()["detail"]
        health = ask("GET", "/healthz")
        assert (health.status, health.json()["status"]) == (503, "failing")
        assert reason in health.json()["store"]
        assert urllib3.request("GET", f"{server.url}/healthz", retries=False).status == 503
        assert server.process.poll() is None
        # The failure is final: events sent meanwhile are lost even if the folder returns.
        if remove_files is rename:
            folder.with_name("away").rename(folder)
            assert ask("POST", "/invoices/ingestion", json=event(4)).status == 503
        assert server.end(signal.SIGTERM) == 1
    logged = (tmp_path / "errors.log").read_text()
    assert logged.splitlines()[-1].startswith(f"bems: {reason}") and "Traceback" not in logged
    if remove_files is rename:
        with CellProcess(folder, tmp_path / "errors.log") as server:
            assert ask("POST", "/invoices/ingestion", json=event(4)).status == 202
            server.end(signal.SIGTERM)
    figures.record(
        f"the folder of a running cell: {remove_files.__name__.replace('_', ' ')}", "1", "503 with the reason, no 202"
    )


def test_an_idle_cell_detects_it_within_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with CellProcess(folder, tmp_path / "errors.log") as server:
        rename(folder)
        until(lambda: urllib3.request("GET", f"{server.url}/healthz", retries=False).status == 503)


def test_a_new_cell_in_the_folder_keeps_its_log_when_the_old_one_ends(tmp_path: Path) -> None:
    """SQLite removes a log by its path, where the new cell's log is now."""
    folder = tmp_path / "cell"
    with CellProcess(folder, tmp_path / "old.log") as old:
        old.read_admin_key()
        rename(folder)
        with CellProcess(folder, tmp_path / "new.log") as new:
            key = new.read_admin_key()
            event: Any = event_body("ingestion", event_id="e", invoice_id="i", at=SystemClock().now())
            headers = {"x-api-key": key}
            assert urllib3.request("POST", f"{new.url}/invoices/ingestion", json=event, headers=headers).status == 202
            log = (folder / f"{DATABASE}-wal").stat()
            old.end(signal.SIGTERM)
            assert (folder / f"{DATABASE}-wal").stat().st_ino == log.st_ino
            assert urllib3.request("GET", f"{new.url}/healthz").status == 200
            new.end(signal.SIGKILL)
    reader = open_reader(folder)
    assert reader.counts().events == 1
    reader.close()

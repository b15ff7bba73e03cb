"""`bems backup`: its output, and its errors such as a missing folder or a full disk."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_harness import CliHarness, event, run
from tests.data.store import list_stored_versions, unpack
from tests.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpack(list_stored_versions()[max(list_stored_versions())], tmp_path / "cell")


def test_a_running_cell_is_copied(harness: CliHarness, tmp_path: Path) -> None:
    harness.send(event("1"), event("2"), event("3", invoice_id="INV/1"))
    harness.key("viewer")
    done = harness.bems("backup", "--store", str(tmp_path / "cell"), str(tmp_path / "copy"))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{tmp_path}/copy holds the cell until 2026-03-02 10:00:")
    assert "UTC: 2 invoices, 3 events, no alerts, no dead letters, no undelivered alerts, 2 keys; " in done.out
    again = harness.bems("backup", "--json", "--store", str(tmp_path / "cell"), str(tmp_path / "other"))
    assert again.json["store"] == str(tmp_path / "other")
    assert (again.json["events"], again.json["invoices"], again.json["keys"]) == (3, 2, 2)
    assert again.json["latest"].startswith("2026-03-02T10:00:")


@pytest.mark.usefixtures("harness")
def test_a_cell_without_events_is_copied(tmp_path: Path) -> None:
    done = run("backup", "--store", str(tmp_path / "cell"), str(tmp_path / "copy"))
    assert "holds the cell nothing yet: no invoices" in done.out
    assert run("backup", "--json", "--store", str(tmp_path / "cell"), str(tmp_path / "2")).json["latest"] is None


def test_errors_are_reported_in_one_line(folder: Path, tmp_path: Path) -> None:
    def error(code: int, store: Path, target: Path) -> str:
        return run("backup", "--store", str(store), str(target)).error(code)

    copy = tmp_path / "copy"
    assert "it is not the folder of a cell" in error(2, tmp_path, copy)
    assert "it is not the folder of a cell" in error(2, tmp_path / "none", copy)
    assert "already exists; choose another folder" in error(2, folder, folder)
    assert "none is not a folder" in error(2, folder, tmp_path / "none" / "copy")
    (folder / "keys.db").write_bytes(b"\0" * 5000)
    assert "keys.db is not a store of a cell" in error(1, folder, copy)
    assert not copy.exists()


# Runs in a child process, because the limit applies to the whole process.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from bems.cli import main
main()
"""


def test_a_disk_that_fills_up_is_reported_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, "backup", "--store", str(folder), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"bems: {tmp_path}/copy could not be written: ") and done.stderr.count("\n") == 1
    assert "is the disk full?" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"cell"}


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_backup_and_nothing_is_left(
    folder: Path, tmp_path: Path, end: signal.Signals, code: int
) -> None:
    slow = "import bems.embedded.backup as b; b.COPY_CHUNK_BYTES = 1; from bems.cli import main; main()"
    command = [sys.executable, "-c", slow, "backup", "--store", str(folder), str(tmp_path / "copy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: any(tmp_path.glob(".copy.*/cell.db")) or process.poll() is not None)
        process.send_signal(end)
        process.wait(60)
    assert process.returncode == code
    assert {path.name for path in tmp_path.iterdir()} == {"cell"}


def test_help_shows_an_example() -> None:
    assert "Example: bems backup --store" in run("backup", "--help").out

"""`bems up` rejects damaged and foreign files and later versions with a message, and changes no byte of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import apsw
import duckdb
import pytest

from bems.embedded.alerting.outbox import DATABASE as DELIVERIES
from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.auth.keys import KEYS_DATABASE
from bems.embedded.service import Service
from bems.embedded.storage.database_files import LOCK_FILE
from bems.embedded.storage.schema import DATABASE
from tests.cell_process import CellProcess
from tests.cli.cli_harness import run
from tests.data.store import list_stored_versions, unpack
from tests.embedded.storage.corrupt_files import make_newer, put_foreign_database
from tests.faults.conftest import Figures

TIMEOUT_SECONDS = 60
PAGE_BYTES = 2048


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpack(list_stored_versions()[max(list_stored_versions())], tmp_path / "cell")


def rejection(folder: Path) -> str:
    """Check that `bems up` rejects the folder without changes. Returns its message, which is one line."""

    def start(_: Service) -> None:
        raise AssertionError("the service starts")

    before = snapshot(folder)
    with patch.object(Service, "start", start):
        message = run("up", "--port", "0", "--store", str(folder)).error(1)
    assert snapshot(folder) == before, "the folder was changed"
    return message


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the files except the lock and SQLite's WAL index, which is recreated whenever the log is read."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if path.name != LOCK_FILE and not path.name.endswith("-shm")
    }


def cut_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def cut_in_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def zero_the_header(path: Path) -> None:
    overwrite(path, 0, bytes(100))


def corrupt_the_schema(path: Path) -> None:
    overwrite(path, 100, b"\xff" * (PAGE_BYTES - 100))


def corrupt_the_middle(path: Path) -> None:
    """Overwrite all pages except the first."""
    overwrite(path, PAGE_BYTES, b"\xa5" * (path.stat().st_size - PAGE_BYTES))


def put_text(path: Path) -> None:
    path.write_text("Dear all,\n\nplease find attached the invoices.\n" * 200)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[Callable[[Path], None], str] = {
    cut_to_half: "it was cut short",
    cut_in_a_page: "it was cut short",
    zero_the_header: "it is not an SQLite database",
    corrupt_the_schema: "damaged",
    corrupt_the_middle: "damaged",
    put_foreign_database: "another program made it",
    put_text: "it is not an SQLite database",
    put_a_folder: "Is a directory",
    make_newer: "is of version 99, and this program knows versions up to",
}


@pytest.mark.parametrize("name", [DATABASE, DELIVERIES, KEYS_DATABASE])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_foreign_file_is_rejected(
    folder: Path, name: str, damage: Callable[[Path], None], figures: Figures
) -> None:
    damage(folder / name)
    message = rejection(folder)
    assert DAMAGES[damage] in message and name in message
    figures.record(f"{name}: {damage.__name__.replace('_', ' ')}", "once", "rejected with a message, no byte changed")


def test_the_process_prints_one_line_and_exits_with_1(folder: Path) -> None:
    cut_to_half(folder / DATABASE)
    before = snapshot(folder)
    command = [sys.executable, "-m", "bems", "up", "--port", "0", "--store", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bems: {folder / DATABASE} is damaged: it was cut short\n"
    assert snapshot(folder) == before


def test_a_garbage_log_is_ignored(folder: Path, tmp_path: Path) -> None:
    """SQLite verifies the checksums of a log, and ignores invalid frames as after a crash."""
    (folder / f"{DATABASE}-wal").write_bytes(os.urandom(100_000))
    with CellProcess(folder, tmp_path / "errors.log") as server:
        assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in (tmp_path / "errors.log").read_text()


ANALYTICS_DAMAGES = [corrupt_the_middle]
if os.environ.get("BEMS_LONG"):
    ANALYTICS_DAMAGES += [cut_to_half, zero_the_header, put_foreign_database, put_text]


@pytest.mark.parametrize("damage", ANALYTICS_DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_analytics_database_is_set_aside_and_rebuilt(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], figures: Figures
) -> None:
    log = tmp_path / "errors.log"
    with CellProcess(folder, log) as server:
        server.end(signal.SIGTERM)
    damage(folder / ANALYTICS)
    damaged_content = snapshot(folder)[ANALYTICS]
    with CellProcess(folder, log) as server:
        assert server.end(signal.SIGTERM) == 0
    message = log.read_text()
    assert "Traceback" not in message
    assert "cannot be used and is rebuilt from the store" in message
    with apsw.Connection(str(folder / DATABASE)) as store, duckdb.connect(str(folder / ANALYTICS)) as made:
        rows = store.execute("SELECT count(*) FROM transitions").get
        assert made.execute("SELECT count(*) FROM transitions").fetchall() == [(rows,)]
    assert snapshot(folder)[f"{ANALYTICS}.damaged-1"] == damaged_content
    figures.record(f"{ANALYTICS}: {damage.__name__.replace('_', ' ')}", "once", "set aside and rebuilt from the store")

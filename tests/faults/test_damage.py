"""Folders that are damaged, foreign or of a later version: the command refuses them in words, and changes no byte."""

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
from bems.embedded.auth.keys import KEYS
from bems.embedded.service import Service
from bems.embedded.storage.database_files import LOCK
from bems.embedded.storage.schema import DATABASE
from tests.cell_process import CellProcess
from tests.cli.cli_harness import run
from tests.data.store import stored, unpack
from tests.embedded.storage.corrupt_files import make_newer, put_anothers
from tests.faults.conftest import Figures

PATIENCE = 60
PAGE = 2048


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpack(stored()[max(stored())], tmp_path / "cell")


def refused(folder: Path) -> str:
    """What the command says of it, in one line."""

    def start(_: Service) -> None:
        raise AssertionError("it starts")

    before = snapshot(folder)
    with patch.object(Service, "start", start):
        said = run("up", "--port", "0", "--store", str(folder)).mistake(1)
    assert snapshot(folder) == before, "nothing is changed"
    return said


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """The files but for the lock, and SQLite's index of a log, which is made anew whenever the log is read."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if path.name != LOCK and not path.name.endswith("-shm")
    }


def cut_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def cut_in_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def zero_the_header(path: Path) -> None:
    overwrite(path, 0, bytes(100))


def spoil_the_schema(path: Path) -> None:
    overwrite(path, 100, b"\xff" * (PAGE - 100))


def spoil_the_middle(path: Path) -> None:
    """All pages but the first."""
    overwrite(path, PAGE, b"\xa5" * (path.stat().st_size - PAGE))


def put_text(path: Path) -> None:
    path.write_text("Dear all,\n\nplease find attached the invoices.\n" * 200)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[Callable[[Path], None], str] = {
    cut_to_half: "it was cut short",
    cut_in_a_page: "it was cut short",
    zero_the_header: "it is no SQLite database",
    spoil_the_schema: "damaged",
    spoil_the_middle: "damaged",
    put_anothers: "another program made it",
    put_text: "it is no SQLite database",
    put_a_folder: "Is a directory",
    make_newer: "is of version 99, and this program knows versions up to",
}


@pytest.mark.parametrize("name", [DATABASE, DELIVERIES, KEYS])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_file_that_is_not_what_it_should_be_is_refused(
    folder: Path, name: str, damage: Callable[[Path], None], figures: Figures
) -> None:
    damage(folder / name)
    said = refused(folder)
    assert DAMAGES[damage] in said and name in said
    figures.record(f"{name}: {damage.__name__.replace('_', ' ')}", "once", "refused in words, not a byte changed")


def test_a_process_ends_with_a_line_and_a_code(folder: Path) -> None:
    cut_to_half(folder / DATABASE)
    before = snapshot(folder)
    command = [sys.executable, "-m", "bems.cli", "up", "--port", "0", "--store", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bems: {folder / DATABASE} is damaged: it was cut short\n"
    assert snapshot(folder) == before


def test_a_log_that_is_garbage_is_no_log(folder: Path, tmp_path: Path) -> None:
    """SQLite looks at the checksums of a log: what is none is as good as none, as after a crash."""
    (folder / f"{DATABASE}-wal").write_bytes(os.urandom(100_000))
    with CellProcess(folder, tmp_path / "errors.log") as server:
        assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in (tmp_path / "errors.log").read_text()


ANALYTICS_DAMAGES = [spoil_the_middle]
if os.environ.get("BEMS_LONG"):
    ANALYTICS_DAMAGES += [cut_to_half, zero_the_header, put_anothers, put_text]


@pytest.mark.parametrize("damage", ANALYTICS_DAMAGES, ids=lambda damage: damage.__name__)
def test_analytics_is_put_aside_as_it_is_and_made_again(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], figures: Figures
) -> None:
    log = tmp_path / "errors.log"
    with CellProcess(folder, log) as server:
        server.end(signal.SIGTERM)
    damage(folder / ANALYTICS)
    spoilt = snapshot(folder)[ANALYTICS]
    with CellProcess(folder, log) as server:
        assert server.end(signal.SIGTERM) == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert "cannot be used and is made again from the store" in said
    with apsw.Connection(str(folder / DATABASE)) as store, duckdb.connect(str(folder / ANALYTICS)) as made:
        rows = store.execute("SELECT count(*) FROM transitions").get
        assert made.execute("SELECT count(*) FROM transitions").fetchall() == [(rows,)]
    assert snapshot(folder)[f"{ANALYTICS}.damaged-1"] == spoilt
    figures.record(
        f"{ANALYTICS}: {damage.__name__.replace('_', ' ')}", "once", "put aside and made again from the store"
    )

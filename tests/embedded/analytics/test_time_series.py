"""The file of the time series: what is no copy of the store is put aside, and made again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from msgspec import structs

from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.analytics.time_series import VERSION
from tests.embedded.analytics_rows import Rows, feed_once, has_each_row_once, list_set_aside_files, running
from tests.embedded.storage.corrupt_files import put_foreign_database, rewrite
from tests.waiting import until


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(size: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, size)


def change(sql: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)

    return run


def scribble(path: Path) -> None:
    rewrite(path, lambda content: content.__setitem__(slice(4096, 12288), bytes(8192)))


def another_programs(path: Path) -> None:
    path.unlink()
    change("CREATE TABLE dashboards (a INTEGER)")(path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "no database": put(b"hello" * 1000),
    "empty": put(b""),
    "cut in its header": cut(5000),
    "scribbled over": scribble,
    "SQLite's": put_foreign_database,
    "another program's": another_programs,
    "older": change(f"UPDATE feed SET version = {VERSION - 1}"),
    "another cell's": change("UPDATE feed SET cell = 'south'"),
    "short of a row": change("DELETE FROM transitions WHERE seq = 3"),
    "with a row twice": change("INSERT INTO transitions FROM transitions WHERE seq = 3"),
    "behind its rows": change("UPDATE feed SET watermark = 5"),
    "of another store": change("UPDATE transitions SET transition_id = 'x' WHERE seq = 9"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of nine rows."""
    folder = tmp_path_factory.mktemp("sound")
    feed_once(folder, Rows(9))
    return folder


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_no_copy_of_the_store_is_set_aside_and_made_again(
    tmp_path: Path, sound: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    rows, path = Rows(9), tmp_path / ANALYTICS
    (tmp_path / f"{ANALYTICS}.damaged-1").write_text("an earlier one")
    shutil.copy(sound / ANALYTICS, path)
    SPOILT[how](path)
    spoilt = path.read_bytes()
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 9 and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)
    assert (tmp_path / f"{ANALYTICS}.damaged-2").read_bytes() == spoilt
    assert list_set_aside_files(tmp_path) == {f"{ANALYTICS}.damaged-1", f"{ANALYTICS}.damaged-2"}
    assert "is made again from the store" in caplog.text and "damaged-2" in caplog.text


def test_a_missing_database_is_made_again(tmp_path: Path) -> None:
    rows = Rows(9)
    feed_once(tmp_path, rows)
    (tmp_path / ANALYTICS).unlink()
    feed_once(tmp_path, rows)
    assert has_each_row_once(tmp_path, rows)


def test_a_store_from_a_backup_in_which_the_same_happened_later_is_followed(tmp_path: Path) -> None:
    """Alerts that are raised again have the same ids, and other instants."""
    rows = Rows(9)
    feed_once(tmp_path, rows)
    rows.rows[4:] = [structs.replace(row, recorded_at=row.recorded_at + 10**9) for row in rows.rows[4:]]
    with running(tmp_path, rows) as analytics:
        until(lambda: list_set_aside_files(tmp_path) and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.parametrize("length", [0, 3, 8])
def test_a_store_from_a_backup_is_followed(tmp_path: Path, length: int) -> None:
    rows = Rows(9)
    feed_once(tmp_path, rows)
    rows.rows = rows.rows[:length]
    with running(tmp_path, rows) as analytics:
        until(lambda: list_set_aside_files(tmp_path) and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == {f"{ANALYTICS}.damaged-1"}


def crash(folder: Path, rows: Rows) -> Path:
    """A folder as a crash leaves it: with nine rows in the log."""
    crashed = folder / "crashed"
    crashed.mkdir()
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == len(rows.rows))
        for name in (ANALYTICS, f"{ANALYTICS}.wal"):
            shutil.copy(folder / name, crashed / name)
    return crashed


def test_a_damaged_log_goes_aside_with_its_database(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = crash(tmp_path, rows)
    log = folder / f"{ANALYTICS}.wal"
    middle = log.stat().st_size // 2
    rewrite(log, lambda content: content.__setitem__(slice(middle, middle + 20), b"\xff" * 20))
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == 9)
    assert list_set_aside_files(folder) == {f"{ANALYTICS}.damaged-1", f"{ANALYTICS}.damaged-1.wal"}
    assert has_each_row_once(folder, rows)


def test_a_log_alone_is_nothing_to_build_on(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = crash(tmp_path, rows)
    (folder / ANALYTICS).unlink()
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == 9)
    assert list_set_aside_files(folder) == {f"{ANALYTICS}.damaged-1.wal"}
    assert has_each_row_once(folder, rows)


def test_a_log_that_was_cut_is_written_again(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = crash(tmp_path, rows)
    log = folder / f"{ANALYTICS}.wal"
    os.truncate(log, log.stat().st_size - 5)
    feed_once(folder, rows)
    assert list_set_aside_files(folder) == set()
    assert has_each_row_once(folder, rows)

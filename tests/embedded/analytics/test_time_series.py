"""Files of the time series: a database that is not a copy of the store is renamed and rebuilt."""

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest
from msgspec import structs

from bems.embedded.analytics.feeder import ANALYTICS
from bems.embedded.analytics.time_series import SCHEMA_VERSION
from tests.embedded.analytics_rows import Rows, feed_once, has_each_row_once, list_set_aside_files, running
from tests.embedded.storage.corrupt_files import put_foreign_database, rewrite
from tests.waiting import until


def replace_with(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def truncate_to(size: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, size)


def run_sql(sql: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(sql)

    return run


def overwrite_blocks(path: Path) -> None:
    rewrite(path, lambda content: content.__setitem__(slice(4096, 12288), bytes(8192)))


def another_database(path: Path) -> None:
    path.unlink()
    run_sql("CREATE TABLE dashboards (a INTEGER)")(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": replace_with(b"hello" * 1000),
    "empty": replace_with(b""),
    "truncated in its header": truncate_to(5000),
    "partly overwritten": overwrite_blocks,
    "a SQLite database": put_foreign_database,
    "of another program": another_database,
    "of an older version": run_sql(f"UPDATE feed SET version = {SCHEMA_VERSION - 1}"),
    "of another cell": run_sql("UPDATE feed SET cell = 'south'"),
    "without a row": run_sql("DELETE FROM transitions WHERE seq = 3"),
    "with a row twice": run_sql("INSERT INTO transitions FROM transitions WHERE seq = 3"),
    "with a low watermark": run_sql("UPDATE feed SET watermark = 5"),
    "of another store": run_sql("UPDATE transitions SET transition_id = 'x' WHERE seq = 9"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a valid database of nine rows."""
    folder = tmp_path_factory.mktemp("sound")
    feed_once(folder, Rows(9))
    return folder


def test_changed_tables_have_a_new_version(sound: Path) -> None:
    """A database that lacks a column cannot be written."""
    sql = "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() ORDER BY ALL"
    with duckdb.connect(str(sound / ANALYTICS), read_only=True) as database:
        tables = sha256(str(database.execute(sql).fetchall()).encode()).hexdigest()[:16]
    assert (SCHEMA_VERSION, tables) == (4, "36d9c36cbb02337a")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_is_not_a_copy_of_the_store_is_renamed_and_rebuilt(
    tmp_path: Path, sound: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    rows, path = Rows(9), tmp_path / ANALYTICS
    (tmp_path / f"{ANALYTICS}.damaged-1").write_text("an earlier one")
    shutil.copy(sound / ANALYTICS, path)
    DAMAGES[damage](path)
    damaged = path.read_bytes()
    with running(tmp_path, rows) as analytics:
        until(lambda: analytics.watermark == 9 and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)
    assert (tmp_path / f"{ANALYTICS}.damaged-2").read_bytes() == damaged
    assert list_set_aside_files(tmp_path) == {f"{ANALYTICS}.damaged-1", f"{ANALYTICS}.damaged-2"}
    assert "is rebuilt from the store" in caplog.text and "damaged-2" in caplog.text


def test_a_missing_database_is_rebuilt(tmp_path: Path) -> None:
    rows = Rows(9)
    feed_once(tmp_path, rows)
    (tmp_path / ANALYTICS).unlink()
    feed_once(tmp_path, rows)
    assert has_each_row_once(tmp_path, rows)


def test_after_a_restore_repeated_transitions_cause_a_rebuild(tmp_path: Path) -> None:
    """Alerts that are raised again have the same ids but other instants."""
    rows = Rows(9)
    feed_once(tmp_path, rows)
    rows.rows[4:] = [structs.replace(row, recorded_at=row.recorded_at + 10**9) for row in rows.rows[4:]]
    with running(tmp_path, rows) as analytics:
        until(lambda: list_set_aside_files(tmp_path) and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)


@pytest.mark.parametrize("length", [0, 3, 8])
def test_after_a_restore_the_database_is_rebuilt(tmp_path: Path, length: int) -> None:
    rows = Rows(9)
    feed_once(tmp_path, rows)
    rows.rows = rows.rows[:length]
    with running(tmp_path, rows) as analytics:
        until(lambda: list_set_aside_files(tmp_path) and analytics.failure is None)
    assert has_each_row_once(tmp_path, rows)
    assert list_set_aside_files(tmp_path) == {f"{ANALYTICS}.damaged-1"}


def copy_crashed_folder(folder: Path, rows: Rows) -> Path:
    """Return a folder as a crash leaves it, with the rows in the log."""
    crashed = folder / "crashed"
    crashed.mkdir()
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == len(rows.rows))
        for name in (ANALYTICS, f"{ANALYTICS}.wal"):
            shutil.copy(folder / name, crashed / name)
    return crashed


def test_a_damaged_log_is_renamed_with_its_database(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = copy_crashed_folder(tmp_path, rows)
    log = folder / f"{ANALYTICS}.wal"
    middle = log.stat().st_size // 2
    rewrite(log, lambda content: content.__setitem__(slice(middle, middle + 20), b"\xff" * 20))
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == 9)
    assert list_set_aside_files(folder) == {f"{ANALYTICS}.damaged-1", f"{ANALYTICS}.damaged-1.wal"}
    assert has_each_row_once(folder, rows)


def test_a_log_without_its_database_is_renamed(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = copy_crashed_folder(tmp_path, rows)
    (folder / ANALYTICS).unlink()
    with running(folder, rows) as analytics:
        until(lambda: analytics.watermark == 9)
    assert list_set_aside_files(folder) == {f"{ANALYTICS}.damaged-1.wal"}
    assert has_each_row_once(folder, rows)


def test_rows_of_a_truncated_log_are_written_again(tmp_path: Path) -> None:
    rows = Rows(9)
    folder = copy_crashed_folder(tmp_path, rows)
    log = folder / f"{ANALYTICS}.wal"
    os.truncate(log, log.stat().st_size - 5)
    feed_once(folder, rows)
    assert list_set_aside_files(folder) == set()
    assert has_each_row_once(folder, rows)

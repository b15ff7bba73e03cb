"""Time series of a cell in DuckDB: its tables, writes and queries.

It is a copy of the store's transitions, which can be deleted and is then rebuilt from the store.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb
from msgspec import json

from bems.embedded.analytics import rollup
from bems.embedded.storage.file_permissions import make_private
from bems.tracker.time_series_schema import CELL, FIELD_COLUMNS
from bems.tracker.transitions import Transition

log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
"""Version of the tables; increment it with every change to them. A database of another version is rebuilt."""

# Every row of a store has them, and the roll-up adds and groups by them. On AWS they are optional, because a table that
# has rows cannot get required columns.
_NEVER_NULL = ("to_amount", "to_currency")

DUCKDB_COLUMNS = {
    "seq": "BIGINT NOT NULL",
    **{
        column.name: column.type.duckdb + " NOT NULL" * (column.required or column.name in _NEVER_NULL)
        for column in (CELL, *FIELD_COLUMNS)
    },
}
"""Columns of the table `transitions`, whose rows are in the order of `seq`, the row's number in the store.

TIMESTAMP is in UTC with microseconds, as in Timestream and Athena; the session's time zone is UTC too. (Reading a
TIMESTAMP WITH TIME ZONE would need pytz.)
"""

MEMORY_LIMITS_MB = (64, 128, 256, 512)
"""Limits of DuckDB's memory, in ascending order. DuckDB caches its file up to the limit, so a small limit keeps the
cell's memory low. The next limit applies when a feed or a query ran out of memory. Larger data spills to the folder
with `TEMPORARY_SUFFIX`."""

REOPEN_AFTER_ROWS = 500_000
"""Number of written rows after which the database is closed and reopened. That takes a tenth of a second, or a second
on a busy machine. DuckDB retains 4 bytes for every row that it wrote since it was opened, outside its memory limit."""

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of the folder, next to the database, for data that does not fit into memory."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "max_temp_directory_size": "1GB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
}

_ROW = {column.name: column.type.duckdb for column in FIELD_COLUMNS}
_SHAPE = json.encode({name: "BIGINT" if type == "TIMESTAMP" else type for name, type in _ROW.items()}).decode()
_READ = {name: f"make_timestamp(row.{name})" if type == "TIMESTAMP" else f"row.{name}" for name, type in _ROW.items()}
_READ |= {"superseded": "coalesce(row.superseded, false)", "seq": "seq", "cell": "$cell"}
_VALUES = ", ".join(f"{sql} AS {name}" for name, sql in _READ.items())

# One JSON text per row: DuckDB reads the texts by columns, in less than half the time of any row-wise insert.
_INSERT = f"""INSERT INTO transitions BY NAME SELECT {_VALUES} FROM (
    SELECT seq, from_json(text, '{_SHAPE}') AS row
    FROM (SELECT unnest(range($first, $first + len($texts))) AS seq, unnest($texts::VARCHAR[]) AS text)
)"""

_CREATE = f"""
CREATE TABLE transitions ({", ".join(f"{name} {type}" for name, type in DUCKDB_COLUMNS.items())});
{rollup.CREATE_SQL}
CREATE TABLE feed (
    version INTEGER NOT NULL, cell VARCHAR NOT NULL, watermark BIGINT NOT NULL, rolled_up BIGINT NOT NULL
);
"""

# DuckDB has no exception class for corruption.
_CORRUPTION_MESSAGES = ("Corrupt", "Could not read enough bytes", "Failure while replaying WAL")


class TransitionSource(Protocol):
    """Source of committed transitions: a store, or a reader of one."""

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        """Return rows with a number greater than `after`, each with its number. Numbers start at 1 and have no gaps."""
        ...

    def close(self) -> None: ...


class NotOpen(Exception):
    """The database cannot be queried now, because it is being opened or rebuilt, or analytics has stopped."""


class DatabaseUnusable(Exception):
    """The database is not a copy of this store. The message gives the reason."""


class TimeSeries:
    """The open database. One thread appends to it; any thread may query it.

    The constructor raises DatabaseUnusable or duckdb.Error if the database cannot be opened. After an error in
    `append`, the caller must close the database, which rolls back the transaction.

    `reopen_reason` is an error of a query after which the caller must close the database too: the file is damaged, or
    `memory_mb` was not enough and a larger limit may be.
    """

    def __init__(self, path: Path, cell: str, source: TransitionSource, memory_mb: int = MEMORY_LIMITS_MB[0]) -> None:
        _inspect_files(path)
        self._path = path
        self.memory_mb = memory_mb
        self.reopen_reason: duckdb.Error | None = None
        self._cell = cell
        self._changed = threading.Condition()
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._closed = False
        self._connect()
        make_private(path)
        try:
            self._configure()
            self.watermark = self._opened_at_row = self._check_consistency()
            self._check_last_row(source)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        limits = {"memory_limit": f"{self.memory_mb}MB", "temp_directory": f"{self._path}{TEMPORARY_SUFFIX}"}
        self._connection = duckdb.connect(str(self._path), config=_CONFIG | limits)
        self._execute = self._connection.execute

    def _configure(self) -> None:
        self._execute("SET GLOBAL TimeZone = 'UTC'")
        self._execute("SET GLOBAL lock_configuration = true")

    def _check_consistency(self) -> int:
        """Return the watermark after a check that the tables agree with each other. Creates missing tables."""
        if not self._execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
            self._execute("BEGIN")
            self._execute(_CREATE)
            self._execute("INSERT INTO feed VALUES (?, ?, 0, 0)", (SCHEMA_VERSION, self._cell))
            self._execute("COMMIT")
        try:
            feeds = self._execute("SELECT version, cell, watermark, rolled_up FROM feed").fetchall()
            [(count, max_seq)] = self._execute("SELECT count(*), coalesce(max(seq), 0) FROM transitions").fetchall()
            tiers = self._execute("SELECT name FROM tiers").fetchall()
            [(counted,)] = self._execute("SELECT coalesce(sum(transitions), 0) FROM rolled_up").fetchall()
        except duckdb.ProgrammingError:
            raise DatabaseUnusable("another program made it") from None
        if [feed[:2] for feed in feeds] != [(SCHEMA_VERSION, self._cell)]:
            raise DatabaseUnusable("it belongs to another version or another cell")
        self._tiers = {name for (name,) in tiers}
        watermark, self._rolled_up = map(int, feeds[0][2:])
        if not watermark == count == max_seq or self._rolled_up != counted:
            found = f"{count} rows up to number {max_seq}, {counted} rolled up"
            raise DatabaseUnusable(f"it has {found}, but records {watermark} and {self._rolled_up}")
        return watermark

    def _check_last_row(self, source: TransitionSource) -> None:
        """Check that the store has the database's last row.

        A store that was restored from a backup lacks that row or has another one in its place. A transition that was
        repeated after the restore has the same id but another instant.
        """
        sql = "SELECT seq, transition_id, epoch_us(recorded_at) FROM transitions WHERE seq = ?"
        last = self._execute(sql, (self.watermark,)).fetchall()
        rows = source.transitions(self.watermark - 1, 1) if last else []
        if last != [(seq, transition.transition_id, transition.recorded_at) for seq, transition in rows]:
            raise DatabaseUnusable(f"the store does not have its row {self.watermark}")

    def append(self, rows: Sequence[tuple[int, Transition]]) -> None:
        """Write one or more rows that follow the watermark, in one transaction."""
        first, last = rows[0][0], rows[-1][0]
        if first != self.watermark + 1 or last != self.watermark + len(rows):
            raise ValueError(f"{len(rows)} rows from {first} to {last} do not follow row {self.watermark}")
        texts = [json.encode(transition).decode() for _, transition in rows]
        tiers = self._tiers_with(rows)
        self._execute("BEGIN")
        if len(tiers) > len(self._tiers):
            new = sorted(tiers - self._tiers)
            self._execute("INSERT INTO tiers SELECT unnest($new::VARCHAR[])", {"new": new})
        self._execute(_INSERT, {"cell": self._cell, "first": first, "texts": texts})
        rolled_up = self._rolled_up
        if last - rolled_up >= rollup.ROWS_PER_ROLLUP:
            self._execute(rollup.UPSERT_SQL, {"behind": rolled_up})
            rolled_up = last
        self._execute("UPDATE feed SET watermark = ?, rolled_up = ?", (last, rolled_up))
        self._execute("COMMIT")
        self.watermark, self._rolled_up, self._tiers = last, rolled_up, tiers

    def reopen_if_due(self) -> None:
        """Close and reopen the database if `REOPEN_AFTER_ROWS` rows were written, which frees memory of DuckDB.

        Does nothing while a query is running; new queries wait. The appending thread calls it between two batches.
        """
        if self.watermark - self._opened_at_row < REOPEN_AFTER_ROWS:
            return
        with self._changed:
            if self._cursors or self._closed:
                return
            self._connection.close()
            self._connect()
            self._configure()
        self._opened_at_row = self.watermark

    def _tiers_with(self, rows: Sequence[tuple[int, Transition]]) -> set[str]:
        """Return the tiers that the roll-up counts separately after adding these rows."""
        tiers = set(self._tiers)
        for _, transition in rows:
            if len(tiers) >= rollup.MAX_TIERS:
                break
            if transition.vendor_tier is not None:
                tiers.add(transition.vendor_tier)
        return tiers

    def query(self, sql: str, parameters: object) -> list[Any]:
        """Run one read-only statement and return its rows. Raises NotOpen or duckdb.Error."""
        return self._query(lambda cursor: cursor.execute(sql, parameters).fetchall())

    def query_hourly(self, sql: str, parameters: dict[str, object]) -> list[Any]:
        """Run a statement that reads the roll-up `hourly($behind)`. Otherwise like `query`."""

        def run(cursor: duckdb.DuckDBPyConnection) -> list[Any]:
            [(behind,)] = cursor.execute("SELECT rolled_up FROM feed").fetchall()
            return cursor.execute(sql, {**parameters, "behind": behind}).fetchall()

        return self._query(run)

    def _query(self, run: Callable[[duckdb.DuckDBPyConnection], list[Any]]) -> list[Any]:
        try:
            with self._cursor() as cursor:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                return run(cursor)
        except duckdb.InterruptException:
            raise NotOpen("the database was closed during the query") from None
        except duckdb.Error as error:
            if is_corruption(error) or (
                isinstance(error, duckdb.OutOfMemoryException) and next_memory_limit(self.memory_mb)
            ):
                self.reopen_reason = error
            raise

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._changed:
            if self._closed:
                raise NotOpen("the database is closed")
            cursor = self._connection.cursor()
            self._cursors.add(cursor)
        try:
            yield cursor
        finally:
            with self._changed:
                self._cursors.remove(cursor)
                cursor.close()
                self._changed.notify()

    def close(self) -> None:
        """Interrupt running queries and close the database. DuckDB then checkpoints its log into the file if it can."""
        with self._changed:
            self._closed = True
            while self._cursors:
                for cursor in self._cursors:
                    cursor.interrupt()
                # Interrupting has no effect on a query that has not begun yet, so repeat it.
                self._changed.wait(0.1)
        self._connection.close()


def next_memory_limit(memory_mb: int) -> int | None:
    """Return the next larger limit, or None after the last one."""
    return next((more for more in MEMORY_LIMITS_MB if more > memory_mb), None)


def is_corruption(error: Exception) -> bool:
    """Return whether an error means that the file is damaged."""
    return isinstance(error, duckdb.Error) and any(sign in str(error) for sign in _CORRUPTION_MESSAGES)


def _inspect_files(path: Path) -> None:
    """Detect invalid files for which DuckDB would raise various errors, or none."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        if any(one.exists() for one in _database_files(path.name, path.parent)):
            raise DatabaseUnusable("its log exists, but the database does not") from None
        return
    # The header begins with a checksum of eight bytes and these (https://duckdb.org/docs/stable/internals/storage).
    if head[8:] != b"DUCK":
        raise DatabaseUnusable("it is not a DuckDB database")


def _database_files(name: str, folder: Path) -> list[Path]:
    """Return the paths of a database and its logs."""
    return [folder / (name + suffix) for suffix in ("", ".wal", ".wal.checkpoint", ".wal.recovery")]


def quarantine(path: Path) -> None:
    """Rename the files of an unusable database so that a new one can be created. Raises OSError if that fails."""
    for number in itertools.count(1):
        targets = _database_files(f"{path.name}.damaged-{number}", path.parent)
        if not any(target.exists() for target in targets):
            break
    for file, target in zip(_database_files(path.name, path.parent), targets, strict=True):
        if file.exists():
            file.rename(target)
            log.warning("%s was renamed to %s", file, target.name)

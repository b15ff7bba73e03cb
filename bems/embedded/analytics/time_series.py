"""The time series of a cell in DuckDB: its tables, how rows come in, how they are asked for.

The store is the truth; this is a copy of its transitions, which can be thrown away and is made again.
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
from bems.tracker.transitions import Transition

log = logging.getLogger(__name__)

VERSION = 4
"""Of the tables. One more for every change to them: a database of another version is made again."""

COLUMNS = {
    "seq": "BIGINT NOT NULL",
    "invoice_id": "VARCHAR NOT NULL",
    "cell": "VARCHAR NOT NULL",
    "recorded_at": "TIMESTAMP NOT NULL",
    "stage": "VARCHAR NOT NULL",
    "transition_id": "VARCHAR NOT NULL",
    "kind": "VARCHAR NOT NULL",
    "from_status": "VARCHAR",
    "to_status": "VARCHAR NOT NULL",
    "outcome": "VARCHAR",
    "event_id": "VARCHAR",
    "superseded": "BOOLEAN NOT NULL",
    "amount": "DECIMAL(22, 4) NOT NULL",
    "currency": "VARCHAR NOT NULL",
    "vendor_id": "VARCHAR NOT NULL",
    "vendor_tier": "VARCHAR",
    "terms_days": "INTEGER",
    "due_date": "DATE",
    "occurred_at": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "lag_ms": "BIGINT",
    "step": "INTEGER",
    "severity": "VARCHAR",
    "decided_at": "TIMESTAMP",
    "policy_digest": "VARCHAR",
    "from_amount": "DECIMAL(22, 4)",
    "from_currency": "VARCHAR",
    "to_amount": "DECIMAL(22, 4) NOT NULL",
    "to_currency": "VARCHAR NOT NULL",
    "source": "VARCHAR",
    "attributes": "JSON",
}
"""Of the table `transitions`, whose rows stand in the order of `seq`, the store's number.

TIMESTAMP is in UTC, with microseconds, as it is in Timestream and Athena; the session's time zone is UTC too. (One with
a zone would need pytz to be read.) An amount has up to 18 digits before the point, or up to 4 of them behind it.
"""

MEMORY_MB = (64, 128, 256, 512)
"""DuckDB keeps what it has read of its file until it has this much memory, so a small limit keeps the cell's memory
flat. Each is tried when the one before was not enough for a feed or a question; the rest goes to `TEMPORARY`."""

RENEW_EVERY = 500_000
"""Rows after which the database is closed and opened again, which takes a tenth of a second, or a second where the
machine is busy. For every row that it has written since it was opened, DuckDB keeps 4 bytes of its own, beyond its
limit of memory and for good."""

TEMPORARY = ".tmp"
"""Follows the database's name: the folder of what has no room in memory, beside it."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "max_temp_directory_size": "1GB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
}

_ROW = {name: type.removesuffix(" NOT NULL") for name, type in COLUMNS.items() if name not in ("seq", "cell")}
_SHAPE = json.encode({name: "BIGINT" if type == "TIMESTAMP" else type for name, type in _ROW.items()}).decode()
_READ = {name: f"make_timestamp(row.{name})" if type == "TIMESTAMP" else f"row.{name}" for name, type in _ROW.items()}
_READ |= {"superseded": "coalesce(row.superseded, false)", "seq": "seq", "cell": "$cell"}

# One JSON text per row: DuckDB reads them by columns, in less than half the time of any row-wise way in.
_INSERT = f"""INSERT INTO transitions SELECT {", ".join(_READ[name] for name in COLUMNS)} FROM (
    SELECT seq, from_json(text, '{_SHAPE}') AS row
    FROM (SELECT unnest(range($first, $first + len($texts))) AS seq, unnest($texts::VARCHAR[]) AS text)
)"""

_CREATE = f"""
CREATE TABLE transitions ({", ".join(f"{name} {type}" for name, type in COLUMNS.items())});
{rollup.CREATE}
CREATE TABLE feed (
    version INTEGER NOT NULL, cell VARCHAR NOT NULL, watermark BIGINT NOT NULL, rolled_up BIGINT NOT NULL
);
"""

# DuckDB has no class of errors for these.
_CORRUPTION_MESSAGES = ("Corrupt", "Could not read enough bytes", "Failure while replaying WAL")


class Source(Protocol):
    """Where the rows come from: what a store has committed."""

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        """The rows behind a number, with theirs, which have no gaps and begin with 1."""
        ...

    def close(self) -> None: ...


class NotOpen(Exception):
    """The database cannot be asked now: it is being opened or made again, or analytics has stopped."""


class Unusable(Exception):
    """The database is not a copy of this store. The message says why."""


class TimeSeries:
    """The database, open. One thread appends to it, and any may ask.

    Unusable, or a duckdb.Error, where it cannot be opened. After an error in `append` it is to be closed, which undoes
    what was begun. `damage` is what a query came upon, for which it is to be closed too: that the file is damaged, or
    that `memory_mb` was not enough, and more may be.
    """

    def __init__(self, path: Path, cell: str, source: Source, memory_mb: int = MEMORY_MB[0]) -> None:
        _inspect_files(path)
        self._path = path
        self.memory_mb = memory_mb
        self.damage: duckdb.Error | None = None
        self._cell = cell
        self._changed = threading.Condition()
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._closed = False
        self._connect()
        make_private(path)
        try:
            self._configure()
            self.watermark = self._renewed_at = self._check()
            self._compare(source)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        limits = {"memory_limit": f"{self.memory_mb}MB", "temp_directory": f"{self._path}{TEMPORARY}"}
        self._connection = duckdb.connect(str(self._path), config=_CONFIG | limits)
        self._execute = self._connection.execute

    def _configure(self) -> None:
        self._execute("SET GLOBAL TimeZone = 'UTC'")
        self._execute("SET GLOBAL lock_configuration = true")

    def _check(self) -> int:
        """The watermark of a database that agrees with itself; one without tables is given them."""
        if not self._execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
            self._execute("BEGIN")
            self._execute(_CREATE)
            self._execute("INSERT INTO feed VALUES (?, ?, 0, 0)", (VERSION, self._cell))
            self._execute("COMMIT")
        try:
            feeds = self._execute("SELECT version, cell, watermark, rolled_up FROM feed").fetchall()
            [(count, last)] = self._execute("SELECT count(*), coalesce(max(seq), 0) FROM transitions").fetchall()
            tiers = self._execute("SELECT name FROM tiers").fetchall()
            [(counted,)] = self._execute("SELECT coalesce(sum(transitions), 0) FROM rolled_up").fetchall()
        except duckdb.ProgrammingError:
            raise Unusable("another program made it") from None
        if [feed[:2] for feed in feeds] != [(VERSION, self._cell)]:
            raise Unusable("it is of another version or another cell")
        self._tiers = {name for (name,) in tiers}
        watermark, self._rolled_up = map(int, feeds[0][2:])
        if not watermark == count == last or self._rolled_up != counted:
            found = f"{count} rows up to number {last}, {counted} rolled up"
            raise Unusable(f"it has {found}, and says {watermark} and {self._rolled_up}")
        return watermark

    def _compare(self, source: Source) -> None:
        """A store that was restored from a backup lacks our last row, or has another one in its place. What happened
        again since has the same id, at another instant."""
        sql = "SELECT seq, transition_id, epoch_us(recorded_at) FROM transitions WHERE seq = ?"
        last = self._execute(sql, (self.watermark,)).fetchall()
        rows = source.transitions(self.watermark - 1, 1) if last else []
        if last != [(seq, transition.transition_id, transition.recorded_at) for seq, transition in rows]:
            raise Unusable(f"the store does not have its row {self.watermark}")

    def append(self, rows: Sequence[tuple[int, Transition]]) -> None:
        """The rows behind the watermark, one or more: all of them, or none."""
        first, last = rows[0][0], rows[-1][0]
        if first != self.watermark + 1 or last != self.watermark + len(rows):
            raise ValueError(f"{len(rows)} rows from {first} to {last} do not follow upon row {self.watermark}")
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

    def renew(self) -> None:
        """Close it and open it again, if it is time for that: what DuckDB keeps of all that it has written is let go.

        Questions wait meanwhile. While one is being answered it is not time; for whoever appends, between two batches.
        """
        if self.watermark - self._renewed_at < RENEW_EVERY:
            return
        with self._changed:
            if self._cursors or self._closed:
                return
            self._connection.close()
            self._connect()
            self._configure()
        self._renewed_at = self.watermark

    def _tiers_with(self, rows: Sequence[tuple[int, Transition]]) -> set[str]:
        """The tiers of vendors that the roll-up tells apart once it has these rows too."""
        tiers = set(self._tiers)
        for _, transition in rows:
            if len(tiers) >= rollup.MAX_TIERS:
                break
            if transition.vendor_tier is not None:
                tiers.add(transition.vendor_tier)
        return tiers

    def query(self, sql: str, parameters: object) -> list[Any]:
        """The rows of one statement that only reads. NotOpen, or a duckdb.Error."""
        return self._query(lambda cursor: cursor.execute(sql, parameters).fetchall())

    def query_hourly(self, sql: str, parameters: dict[str, object]) -> list[Any]:
        """The same of a statement that asks the roll-up, `hourly($behind)`."""

        def ask(cursor: duckdb.DuckDBPyConnection) -> list[Any]:
            [(behind,)] = cursor.execute("SELECT rolled_up FROM feed").fetchall()
            return cursor.execute(sql, {**parameters, "behind": behind}).fetchall()

        return self._query(ask)

    def _query(self, ask: Callable[[duckdb.DuckDBPyConnection], list[Any]]) -> list[Any]:
        try:
            with self._cursor() as cursor:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                return ask(cursor)
        except duckdb.InterruptException:
            raise NotOpen("the database was closed before it could answer") from None
        except duckdb.Error as error:
            if is_corruption(error) or (isinstance(error, duckdb.OutOfMemoryException) and more_memory(self.memory_mb)):
                self.damage = error
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
        """Break off what is being asked, and close it. DuckDB then brings its log into the file, if it can."""
        with self._changed:
            self._closed = True
            while self._cursors:
                for cursor in self._cursors:
                    cursor.interrupt()
                # A query that has not begun is not interrupted: then again.
                self._changed.wait(0.1)
        self._connection.close()


def more_memory(memory_mb: int) -> int | None:
    """The next limit; None after the last."""
    return next((more for more in MEMORY_MB if more > memory_mb), None)


def is_corruption(error: Exception) -> bool:
    """Whether an error means that the file is damaged."""
    return isinstance(error, duckdb.Error) and any(sign in str(error) for sign in _CORRUPTION_MESSAGES)


def _inspect_files(path: Path) -> None:
    """What DuckDB would tell with errors of many kinds, or not at all."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        if any(one.exists() for one in _files(path.name, path.parent)):
            raise Unusable("its log is there without it") from None
        return
    # https://duckdb.org/docs/stable/internals/storage: a checksum of eight bytes, and these.
    if head[8:] != b"DUCK":
        raise Unusable("it is no DuckDB database")


def _files(name: str, folder: Path) -> list[Path]:
    """A database of that name, with its logs."""
    return [folder / (name + suffix) for suffix in ("", ".wal", ".wal.checkpoint", ".wal.recovery")]


def quarantine(path: Path) -> None:
    """Rename the files of a database that cannot be used, so that a new one has room. OSError where that fails."""
    for number in itertools.count(1):
        aside = _files(f"{path.name}.damaged-{number}", path.parent)
        if not any(one.exists() for one in aside):
            break
    for one, other in zip(_files(path.name, path.parent), aside, strict=True):
        if one.exists():
            one.rename(other)
            log.warning("%s is %s now", one, other.name)

"""Analytics: copies the transitions of a cell to DuckDB, which serves the dashboards. Replaces Timestream.

A thread reads the rows after the watermark, the number of the last row in the database. It writes them and the new
watermark in one transaction, so that a crash at any point neither loses nor duplicates rows.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from bems.embedded.analytics.time_series import (
    MEMORY_LIMITS_MB,
    DatabaseUnusable,
    NotOpen,
    TimeSeries,
    TransitionSource,
    is_corruption,
    next_memory_limit,
    quarantine,
)

log = logging.getLogger(__name__)

ANALYTICS = "analytics.duckdb"

MAX_ROWS_PER_FEED = 10_000
"""Maximum number of rows in a transaction."""

FEED_SECONDS = 1.0
"""Interval between feeds when `wake` is not called."""

STOP_TIMEOUT_SECONDS = 10.0
"""Maximum time that `stop` spends on feeding outstanding rows. The rest is fed after the next start."""

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Delay after each consecutive failure; the last one repeats."""


class AnalyticsFeeder:
    """Feeds the database in `folder` and answers queries. Its failures never stop the cell.

    `cell` is the cell's name, which every row holds. `source` opens the source of rows; the feeding thread calls it at
    the start and after each failure. A database that is damaged or not a copy of this store is renamed and rebuilt.
    """

    def __init__(
        self,
        folder: Path,
        cell: str,
        source: Callable[[], TransitionSource],
        *,
        max_rows: int = MAX_ROWS_PER_FEED,
        feed_seconds: float = FEED_SECONDS,
    ) -> None:
        self._path = folder / ANALYTICS
        self._cell = cell
        self._open_source = source
        self._max_rows = max_rows
        self._feed_seconds = feed_seconds
        self._source: TransitionSource | None = None
        self._database: TimeSeries | None = None
        self._memory_mb = MEMORY_LIMITS_MB[0]
        self._watermark = 0
        self._failures = 0
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._woken = False
        self._stop_deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="bems-analytics")

    # -- for any thread

    def start(self) -> "AnalyticsFeeder":
        """Start the thread; call it once. Queries raise NotOpen until the thread has opened the database."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Feed outstanding rows and close the database. Returns when both are done. Idempotent."""
        with self._changed:
            if self._stop_deadline is None:
                self._stop_deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Feed now. After a failure, the next feed still waits for its retry delay."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    @property
    def watermark(self) -> int:
        """Number of the last row in the database; 0 if it is empty or was never opened."""
        return self._watermark

    @property
    def failure(self) -> str | None:
        """Error of the last feed; None if it succeeded."""
        return self._failure

    def query(self, sql: str, parameters: object = ()) -> list[Any]:
        """Run one read-only statement and return its rows as tuples. `?` and `$name` are placeholders of parameters.

        The statement cannot write, nor read other files. Raises NotOpen if the database is not open, and duckdb.Error
        if the statement fails.
        """
        return self._query(lambda database: database.query(sql, parameters))

    def query_hourly(self, sql: str, parameters: dict[str, object]) -> list[Any]:
        """Run a statement that reads the roll-up `hourly($behind)`; see `rollup`. Otherwise like `query`."""
        return self._query(lambda database: database.query_hourly(sql, parameters))

    def _query(self, run: Callable[[TimeSeries], list[Any]]) -> list[Any]:
        database = self._database
        if database is None:
            raise NotOpen("the database is not open")
        try:
            return run(database)
        finally:
            if database.reopen_reason:
                self.wake()

    def count(self) -> int:
        """Return the number of rows."""
        return int(self.query("SELECT count(*) FROM transitions")[0][0])

    def kinds(self) -> dict[str, int]:
        """Return the number of rows by kind."""
        return dict(self.query("SELECT kind, count(*) FROM transitions GROUP BY kind ORDER BY kind"))

    # -- the feeding thread

    def _run(self) -> None:
        last = False
        while not last:
            with self._changed:
                self._woken, last = False, self._stop_deadline is not None
            pause = self._feed_seconds
            try:
                self._feed()
                self._failures, self._failure = 0, None
            except Exception as error:
                pause = self._handle_failure(error)
            with self._changed:
                self._changed.wait_for(lambda: self._stop_deadline or (self._woken and not self._failures), pause)
        self._close()

    def _feed(self) -> None:
        """Write all outstanding rows in batches."""
        if self._source is None:
            self._source = self._open_source()
        if self._database is None:
            self._database = TimeSeries(self._path, self._cell, self._source, self._memory_mb)
        if self._database.reopen_reason:
            raise self._database.reopen_reason
        more = True
        while more:
            rows = self._source.transitions(self._database.watermark, self._max_rows)
            if rows:
                self._database.append(rows)
            self._watermark = self._database.watermark
            self._database.reopen_if_due()
            more = len(rows) == self._max_rows and (
                self._stop_deadline is None or time.monotonic() < self._stop_deadline
            )

    def _handle_failure(self, error: Exception) -> float:
        """Close source and database, which the next feed reopens. Returns the delay until then in seconds."""
        self._close()
        more = next_memory_limit(self._memory_mb)
        if isinstance(error, duckdb.OutOfMemoryException) and more:
            log.info("analytics gets %d MB of memory, because %d MB were not enough", more, self._memory_mb)
            self._memory_mb = more
            return 0
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"
        if isinstance(error, DatabaseUnusable) or is_corruption(error):
            log.warning("%s cannot be used and is rebuilt from the store: %s", self._path, error)
            try:
                quarantine(self._path)
            except OSError as rename_error:
                log.error("%s cannot be renamed: %s", self._path, rename_error)
            if self._failures == 1:
                return 0
        else:
            log.error("the analytics feed failed, attempt %d: %s", self._failures, self._failure)
        return RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]

    def _close(self) -> None:
        database, self._database = self._database, None
        source, self._source = self._source, None
        try:
            if database:
                database.close()
        except duckdb.Error as error:
            log.error("%s could not be closed cleanly: %s", self._path, error)
        if source:
            with suppress(Exception):
                source.close()

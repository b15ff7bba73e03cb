"""Analytics: feeds the transitions of a cell to DuckDB, where dashboards ask for them. Timestream's stand-in.

A thread reads the rows behind the watermark, the number of the last row it has, and writes them together with the new
watermark in one transaction. So a crash at any point leaves neither or both, and doing it again misses and doubles
nothing.
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
    MEMORY_MB,
    NotOpen,
    Source,
    TimeSeries,
    Unusable,
    is_corruption,
    more_memory,
    quarantine,
)

log = logging.getLogger(__name__)

ANALYTICS = "analytics.duckdb"

MAX_ROWS_PER_FEED = 10_000
FEED_SECONDS = 1.0
"""Seconds from one feed to the next, if nobody pokes."""

STOP_TIMEOUT_SECONDS = 10.0
"""Seconds that `stop` spends at the most on what is there. What is left is read at the next start."""

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Seconds to wait after each failure; after more of them, as long as after the last."""


class AnalyticsFeeder:
    """Feeds the database in `folder` from what `source` gives, and answers queries. Its failures take no cell down.

    `cell` is the cell's name, and stands in each row. `source` is called in the thread that feeds, and again after each
    failure. A database that is damaged, or no copy of this store, is renamed aside and made again.
    """

    def __init__(
        self,
        folder: Path,
        cell: str,
        source: Callable[[], Source],
        *,
        batch: int = MAX_ROWS_PER_FEED,
        every: float = FEED_SECONDS,
    ) -> None:
        self._path = folder / ANALYTICS
        self._cell = cell
        self._open_source = source
        self._batch = batch
        self._every = every
        self._source: Source | None = None
        self._database: TimeSeries | None = None
        self._memory_mb = MEMORY_MB[0]
        self._watermark = 0
        self._failures = 0
        self._failing: str | None = None
        self._changed = threading.Condition()
        self._poked = False
        self._stop_by: float | None = None
        self._thread = threading.Thread(target=self._run, name="bems-analytics")

    # -- for any thread

    def start(self) -> "AnalyticsFeeder":
        """Begin, once. The database is opened by its thread; until then, queries raise NotOpen."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Feed what is there, and close the database. Returns when that is done; twice is harmless."""
        with self._changed:
            if self._stop_by is None:
                self._stop_by = time.monotonic() + STOP_TIMEOUT_SECONDS
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Feed at once. While it is failing, that waits for the next try."""
        with self._changed:
            self._poked = True
            self._changed.notify()

    @property
    def watermark(self) -> int:
        """The number of the last row in the database; 0 for none, and before it is first opened."""
        return self._watermark

    @property
    def failure(self) -> str | None:
        """Why the last feed failed; None if it did not."""
        return self._failing

    def query(self, sql: str, parameters: object = ()) -> list[Any]:
        """The rows, each a tuple, of one statement that only reads; `?` or `$name` stand for its parameters.

        NotOpen, or a duckdb.Error for what cannot be answered. It may write nothing, and read no other file.
        """
        return self._ask(lambda database: database.query(sql, parameters))

    def query_hourly(self, sql: str, parameters: dict[str, object]) -> list[Any]:
        """The same of a statement that asks the roll-up, `hourly($behind)`; see `rollup`."""
        return self._ask(lambda database: database.query_hourly(sql, parameters))

    def _ask(self, question: Callable[[TimeSeries], list[Any]]) -> list[Any]:
        database = self._database
        if database is None:
            raise NotOpen("the database is not open")
        try:
            return question(database)
        finally:
            if database.damage:
                self.wake()

    def count(self) -> int:
        """How many rows there are."""
        return int(self.query("SELECT count(*) FROM transitions")[0][0])

    def kinds(self) -> dict[str, int]:
        """How many rows there are of each kind that occurs."""
        return dict(self.query("SELECT kind, count(*) FROM transitions GROUP BY kind ORDER BY kind"))

    # -- its own thread

    def _run(self) -> None:
        last = False
        while not last:
            with self._changed:
                self._poked, last = False, self._stop_by is not None
            pause = self._every
            try:
                self._feed()
                self._failures, self._failing = 0, None
            except Exception as error:
                pause = self._fail(error)
            with self._changed:
                self._changed.wait_for(lambda: self._stop_by or (self._poked and not self._failures), pause)
        self._close()

    def _feed(self) -> None:
        """All that is there, in batches."""
        if self._source is None:
            self._source = self._open_source()
        if self._database is None:
            self._database = TimeSeries(self._path, self._cell, self._source, self._memory_mb)
        if self._database.damage:
            raise self._database.damage
        more = True
        while more:
            rows = self._source.transitions(self._database.watermark, self._batch)
            if rows:
                self._database.append(rows)
            self._watermark = self._database.watermark
            self._database.renew()
            more = len(rows) == self._batch and (self._stop_by is None or time.monotonic() < self._stop_by)

    def _fail(self, error: Exception) -> float:
        """Seconds to wait until the next try, for which all is opened again."""
        self._close()
        more = more_memory(self._memory_mb)
        if isinstance(error, duckdb.OutOfMemoryException) and more:
            log.info("analytics gets %d MB of memory, for %d were not enough", more, self._memory_mb)
            self._memory_mb = more
            return 0
        self._failures += 1
        self._failing = f"{type(error).__name__}: {error}"
        if isinstance(error, Unusable) or is_corruption(error):
            log.warning("%s cannot be used and is made again from the store: %s", self._path, error)
            try:
                quarantine(self._path)
            except OSError as refusal:
                log.error("%s cannot be renamed: %s", self._path, refusal)
            if self._failures == 1:
                return 0
        else:
            log.error("analytics is not fed, try %d: %s", self._failures, self._failing)
        return RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]

    def _close(self) -> None:
        database, self._database = self._database, None
        source, self._source = self._source, None
        try:
            if database:
                database.close()
        except duckdb.Error as error:
            log.error("%s did not close well: %s", self._path, error)
        if source:
            with suppress(Exception):
                source.close()

"""WAL checkpointer: keeps the write-ahead log of `cell.db` from growing without bound.

SQLite resets the log when all of it is in the database and no reader uses it. Readers that always overlap would delay
that forever. So when the log has become too long, the next query, and every query after it, waits until the running
ones have finished. Then the first waiting query checkpoints and truncates the log.

Other readers use the log without waiting for it. The feeds of analytics and deliveries read for moments, so the
checkpoint happens in one of their pauses. A backup reads as long as it takes, and the log grows meanwhile.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from bems.embedded.storage.schema import DATABASE

log = logging.getLogger(__name__)

MAX_WAL_BYTES = 64 * 1024 * 1024
"""Length of the log at which queries wait for a checkpoint. Without overlapping readers the log has a quarter of it."""

CHECKPOINT_TIMEOUT_SECONDS = 0.5
"""Maximum time to wait for a pause of the other readers."""

BUSY_RETRY_SECONDS = 0.005
"""Time between two attempts within that timeout."""

RETRY_AFTER_SECONDS = 5.0
"""Time until the next attempt after a timeout or an error."""


class WalCheckpointer:
    """Checkpoints the log of the cell in a folder between queries. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._database = folder / DATABASE
        self._file = folder / f"{DATABASE}-wal"
        self._connection: apsw.Connection | None = None
        self._changed = threading.Condition()
        self._reading = 0
        self._is_held = False
        self._not_before = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Enclose a query of a reader. Entering waits for a checkpoint if the log is too long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_held)
            if self._is_too_long():
                self._is_held = True
                self._changed.wait_for(lambda: not self._reading)
                try:
                    self._checkpoint()
                finally:
                    self._is_held = False
                    self._changed.notify_all()
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def _is_too_long(self) -> bool:
        try:
            return self._file.stat().st_size > MAX_WAL_BYTES and time.monotonic() >= self._not_before
        except OSError:
            return False

    def _checkpoint(self) -> None:
        until = time.monotonic() + CHECKPOINT_TIMEOUT_SECONDS
        try:
            if self._connection is None:
                self._connection = apsw.Connection(str(self._database), flags=apsw.SQLITE_OPEN_READWRITE)
                # A connection does not know that there is a log until it has read once.
                self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            # The writer continues during this first one, which copies nearly all pages, and waits a moment for the
            # second.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            while not self._truncate():
                if time.monotonic() > until:
                    self._not_before = time.monotonic() + RETRY_AFTER_SECONDS
                    return
                time.sleep(BUSY_RETRY_SECONDS)
        except apsw.Error as error:
            # Usually a full disk. The log keeps its length.
            log.warning("the write-ahead log of %s cannot be checkpointed: %s", self._database, error)
            self._not_before = time.monotonic() + RETRY_AFTER_SECONDS

    def _truncate(self) -> bool:
        """Checkpoint the rest and truncate the log. Return False at once if another reader uses the log."""
        assert self._connection is not None
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return False
        return True

    def close(self) -> None:
        """Close the connection. Idempotent."""
        with self._changed:
            if self._connection is not None:
                self._connection.close()

"""The write-ahead log of `cell.db`, which is kept from growing without bound.

SQLite begins it anew when all of it is in the database and nobody reads from it. Several readers that always overlap
would put that off for ever. So when it has become too long, the next question waits until those under way are answered,
as do all that follow, and what is then in it is brought into the database by whoever waits.

Others read from it too, and wait for nobody: what feeds analytics and deliveries reads for moments, with pauses, and is
met in one of those; a backup reads for as long as it takes, and the log grows meanwhile.
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
"""Bytes. Without such readers it has a quarter of that."""

CHECKPOINT_TIMEOUT_SECONDS = 0.5
"""Seconds in which a pause of the other readers is looked for."""

BUSY_RETRY_SECONDS = 0.005
"""Seconds between two looks."""

RETRY_AFTER_SECONDS = 5.0
"""Seconds until the next try, where no pause was found."""


class WalCheckpointer:
    """The log of the cell in a folder. For any thread."""

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
        """A reader's question, asked as soon as the log is not too long."""
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
                # Before its first reading it does not know that there is a log.
                self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            # The writer goes on during the first, which brings over nearly all, and waits a moment for the second.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            while not self._truncate():
                if time.monotonic() > until:
                    self._not_before = time.monotonic() + RETRY_AFTER_SECONDS
                    return
                time.sleep(BUSY_RETRY_SECONDS)
        except apsw.Error as error:
            # A full disk, as a rule; the log stays as long as it is.
            log.warning("the log of %s cannot be brought into it: %s", self._database, error)
            self._not_before = time.monotonic() + RETRY_AFTER_SECONDS

    def _truncate(self) -> bool:
        """Bring the rest over and begin anew, unless somebody is in the way; it waits for nobody."""
        assert self._connection is not None
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return False
        return True

    def close(self) -> None:
        """Twice is harmless."""
        with self._changed:
            if self._connection is not None:
                self._connection.close()

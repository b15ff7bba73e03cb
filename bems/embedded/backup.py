"""Backup: a consistent copy of a cell's folder, on which a cell can be started. The cell may run meanwhile.

Each database is copied page by page in one read transaction, so the copy shows one moment and the cell does not wait
for it. Only the write-ahead log of `cell.db` cannot be reset meanwhile. Deliveries are copied before `cell.db`, so that
they are never ahead of it: an alert delivered in between is delivered again from the copy, with the same id. Keys are
copied last, with every revocation. Analytics is not copied; a cell rebuilds it from `cell.db`.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
from msgspec import Struct

from bems.embedded.alerting import outbox
from bems.embedded.auth import keys
from bems.embedded.storage import schema, wal_identity
from bems.embedded.storage.database_files import StoreUnusable, inspect_header, refuse_foreign_wal
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.file_permissions import make_private
from bems.embedded.storage.reader import BUSY_TIMEOUT_MS
from bems.tracker.instants import Instant

DATABASES = (
    (outbox.DATABASE, outbox.APPLICATION_ID, len(outbox.MIGRATIONS)),
    (schema.DATABASE, schema.APPLICATION_ID, len(schema.MIGRATIONS)),
    (keys.KEYS_DATABASE, keys.APPLICATION_ID, len(keys.MIGRATIONS)),
)
"""File name, application id and newest version of each database, in the order in which they are copied."""

COPY_CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes copied between two syncs. One long sync at the end would delay the cell's own commits."""

OnProgress = Callable[[int, int], object]
"""Callback with the number of bytes copied and the total number of bytes."""


class BackupRefused(Exception):
    """There is nothing to copy, or no room for the copy. The message says why. Nothing was changed."""


class Backup(Struct, frozen=True):
    """Content of a copy: its size and the number of entries of each kind.

    `deliveries` counts those that wait, `keys` those that are not revoked. `latest` is the instant of the newest
    transition, None if there is none.
    """

    bytes: int
    events: int
    invoices: int
    transitions: int
    alerts: int
    dead_letters: int
    deliveries: int
    keys: int
    latest: Instant | None


def back_up(folder: Path, target: Path, on_progress: OnProgress = lambda *_: None) -> Backup:
    """Copy the cell in `folder` to `target`. The target appears complete and synced to disk, or not at all.

    Raises BackupRefused, StoreUnusable if the folder's files are not a cell's or of a newer version, and StoreFailed if
    they cannot be read or the copy cannot be written.
    """
    if not (folder / schema.DATABASE).is_file():
        raise BackupRefused(f"{folder} has no {schema.DATABASE}: it is not the folder of a cell")
    inspect_files(folder)
    _refuse_target(target)
    size = count_bytes(folder)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise BackupRefused(f"{target}: the copy needs {size:,} bytes, and {free:,} are free there")
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BackupRefused(f"{target} cannot be created: {error.strerror}") from error
    try:
        with translate_copy_errors(target):
            copy_files(folder, part, size, on_progress)
            backup = verify_copy(part)
            sync(part)
            part.rename(target)
            sync(target.parent)
        return backup
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def inspect_files(folder: Path) -> None:
    """Raise StoreUnusable if a file to copy is not a cell's, is of a newer version, or has a foreign log beside it."""
    for name, application, version in DATABASES:
        inspect_header(folder / name, version, application)
        try:
            refuse_foreign_wal(folder / name)
        except StoreUnusable:
            # A running cell that resets its log at this moment may look like that. Look again.
            refuse_foreign_wal(folder / name)


def _refuse_target(target: Path) -> None:
    # A dangling link counts too: the rename at the end would fail on it.
    if os.path.lexists(target):
        raise BackupRefused(f"{target} already exists; choose another folder")
    if not target.parent.is_dir():
        raise BackupRefused(f"{target} cannot be created: {target.parent} is not a folder")


def count_bytes(folder: Path) -> int:
    """Return the maximum size of the copy in bytes. A log adds at most its own size."""
    size = 0
    for name, _, _ in DATABASES:
        for suffix in ("", "-wal"):
            # A cell that stops meanwhile removes its logs.
            with suppress(FileNotFoundError):
                size += (folder / (name + suffix)).stat().st_size
    return size


@contextmanager
def translate_copy_errors(target: Path) -> Iterator[None]:
    """Raise StoreFailed for errors of SQLite and the file system, or BackupRefused if the target exists by now."""
    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        # SQLite reports a full disk as either error.
        raise StoreFailed(f"{target} could not be written: {error}; is the disk full?") from error
    except apsw.Error as error:
        raise StoreFailed(f"the cell could not be copied: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise BackupRefused(f"{target} already exists: it was created during the copy") from error
        raise StoreFailed(f"{target} could not be written: {error.strerror}") from error


def copy_files(folder: Path, part: Path, size: int, on_progress: OnProgress, *, is_at_rest: bool = False) -> None:
    """Copy each database that exists, with the content of its log, and report progress of `size` bytes.

    `is_at_rest` says that no process writes to the databases. One without a log is then read without leaving any file
    beside it.
    """
    done = 0
    for name, application, _ in DATABASES:
        if (folder / name).exists():
            for copied in _copy(folder / name, part / name, application, is_at_rest=is_at_rest):
                on_progress(done + copied, max(size, done + copied))
            done += copied


def _copy(source: Path, target: Path, application: int, *, is_at_rest: bool) -> Iterator[int]:
    """Copy one database, and yield the number of bytes copied so far after each chunk."""
    log = wal_identity.wal_path(source)
    has_log = log.exists() and log.stat().st_size > 0
    if is_at_rest and not has_log:
        reading = _open_copy(source)
    else:
        reading = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        reading.set_busy_timeout(BUSY_TIMEOUT_MS)
        # One transaction from the first read on: without it every commit would restart the copy.
        reading.execute("BEGIN")
        if reading.execute("PRAGMA application_id").get != application:
            raise StoreUnusable(f"{source} is not a store of a cell: another program made it")
        page_size = int(reading.execute("PRAGMA page_size").get)
        writing = apsw.Connection(str(target))
        try:
            make_private(target)
            # An interrupted copy is deleted, so it needs no journal. The sync happens below.
            writing.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            with writing.backup("main", reading, "main") as backup:
                while not backup.done:
                    begun = time.perf_counter()
                    backup.step(max(1, COPY_CHUNK_BYTES // page_size))
                    sync(target)
                    yield (backup.page_count - backup.remaining) * page_size
                    # The cell shares the disk and the processor: leave them to it half of the time.
                    time.sleep(0 if backup.done or is_at_rest else time.perf_counter() - begun)
            wal_identity.clear_salt(writing)
        finally:
            writing.close()
    finally:
        reading.close()
    sync(target)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_copy(part: Path, check: str = "quick_check") -> Backup:
    """Read the whole copy with the SQLite pragma `check`, and return its content.

    Raises StoreFailed if the copy is damaged; its original is damaged then, too.
    """
    found = {name: _open_copy(part / name) for name, _, _ in DATABASES if (part / name).exists()}
    try:
        for name, connection in found.items():
            messages = [str(row[0]) for row in connection.execute(f"PRAGMA {check}(1)")]
            if messages != ["ok"]:
                raise StoreFailed(f"{name} is damaged, in the folder that was copied too: {messages[0]}")
        # Every version of the store has these tables and columns.
        cell = found[schema.DATABASE]
        return Backup(
            sum((part / name).stat().st_size for name in found),
            _count(cell, "SELECT coalesce(max(seq), 0) FROM events"),
            _count(cell, "SELECT count(*) FROM invoices"),
            _count(cell, "SELECT coalesce(max(seq), 0) FROM transitions"),
            _count(cell, schema.COUNT_ALERTS),
            _count(cell, "SELECT count(*) FROM letters"),
            _count(found.get(outbox.DATABASE), "SELECT count(*) FROM deliveries WHERE state = 'waiting'"),
            _count(found.get(keys.KEYS_DATABASE), "SELECT count(*) FROM keys WHERE revoked_at IS NULL"),
            _count(cell, "SELECT coalesce((SELECT recorded_at FROM transitions ORDER BY seq DESC LIMIT 1), 0)") or None,
        )
    except apsw.CorruptError as error:
        raise StoreFailed(f"the folder that was copied has a damaged file: {error}") from error
    finally:
        for connection in found.values():
            connection.close()


def _open_copy(path: Path) -> apsw.Connection:
    """Open a database that no other process uses, without a lock or a log."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(path.absolute().as_uri() + "?immutable=1", flags=flags)


def _count(connection: apsw.Connection | None, sql: str) -> int:
    return int(connection.execute(sql).get) if connection else 0

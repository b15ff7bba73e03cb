"""Backups: a consistent copy of a cell's folder, which may be running, as a folder that a cell can be started on.

Each database is copied page by page out of one reading transaction, so the copy is of one moment and nobody waits for
it; only the log of `cell.db` cannot be begun anew meanwhile. The deliveries are copied before what they follow, so that
they are never ahead of it: what was delivered in between is delivered again, with the same id. The keys come last, with
all that was revoked. Analytics is not copied: it is made again from `cell.db`.
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
    (keys.KEYS, keys.APPLICATION_ID, len(keys.MIGRATIONS)),
)
"""In the order in which they are copied."""

COPY_CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes that are copied at a time, and then are brought to the disk: one long sync at the end would have the cell's own
commits wait behind it."""

OnProgress = Callable[[int, int], object]
"""Hears how many bytes of how many are done."""


class BackupRefused(Exception):
    """There is nothing to copy, or no room for it; the message says why. Nothing was changed."""


class Backup(Struct, frozen=True):
    """What a copy holds. `latest`: the newest entry; None where there is none."""

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
    """Copy the cell in `folder` to `target`, which appears under its name as a whole, and on the disk, or not at all.

    BackupRefused; StoreRefused where the folder's files are not a cell's, or of a newer version; StoreFailed where they
    could not be read, or the copy not be written.
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
        raise BackupRefused(f"{target} cannot be made: {error.strerror}") from error
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
    """StoreRefused where a file to be copied is not a cell's, of a newer version, or beside a log that is not its
    own."""
    for name, application, version in DATABASES:
        inspect_header(folder / name, version, application)
        try:
            refuse_foreign_wal(folder / name)
        except StoreUnusable:
            # A cell that begins its log anew in this moment may look like it.
            refuse_foreign_wal(folder / name)


def _refuse_target(target: Path) -> None:
    # A link that leads nowhere is in the way too.
    if os.path.lexists(target):
        raise BackupRefused(f"{target} is there already: name a folder that is not")
    if not target.parent.is_dir():
        raise BackupRefused(f"{target} cannot be made: {target.parent} is no folder")


def count_bytes(folder: Path) -> int:
    """Bytes that the copy may have: a log adds at the most what is in it."""
    size = 0
    for name, _, _ in DATABASES:
        for suffix in ("", "-wal"):
            # A cell that ends meanwhile takes its logs along.
            with suppress(FileNotFoundError):
                size += (folder / (name + suffix)).stat().st_size
    return size


@contextmanager
def translate_copy_errors(target: Path) -> Iterator[None]:
    """What goes wrong in making a copy: StoreFailed, or BackupRefused where somebody else made the target."""
    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        # A full disk may say either.
        raise StoreFailed(f"{target} could not be written: {error}; is the disk full?") from error
    except apsw.Error as error:
        raise StoreFailed(f"the cell could not be copied: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise BackupRefused(f"{target} is there already: somebody made it meanwhile") from error
        raise StoreFailed(f"{target} could not be written: {error.strerror}") from error


def copy_files(folder: Path, part: Path, size: int, on_progress: OnProgress, *, is_at_rest: bool = False) -> None:
    """Copy each database that there is, with what is in its log. `is_at_rest`: nobody writes to them, so one without a
    log is read without any trace of it."""
    done = 0
    for name, application, _ in DATABASES:
        if (folder / name).exists():
            for copied in _copy(folder / name, part / name, application, is_at_rest=is_at_rest):
                on_progress(done + copied, max(size, done + copied))
            done += copied


def _copy(source: Path, target: Path, application: int, *, is_at_rest: bool) -> Iterator[int]:
    """Copy one database, and tell of its bytes as they are done."""
    log = wal_identity.wal_path(source)
    has_log = log.exists() and log.stat().st_size > 0
    if is_at_rest and not has_log:
        reading = _open_copy(source)
    else:
        reading = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        reading.set_busy_timeout(BUSY_TIMEOUT_MS)
        # From the first reading on it is of one moment: else every commit would have the copy begin anew.
        reading.execute("BEGIN")
        if reading.execute("PRAGMA application_id").get != application:
            raise StoreUnusable(f"{source} is not a store of a cell: another program made it")
        page_size = int(reading.execute("PRAGMA page_size").get)
        writing = apsw.Connection(str(target))
        try:
            make_private(target)
            # What is cut off is thrown away, so it needs no journal; and it is synced here.
            writing.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            with writing.backup("main", reading, "main") as backup:
                while not backup.done:
                    begun = time.perf_counter()
                    backup.step(max(1, COPY_CHUNK_BYTES // page_size))
                    sync(target)
                    yield (backup.page_count - backup.remaining) * page_size
                    # The cell shares the disk and the processor: half of the time they are its own.
                    time.sleep(0 if backup.done or is_at_rest else time.perf_counter() - begun)
            wal_identity.clear_salt(writing)
        finally:
            writing.close()
    finally:
        reading.close()
    sync(target)


def sync(path: Path) -> None:
    """Bring a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_copy(part: Path, check: str = "quick_check") -> Backup:
    """Read the whole copy. StoreFailed where it is damaged, which its original is then too. `check`: by which PRAGMA of
    SQLite."""
    found = {name: _open_copy(part / name) for name, _, _ in DATABASES if (part / name).exists()}
    try:
        for name, connection in found.items():
            said = [str(row[0]) for row in connection.execute(f"PRAGMA {check}(1)")]
            if said != ["ok"]:
                raise StoreFailed(f"{name} is damaged, in the folder that was copied too: {said[0]}")
        # Tables and columns that each version of the store has.
        cell = found[schema.DATABASE]
        return Backup(
            sum((part / name).stat().st_size for name in found),
            _count(cell, "SELECT coalesce(max(seq), 0) FROM events"),
            _count(cell, "SELECT count(*) FROM invoices"),
            _count(cell, "SELECT coalesce(max(seq), 0) FROM transitions"),
            _count(cell, "SELECT count(*) FROM alerts"),
            _count(cell, "SELECT count(*) FROM letters"),
            _count(found.get(outbox.DATABASE), "SELECT count(*) FROM deliveries WHERE state = 'waiting'"),
            _count(found.get(keys.KEYS), "SELECT count(*) FROM keys WHERE revoked_at IS NULL"),
            _count(cell, "SELECT coalesce((SELECT recorded_at FROM transitions ORDER BY seq DESC LIMIT 1), 0)") or None,
        )
    except apsw.CorruptError as error:
        raise StoreFailed(f"the folder that was copied has a damaged file: {error}") from error
    finally:
        for connection in found.values():
            connection.close()


def _open_copy(path: Path) -> apsw.Connection:
    """Nobody else has it, so it needs neither a lock nor a log."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(path.absolute().as_uri() + "?immutable=1", flags=flags)


def _count(connection: apsw.Connection | None, sql: str) -> int:
    return int(connection.execute(sql).get) if connection else 0

"""Databases: how a file of the cell's folder is opened, brought up to date, or refused for what it is.

A file says in its header whose it is (PRAGMA application_id) and of which version (PRAGMA user_version).
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

LOCK = "cell.lock"

Migration = Callable[[apsw.Connection], Any]


class StoreRefused(Exception):
    """The store cannot be used; the message says why, and names the folder. Nothing in it was changed."""


def lock_folder(folder: Path) -> apsw.Connection:
    """The lock on a folder, held until it is closed or the process dies. StoreRefused where another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = apsw.Connection(str(folder / LOCK))
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except BaseException:
            lock.close()
            raise
    except apsw.BusyError:
        raise StoreRefused(f"{folder} is in use: another cell runs on this folder") from None
    except FileExistsError:
        raise StoreRefused(f"{folder} cannot be used: it is a file, and a folder is needed") from None
    except OSError as error:
        raise StoreRefused(f"{folder} cannot be used: {error.strerror}") from error
    except apsw.Error as error:
        raise StoreRefused(f"{folder} cannot be used: {error}") from error
    return lock


def open_database(path: Path, migrations: Sequence[Migration], application: int) -> apsw.Connection:
    """The database of that path, made or brought up to date where need be. The caller holds the folder's lock.

    The nth migration makes version n of version n - 1; `application` is its application_id.

    StoreRefused, before anything is written, where it is no store of a cell, damaged, or of a later version. A
    migration that fails leaves the version before it, and raises.
    """
    inspect_header(path, len(migrations), application)
    try:
        version = _inspect(path, len(migrations), application)
        connection = apsw.Connection(str(path))
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreRefused(f"{path} is damaged: {error}") from error
    except apsw.Error as error:
        raise StoreRefused(f"{path} cannot be opened: {error}") from error
    try:
        connection.set_busy_timeout(5_000)
        if not version:
            # Half the usual: an event changes a few rows here and there, and the log gets a page for each.
            connection.execute("PRAGMA page_size = 2048")
        _migrate(connection, version, migrations, application)
        # It says what came of it and raises nothing. In any other mode a commit might be undone by a power cut.
        if connection.execute("PRAGMA journal_mode = WAL").get != "wal":
            told = "SQLite can keep no write-ahead log there, as on a network file system: use a disk of this machine"
            raise StoreRefused(f"{path} cannot be written: {told}")
        for pragma in ("synchronous = FULL", "cache_size = -65536", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA wal_autocheckpoint = 8000")
        # A log that readers made grow gives its room back.
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # What a process wrote before it was killed may be in its log and not yet on the disk. Nobody is told of it
        # before it is: the log is synced, and then brought into the database, which can wait for room.
        with suppress(apsw.FullError):
            connection.execute("PRAGMA wal_checkpoint")
    except BaseException as error:
        connection.close()
        if isinstance(error, apsw.FullError | apsw.IOError | apsw.ReadOnlyError | apsw.CantOpenError):
            # A full disk may say either of the first two.
            hint = "; is the disk full?" if isinstance(error, apsw.IOError) else ""
            raise StoreRefused(f"{path} cannot be written: {error}{hint}") from error
        raise
    return connection


def inspect_header(path: Path, newest: int, ours: int) -> None:
    """StoreRefused for what its first hundred bytes give away (https://sqlite.org/fileformat.html), without opening it:
    it may be in use."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
        size = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreRefused(f"{path} cannot be read: {error}") from error
    if not header:
        return
    interrupted = _is_there(path, "-journal")
    if interrupted and not any(header):
        # The first page was not written yet.
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise StoreRefused(f"{path} is not a store of a cell, or it is damaged: it is no SQLite database")
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    version, application = struct.unpack(">I4xI", header[60:72])
    if application not in (0, ours):
        raise StoreRefused(f"{path} is not a store of a cell: another program made it")
    if application:
        _refuse_newer(path, version, newest)
    if size < pages * (page_size if page_size > 1 else 65536) and not interrupted and not _is_there(path, "-wal"):
        raise StoreRefused(f"{path} is damaged: it was cut short")


def _is_there(path: Path, suffix: str) -> bool:
    """Its log, or the journal of a transaction that was cut off before the log was switched on: SQLite undoes that when
    it opens the database."""
    file = path.with_name(path.name + suffix)
    return file.exists() and file.stat().st_size > 0


def _inspect(path: Path, newest: int, ours: int) -> int:
    """The version of the database, its log included; 0 for a new one. Nothing is written."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    # Without a log, SQLite is told not to make one; with one, not to bring it into the database.
    quiet = not _is_there(path, "-wal") and not _is_there(path, "-journal")
    address = path.absolute().as_uri() + ("?immutable=1" if quiet else "")
    connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        application, version = int(connection.pragma("application_id")), int(connection.pragma("user_version"))
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        if application != ours and (tables or application):
            raise StoreRefused(f"{path} is not a store of a cell: another program made it")
        _refuse_newer(path, version, newest)
        for (table,) in tables:
            connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid DESC LIMIT 1').fetchall()
        return version
    finally:
        connection.close()


def _refuse_newer(path: Path, version: int, newest: int) -> None:
    if version > newest:
        raise StoreRefused(
            f"{path} is of version {version}, and this program knows versions up to {newest}: use the newer program"
        )


def _migrate(connection: apsw.Connection, version: int, migrations: Sequence[Migration], application: int) -> None:
    """Each step in a transaction of its own, with its version. The first is made before the log is switched on, so
    that the header tells whose file it is from the beginning."""
    for number, migration in enumerate(migrations[version:], version + 1):
        with connection:
            migration(connection)
            connection.execute(f"PRAGMA application_id = {application}")
            connection.execute(f"PRAGMA user_version = {number}")

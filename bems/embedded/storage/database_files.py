"""Database files of a cell's folder: how they are opened, migrated or refused.

The header of a file holds the program that it belongs to (PRAGMA application_id) and its version (PRAGMA user_version).
"""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from bems.embedded.storage import wal_identity
from bems.embedded.storage.file_permissions import make_folder, make_private, tighten_folder
from bems.embedded.storage.wal_identity import WalOwnership, find_wal_ownership

LOCK_FILE = "cell.lock"

PARTIAL_RESTORE_PREFIX = ".restoring."
"""Prefix of the subfolder in which a restore makes its copy."""

_CELL_DATABASE = "cell.db"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

Migration = Callable[[apsw.Connection], Any]


class StoreUnusable(Exception):
    """The store cannot be used. The message says why and names the folder. Nothing in the folder was changed."""


class StoreInUse(StoreUnusable):
    """Another process has locked the folder."""


def lock_folder(folder: Path) -> apsw.Connection:
    """Lock a folder until the returned connection is closed or the process dies.

    The folder is created if it does not exist. It and the cell's files in it become accessible to their owner only.
    Raises StoreInUse if another process has locked the folder, and StoreUnusable if it cannot be a cell's.
    """
    try:
        _refuse_misplaced(folder)
        make_folder(folder)
        lock = apsw.Connection(str(folder / LOCK_FILE))
        try:
            make_private(folder / LOCK_FILE)
            lock.execute("BEGIN EXCLUSIVE")
            tighten_folder(folder)
        except BaseException:
            lock.close()
            raise
    except apsw.BusyError:
        raise StoreInUse(f"{folder} is in use: another cell runs on this folder") from None
    except FileExistsError:
        raise StoreUnusable(f"{folder} cannot be used: it is a file, and a folder is needed") from None
    except OSError as error:
        raise StoreUnusable(f"{folder} cannot be used: {error.strerror}") from error
    except apsw.Error as error:
        raise StoreUnusable(f"{folder} cannot be used: {error}") from error
    return lock


def _refuse_misplaced(folder: Path) -> None:
    """Raise StoreUnusable for a folder without a cell that holds one in a subfolder, or a partial restore.

    A new cell there would hide the one that was meant: `cp -r BACKUP FOLDER` makes FOLDER/BACKUP if FOLDER exists.
    """
    if (folder / _CELL_DATABASE).exists() or not folder.is_dir():
        return
    inner = sorted(path.parent for path in folder.glob(f"*/{_CELL_DATABASE}"))
    partial = [path for path in folder.iterdir() if path.name.startswith(PARTIAL_RESTORE_PREFIX)]
    if partial:
        raise StoreUnusable(
            f"{folder} is left from an interrupted restore ({partial[0].name}): delete the folder, and restore again"
        )
    if inner:
        raise StoreUnusable(
            f"{folder} holds no cell, but {inner[0]} does: use --store {inner[0]}, or, if that is a backup, "
            f"bems restore {inner[0]} --store FOLDER with a folder that is empty or does not exist"
        )


def open_database(path: Path, migrations: Sequence[Migration], application: int) -> apsw.Connection:
    """Open the database at `path`; create or migrate it if needed. The caller holds the folder's lock.

    The nth migration turns version n - 1 into version n. `application` is the expected application_id.

    Raises StoreUnusable, before anything is written, if the file is not a cell's, damaged, or of a newer version. A
    migration that raises leaves the version before it.
    """
    version, ownership = inspect_database(path, migrations, application)
    try:
        connection = apsw.Connection(str(path))
    except apsw.Error as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error
    try:
        make_private(path)
        connection.set_busy_timeout(5_000)
        keeps_salt = bool(version) and wal_identity.has_salt_table(connection)
        if not version:
            # Half of SQLite's default: an event changes a few scattered rows, and the log gets a page for each.
            connection.execute("PRAGMA page_size = 2048")
        if keeps_salt:
            # Before the migration, which would otherwise write to a log that the database does not know yet.
            _enable_wal(connection, path)
            _store_salt(connection, path, ownership)
        _migrate(connection, version, migrations, application)
        if not keeps_salt:
            wal_identity.create_salt_table(connection)
            _enable_wal(connection, path)
            _store_salt(connection, path, ownership)
        for pragma in ("cache_size = -65536", "temp_store = MEMORY", "wal_autocheckpoint = 8000"):
            connection.execute(f"PRAGMA {pragma}")
        # A log that grew because of readers is truncated at its next reset.
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException as error:
        connection.close()
        if isinstance(error, apsw.FullError | apsw.IOError | apsw.ReadOnlyError | apsw.CantOpenError):
            # SQLite reports a full disk as either of the first two.
            hint = "; is the disk full?" if isinstance(error, apsw.IOError) else ""
            raise StoreUnusable(f"{path} cannot be written: {error}{hint}") from error
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            raise StoreUnusable(f"{path} is damaged: {error}") from error
        raise
    return connection


def inspect_database(
    path: Path, migrations: Sequence[Migration], application: int, *, thorough: bool = False
) -> tuple[int, WalOwnership]:
    """Return the version of a database, 0 for a new one, and the ownership of its log. Nothing is written.

    `thorough` reads the whole database. The caller holds the folder's lock. Raises StoreUnusable as `open_database`.
    """
    inspect_header(path, len(migrations), application)
    ownership = refuse_foreign_wal(path)
    thorough = thorough or ownership is WalOwnership.UNKNOWN
    try:
        return _inspect(path, len(migrations), application, thorough=thorough), ownership
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreUnusable(f"{path} is damaged: {error}") from error
    except apsw.Error as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error


def _enable_wal(connection: apsw.Connection, path: Path) -> None:
    # The pragma raises nothing; it returns the resulting mode. In any other mode a power cut might undo a commit.
    if connection.execute("PRAGMA journal_mode = WAL").get != "wal":
        reason = "SQLite cannot keep a write-ahead log there, as on a network file system: use a disk of this machine"
        raise StoreUnusable(f"{path} cannot be written: {reason}")
    connection.execute("PRAGMA synchronous = FULL")


def _store_salt(connection: apsw.Connection, path: Path, ownership: WalOwnership) -> None:
    """Store the salt of the log in the database, and checkpoint the log.

    The checkpoint also syncs what a killed process left in its log, possibly not yet on disk. So nothing of it is
    reported to a caller before it is durable.
    """
    try:
        is_stored = wal_identity.store_salt(connection, path)
    except apsw.FullError:
        # A known log can wait for free space: SQLite synced it before the checkpoint.
        if ownership is not WalOwnership.OWN:
            raise
        return
    if not is_stored and ownership not in (WalOwnership.OWN, WalOwnership.UNKNOWN):
        raise StoreUnusable(
            f"{path} is being read by another process, such as a backup: start again when that has ended"
        )


def refuse_foreign_wal(path: Path) -> WalOwnership:
    """Return the ownership of the log beside a database. Raises StoreUnusable if it belongs to another database.

    SQLite would apply the foreign log to the database.
    """
    log = wal_identity.wal_path(path)
    if not path.exists() or path.stat().st_size == 0:
        if _has_side_file(path, "-wal"):
            raise StoreUnusable(
                f"{path} is missing, but {log.name}, its log, exists: put the database back, or restore a backup "
                "with bems restore into another folder. Nothing was changed"
            )
        return WalOwnership.NO_LOG
    ownership = find_wal_ownership(path)
    if ownership is WalOwnership.FOREIGN:
        raise StoreUnusable(
            f"{log} is not the log of the {path.name} beside it: one of the two was copied here without the other. "
            "Nothing was changed. Restore a backup with bems restore BACKUP --store FOLDER into an empty folder; "
            f"or, to continue from {path.name} as it is, without what is only in that log, move {log.name} away"
        )
    return ownership


def inspect_header(path: Path, newest: int, ours: int) -> None:
    """Raise StoreUnusable if the first 100 bytes show that the file cannot be used.

    For their format see https://sqlite.org/fileformat.html. SQLite does not open the file, which may be in use. `ours`
    is the expected application_id, `newest` the newest known version.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
        size = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be read: {error}") from error
    if not header:
        return
    is_interrupted = _has_side_file(path, "-journal")
    if is_interrupted and not any(header):
        # The first page was not written yet.
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise StoreUnusable(f"{path} is not a store of a cell, or it is damaged: it is not an SQLite database")
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    version, application = struct.unpack(">I4xI", header[60:72])
    if application not in (0, ours):
        raise StoreUnusable(f"{path} is not a store of a cell: another program made it")
    if application:
        _refuse_newer(path, version, newest)
    page_size = page_size if page_size > 1 else 65536
    if is_interrupted and header[18] == 2 and not _is_journal_of(path, size // page_size):
        raise StoreUnusable(
            f"{path}-journal is not the journal of the {path.name} beside it: one of the two was copied here without "
            "the other. Nothing was changed. Move the journal away, or use bems restore"
        )
    if size < pages * page_size and not is_interrupted and not _has_side_file(path, "-wal"):
        raise StoreUnusable(f"{path} is damaged: it was cut short")


def _has_side_file(path: Path, suffix: str) -> bool:
    """Return whether the database has a non-empty log (`-wal`) or journal (`-journal`).

    A journal is left from a transaction that was interrupted before the log was enabled. SQLite rolls it back when it
    opens the database.
    """
    file = path.with_name(path.name + suffix)
    return file.exists() and file.stat().st_size > 0


def _is_journal_of(path: Path, pages: int) -> bool:
    """Return whether the journal can belong to this database, which is in WAL mode and has `pages` pages.

    Its own journal is from the switch to WAL mode, which does not change the number of pages. SQLite would truncate the
    database to the size in the journal. The journal's format: https://sqlite.org/fileformat.html#the_rollback_journal
    """
    with path.with_name(f"{path.name}-journal").open("rb") as file:
        header = file.read(28)
    return not header.startswith(_JOURNAL_MAGIC) or len(header) < 28 or int.from_bytes(header[16:20], "big") == pages


def _inspect(path: Path, newest: int, ours: int, *, thorough: bool) -> int:
    """Return the version of the database including its log, 0 for a new one. Nothing is written.

    `thorough` reads all of it: where the database has no salt, only that shows that it and its log belong together.
    """
    if not path.exists() or path.stat().st_size == 0:
        return 0
    # `immutable` keeps SQLite from creating a log; NO_CKPT_ON_CLOSE keeps it from checkpointing an existing one.
    is_alone = not _has_side_file(path, "-wal") and not _has_side_file(path, "-journal")
    address = path.absolute().as_uri() + ("?immutable=1" if is_alone else "")
    connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        application, version = int(connection.pragma("application_id")), int(connection.pragma("user_version"))
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        if application != ours and (tables or application):
            raise StoreUnusable(f"{path} is not a store of a cell: another program made it")
        _refuse_newer(path, version, newest)
        message = str(connection.execute("PRAGMA quick_check(1)").get) if thorough else "ok"
        if message != "ok":
            or_log = "" if is_alone else ", or the log beside it is another database's"
            raise StoreUnusable(f"{path} is damaged{or_log}: {message.splitlines()[-1]}")
        for (table,) in tables:
            connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid DESC LIMIT 1').fetchall()
        return version
    finally:
        connection.close()


def _refuse_newer(path: Path, version: int, newest: int) -> None:
    if version > newest:
        raise StoreUnusable(
            f"{path} is of version {version}, and this program knows versions up to {newest}: use the newer program"
        )


def _migrate(connection: apsw.Connection, version: int, migrations: Sequence[Migration], application: int) -> None:
    """Run each migration in a separate transaction, together with its version number.

    The first one runs before WAL mode is enabled, so that the header names the application from the start.
    """
    for number, migration in enumerate(migrations[version:], version + 1):
        with connection:
            migration(connection)
            connection.execute(f"PRAGMA application_id = {application}")
            connection.execute(f"PRAGMA user_version = {number}")

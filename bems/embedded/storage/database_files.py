"""Databases: how a file of the cell's folder is opened, brought up to date, or refused for what it is.

A file says in its header whose it is (PRAGMA application_id) and of which version (PRAGMA user_version).
"""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from bems.embedded.storage import wal_identity
from bems.embedded.storage.file_permissions import make_folder, make_private, tighten_folder
from bems.embedded.storage.wal_identity import WalOwnership, find_wal_ownership

LOCK = "cell.lock"

PARTIAL_RESTORE_PREFIX = ".restoring."
"""What the name of a folder begins with in which a restore puts its copy together."""

_TRUTH = "cell.db"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

Migration = Callable[[apsw.Connection], Any]


class StoreUnusable(Exception):
    """The store cannot be used; the message says why, and names the folder. Nothing in it was changed."""


class StoreInUse(StoreUnusable):
    """Another process holds the folder."""


def lock_folder(folder: Path) -> apsw.Connection:
    """The lock on a folder, held until it is closed or the process dies. StoreRefused where another one has it.

    The folder is made if there is none. It and the cell's files in it are its owner's alone from here on.
    """
    try:
        _refuse_misplaced(folder)
        make_folder(folder)
        lock = apsw.Connection(str(folder / LOCK))
        try:
            make_private(folder / LOCK)
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
    """StoreRefused for a folder in which a new cell would hide the one that was meant: of `cp -r BACKUP FOLDER`, where
    FOLDER is there, comes FOLDER/BACKUP."""
    if (folder / _TRUTH).exists() or not folder.is_dir():
        return
    inner = sorted(path.parent for path in folder.glob(f"*/{_TRUTH}"))
    cut_off = [path for path in folder.iterdir() if path.name.startswith(PARTIAL_RESTORE_PREFIX)]
    if cut_off:
        raise StoreUnusable(
            f"{folder} is of a restore that was cut off ({cut_off[0].name}): delete the folder, and restore again"
        )
    if inner:
        raise StoreUnusable(
            f"{folder} holds no cell, but {inner[0]} does: use --store {inner[0]}, or, if that is a backup, "
            f"bems restore {inner[0]} --store FOLDER with a folder that is empty or not there yet"
        )


def open_database(path: Path, migrations: Sequence[Migration], application: int) -> apsw.Connection:
    """The database of that path, made or brought up to date where need be. The caller holds the folder's lock.

    The nth migration makes version n of version n - 1; `application` is its application_id.

    StoreRefused, before anything is written, where it is no store of a cell, damaged, or of a later version. A
    migration that fails leaves the version before it, and raises.
    """
    version, belonging = inspect_database(path, migrations, application)
    try:
        connection = apsw.Connection(str(path))
    except apsw.Error as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error
    try:
        make_private(path)
        connection.set_busy_timeout(5_000)
        keeps_salt = bool(version) and wal_identity.has_salt_table(connection)
        if not version:
            # Half the usual: an event changes a few rows here and there, and the log gets a page for each.
            connection.execute("PRAGMA page_size = 2048")
        if keeps_salt:
            # Before a migration, which would be written to a log of which the database does not know yet.
            _enable_wal(connection, path)
            _store_salt(connection, path, belonging)
        _migrate(connection, version, migrations, application)
        if not keeps_salt:
            wal_identity.create_salt_table(connection)
            _enable_wal(connection, path)
            _store_salt(connection, path, belonging)
        for pragma in ("cache_size = -65536", "temp_store = MEMORY", "wal_autocheckpoint = 8000"):
            connection.execute(f"PRAGMA {pragma}")
        # A log that readers made grow gives its room back.
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException as error:
        connection.close()
        if isinstance(error, apsw.FullError | apsw.IOError | apsw.ReadOnlyError | apsw.CantOpenError):
            # A full disk may say either of the first two.
            hint = "; is the disk full?" if isinstance(error, apsw.IOError) else ""
            raise StoreUnusable(f"{path} cannot be written: {error}{hint}") from error
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            raise StoreUnusable(f"{path} is damaged: {error}") from error
        raise
    return connection


def inspect_database(
    path: Path, migrations: Sequence[Migration], application: int, *, thorough: bool = False
) -> tuple[int, WalOwnership]:
    """The version of a database, 0 for a new one, and whose its log is. StoreRefused as in `open_database`; nothing is
    written. `thorough`: all of it is read. The caller holds the folder's lock."""
    inspect_header(path, len(migrations), application)
    belonging = refuse_foreign_wal(path)
    thorough = thorough or belonging is WalOwnership.UNKNOWN
    try:
        return _inspect(path, len(migrations), application, thorough=thorough), belonging
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreUnusable(f"{path} is damaged: {error}") from error
    except apsw.Error as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error


def _enable_wal(connection: apsw.Connection, path: Path) -> None:
    # It says what came of it and raises nothing. In any other mode a commit might be undone by a power cut.
    if connection.execute("PRAGMA journal_mode = WAL").get != "wal":
        told = "SQLite can keep no write-ahead log there, as on a network file system: use a disk of this machine"
        raise StoreUnusable(f"{path} cannot be written: {told}")
    connection.execute("PRAGMA synchronous = FULL")


def _store_salt(connection: apsw.Connection, path: Path, belonging: WalOwnership) -> None:
    """Have the database know its log. That also brings what a process wrote before it was killed, and what may be in
    its log and not yet on the disk, into the database: nobody is told of it before it is on the disk."""
    try:
        is_kept = wal_identity.store_salt(connection, path)
    except apsw.FullError:
        # A log that the database knows can wait for room: it was synced first.
        if belonging is not WalOwnership.OWN:
            raise
        return
    if not is_kept and belonging not in (WalOwnership.OWN, WalOwnership.UNKNOWN):
        raise StoreUnusable(
            f"{path} is being read by another process, such as a backup: start again when that has ended"
        )


def refuse_foreign_wal(path: Path) -> WalOwnership:
    """Whether the log beside a database is its own. StoreRefused where it is another one's: SQLite would bring it into
    the database."""
    log = wal_identity.wal_path(path)
    if not path.exists() or path.stat().st_size == 0:
        if _has_side_file(path, "-wal"):
            raise StoreUnusable(
                f"{path} is missing, and {log.name}, its log, is there: put the database back, or restore a backup "
                "with bems restore into another folder. Nothing was changed"
            )
        return WalOwnership.NO_LOG
    belonging = find_wal_ownership(path)
    if belonging is WalOwnership.FOREIGN:
        raise StoreUnusable(
            f"{log} is not the log of the {path.name} beside it: one of the two was copied here without the other. "
            "Nothing was changed. Restore a backup with bems restore BACKUP --store FOLDER into an empty folder; "
            f"or, to go on from {path.name} as it is, without what is only in that log, move {log.name} away"
        )
    return belonging


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
        raise StoreUnusable(f"{path} cannot be read: {error}") from error
    if not header:
        return
    interrupted = _has_side_file(path, "-journal")
    if interrupted and not any(header):
        # The first page was not written yet.
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise StoreUnusable(f"{path} is not a store of a cell, or it is damaged: it is no SQLite database")
    page_size, pages = struct.unpack(">H", header[16:18])[0], struct.unpack(">I", header[28:32])[0]
    version, application = struct.unpack(">I4xI", header[60:72])
    if application not in (0, ours):
        raise StoreUnusable(f"{path} is not a store of a cell: another program made it")
    if application:
        _refuse_newer(path, version, newest)
    page_size = page_size if page_size > 1 else 65536
    if interrupted and header[18] == 2 and not _is_journal_of(path, size // page_size):
        raise StoreUnusable(
            f"{path}-journal is not the journal of the {path.name} beside it: one of the two was copied here without "
            "the other. Nothing was changed. Move the journal away, or use bems restore"
        )
    if size < pages * page_size and not interrupted and not _has_side_file(path, "-wal"):
        raise StoreUnusable(f"{path} is damaged: it was cut short")


def _has_side_file(path: Path, suffix: str) -> bool:
    """Its log, or the journal of a transaction that was cut off before the log was switched on: SQLite undoes that when
    it opens the database."""
    file = path.with_name(path.name + suffix)
    return file.exists() and file.stat().st_size > 0


def _is_journal_of(path: Path, pages: int) -> bool:
    """Whether a journal may be of that database, which has a log: then it is of the switch to it, in which a database
    has the size that it had. SQLite would cut it to the size that the journal tells."""
    with path.with_name(f"{path.name}-journal").open("rb") as file:
        header = file.read(28)
    return not header.startswith(_JOURNAL_MAGIC) or len(header) < 28 or int.from_bytes(header[16:20], "big") == pages


def _inspect(path: Path, newest: int, ours: int, *, thorough: bool) -> int:
    """The version of the database, its log included; 0 for a new one. Nothing is written. `thorough`: read all of it,
    for nothing else tells that the two belong together."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    # Without a log, SQLite is told not to make one; with one, not to bring it into the database.
    quiet = not _has_side_file(path, "-wal") and not _has_side_file(path, "-journal")
    address = path.absolute().as_uri() + ("?immutable=1" if quiet else "")
    connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        application, version = int(connection.pragma("application_id")), int(connection.pragma("user_version"))
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        if application != ours and (tables or application):
            raise StoreUnusable(f"{path} is not a store of a cell: another program made it")
        _refuse_newer(path, version, newest)
        said = str(connection.execute("PRAGMA quick_check(1)").get) if thorough else "ok"
        if said != "ok":
            or_log = "" if quiet else ", or the log beside it is another database's"
            raise StoreUnusable(f"{path} is damaged{or_log}: {said.splitlines()[-1]}")
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
    """Each step in a transaction of its own, with its version. The first is made before the log is switched on, so
    that the header tells whose file it is from the beginning."""
    for number, migration in enumerate(migrations[version:], version + 1):
        with connection:
            migration(connection)
            connection.execute(f"PRAGMA application_id = {application}")
            connection.execute(f"PRAGMA user_version = {number}")

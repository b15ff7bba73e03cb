"""Ownership of a write-ahead log. SQLite applies any log beside a database, even one of another database.

The header of a log holds a salt. It is random in a new log, and grows by one each time the log is reset
(https://sqlite.org/fileformat2.html#walformat, and walRestartHdr in wal.c). So the database stores the salt of its log
in the table `log_identity`: each start writes it there, and checkpoints it, before anything else is written. A log
belongs to the database if its salt is the stored one or one of the next ones. It also belongs to it if it holds nothing
but that row, as after an interrupted start. A backup stores no salt, because no log belongs to it.

One case is not detected: a file `cell.db` that was copied alone while its cell ran has that cell's salt. Beside a log
of the same start it is taken for the result of a crash.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import apsw

SALT_TABLE = "log_identity"

UPDATE_SALT_EVERY_COMMITS = 10_000
"""Number of commits after which a running cell stores the salt again. Between two commits the log is reset at most
twice: by a reader, and by the second commit."""

_MAX_AHEAD = 1 << 16
"""Maximum difference between the salt of a log and the stored one. The salt of another log lies within it with a
probability of 1 in 65,536."""

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)


class WalOwnership(Enum):
    """Whether the log beside a database belongs to it."""

    NO_LOG = "there is no log, or SQLite finds nothing in it"
    OWN = "its salt follows the stored salt"
    STARTING = "it holds nothing but the salt row of an interrupted start"
    FOREIGN = "it belongs to another database or to another time of this one"
    UNKNOWN = "the database is from a version that stored no salt"


class _Header(NamedTuple):
    salt: int
    salts: bytes
    page_bytes: int


def wal_path(database: Path) -> Path:
    """Return the path where SQLite keeps the log of a database."""
    return database.with_name(f"{database.name}-wal")


def find_wal_ownership(database: Path) -> WalOwnership:
    """Return the ownership of the log beside a database. Nothing is written, and SQLite does not apply the log."""
    log = wal_path(database)
    header = _read_header(log)
    if header is None:
        return WalOwnership.NO_LOG
    try:
        stored, root = _read_stored_salt(database)
    except apsw.Error:
        # After an interrupted checkpoint the database may be readable only together with its log.
        return WalOwnership.UNKNOWN
    if root is None:
        return WalOwnership.UNKNOWN
    if stored is not None and (header.salt - stored) % (1 << 32) < _MAX_AHEAD:
        return WalOwnership.OWN
    if all(page == root for page in _read_page_numbers(log, header)):
        return WalOwnership.STARTING
    return WalOwnership.FOREIGN


def _read_header(log: Path) -> _Header | None:
    """Return the log's header, or None if SQLite finds nothing in the log.

    That is so if its first frame is incomplete or left from before a reset.
    """
    try:
        with log.open("rb") as file:
            content = file.read(_HEADER_BYTES + _FRAME_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(content) < _HEADER_BYTES + _FRAME_HEADER_BYTES:
        return None
    magic, _, page_bytes, _, salt = struct.unpack(">5I", content[:20])
    salts = content[16:24]
    if size < _HEADER_BYTES + _FRAME_HEADER_BYTES + page_bytes:
        return None
    if magic not in _MAGIC or _checksum(content[:24], magic) != content[24:32]:
        return None
    if content[_HEADER_BYTES + 8 : _HEADER_BYTES + 16] != salts:
        return None
    return _Header(salt, salts, page_bytes)


def _checksum(content: bytes, magic: int) -> bytes:
    """Return the checksum that the file format defines: over pairs of words in the byte order of the magic number."""
    first = second = 0
    for one, other in struct.iter_unpack(">II" if magic & 1 else "<II", content):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.pack(">II", first, second)


def _read_page_numbers(log: Path, header: _Header) -> Iterator[int]:
    """Yield the page number of each frame in a log."""
    offset = _HEADER_BYTES
    with log.open("rb") as file:
        while True:
            file.seek(offset)
            frame = file.read(_FRAME_HEADER_BYTES)
            if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != header.salts:
                return
            yield int.from_bytes(frame[:4], "big")
            offset += _FRAME_HEADER_BYTES + header.page_bytes


def _read_stored_salt(database: Path) -> tuple[int | None, int | None]:
    """Return the salt in the database file, ignoring the log, and the page number of its table. Each may be None."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(database.absolute().as_uri() + "?immutable=1", flags=flags)
    try:
        root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (SALT_TABLE,)).get
        salt: Any = connection.execute(f"SELECT salt FROM {SALT_TABLE}").get if root else None
        return salt, root
    finally:
        connection.close()


# -- the caller of these functions holds the lock on the folder


def has_salt_table(connection: apsw.Connection) -> bool:
    """Return whether the database has the table for the salt."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (SALT_TABLE,)).get)


def create_salt_table(connection: apsw.Connection) -> None:
    """Create the table with its one row, on a separate page.

    `starts` is increased with each write: SQLite would not write an unchanged row to the log.
    """
    with connection:
        connection.execute(f"CREATE TABLE {SALT_TABLE} (salt INTEGER, starts INTEGER NOT NULL) STRICT")
        connection.execute(f"INSERT INTO {SALT_TABLE} VALUES (NULL, 0)")


def store_salt(connection: apsw.Connection, database: Path) -> bool:
    """Store the salt of the current log, truncate the log, and return whether the database file has the salt now.

    Afterwards this connection only increases the salt: SQLite makes a random salt only for a connection that has not
    reset the log itself yet. Raises apsw.Error if the salt cannot be written.
    """
    # This write makes the log one of this connection: a log without valid frames may still have its old salt.
    connection.execute(f"UPDATE {SALT_TABLE} SET starts = starts + 1")
    update_salt(connection, database)
    [(is_busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return not is_busy


def update_salt(connection: apsw.Connection, database: Path) -> None:
    """Write the salt of the current log to the table, within the current transaction if there is one."""
    header = _read_header(wal_path(database))
    if header is not None:
        connection.execute(f"UPDATE {SALT_TABLE} SET salt = ?, starts = starts + 1", (header.salt,))


def clear_salt(connection: apsw.Connection) -> None:
    """Remove the salt from a copy, because no log belongs to it."""
    with suppress(apsw.SQLError):
        connection.execute(f"UPDATE {SALT_TABLE} SET salt = NULL")

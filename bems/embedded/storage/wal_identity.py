"""Whose a write-ahead log is. SQLite applies any log that lies beside a database, another database's too.

The header of a log holds a salt: random in a new log, and one more each time the log is begun anew
(https://sqlite.org/fileformat2.html#walformat, and walRestartHdr in wal.c). So the database itself keeps a salt of its
log, in the table `log_identity`: each start writes it there, and has it checkpointed, before anything else is written.
A log belongs to the database if its salt is that one, or one of the next; or if it holds nothing but that row, as after
a start that was cut off. A backup keeps no salt, for no log belongs to it.

What this cannot tell: a file `cell.db` that was copied, alone, from under a running cell has that cell's salt. Beside a
log of the same start it is taken for what a crash left.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import apsw

TABLE = "log_identity"

UPDATE_SALT_EVERY_COMMITS = 10_000
"""So often a cell that runs writes the salt again. A commit begins the log anew once, and a reader once before it."""

_MAX_AHEAD = 1 << 16
"""So far the salt of a log may be ahead of the one in the database. That of another log is so by a chance of 1 in
65,536."""

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)


class WalOwnership(Enum):
    """Whether the log beside a database is its own."""

    NO_LOG = "there is none, or SQLite sees nothing in it"
    OWN = "it goes on from the salt that the database keeps"
    STARTING = "it holds nothing but the row of a start that was cut off"
    FOREIGN = "it is another database's, or of another time"
    UNKNOWN = "the database keeps no salt, as before there was the table"


class _Header(NamedTuple):
    salt: int
    salts: bytes
    page_bytes: int


def wal_path(database: Path) -> Path:
    """Where SQLite keeps the log of a database."""
    return database.with_name(f"{database.name}-wal")


def find_wal_ownership(database: Path) -> WalOwnership:
    """Read both files, without SQLite's bringing them together. Nothing is written."""
    log = wal_path(database)
    header = _read_header(log)
    if header is None:
        return WalOwnership.NO_LOG
    try:
        kept, root = _read_kept(database)
    except apsw.Error:
        # A checkpoint that was cut off may leave a database that only makes sense with its log.
        return WalOwnership.UNKNOWN
    if root is None:
        return WalOwnership.UNKNOWN
    if kept is not None and (header.salt - kept) % (1 << 32) < _MAX_AHEAD:
        return WalOwnership.OWN
    if all(page == root for page in _pages(log, header)):
        return WalOwnership.STARTING
    return WalOwnership.FOREIGN


def _read_header(log: Path) -> _Header | None:
    """None where SQLite finds nothing in the log: its first frame is not there as a whole, or of an earlier log."""
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
    """As the file format has it, over pairs of words, whose byte order the magic number tells."""
    first = second = 0
    for one, other in struct.iter_unpack(">II" if magic & 1 else "<II", content):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.pack(">II", first, second)


def _pages(log: Path, header: _Header) -> Iterator[int]:
    """The numbers of the pages in a log, frame by frame."""
    offset = _HEADER_BYTES
    with log.open("rb") as file:
        while True:
            file.seek(offset)
            frame = file.read(_FRAME_HEADER_BYTES)
            if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != header.salts:
                return
            yield int.from_bytes(frame[:4], "big")
            offset += _FRAME_HEADER_BYTES + header.page_bytes


def _read_kept(database: Path) -> tuple[int | None, int | None]:
    """The salt in the database's file, its log left out, and the page that it is on; None where there is none."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(database.absolute().as_uri() + "?immutable=1", flags=flags)
    try:
        root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (TABLE,)).get
        salt: Any = connection.execute(f"SELECT salt FROM {TABLE}").get if root else None
        return salt, root
    finally:
        connection.close()


# -- for whoever holds the database's folder


def has_salt_table(connection: apsw.Connection) -> bool:
    """Whether the database keeps a salt already, or a place for it."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (TABLE,)).get)


def create_salt_table(connection: apsw.Connection) -> None:
    """One row, on a page of its own. `starts` makes each write another one than the last, so that it is written."""
    with connection:
        connection.execute(f"CREATE TABLE {TABLE} (salt INTEGER, starts INTEGER NOT NULL) STRICT")
        connection.execute(f"INSERT INTO {TABLE} VALUES (NULL, 0)")


def store_salt(connection: apsw.Connection, database: Path) -> bool:
    """Write the salt of the present log into the database, and begin the log anew; whether the database's own file has
    it. apsw.Error where it cannot be written.

    From here on this connection only counts the salt up: SQLite makes a new one as long as a connection has not begun
    its log anew itself.
    """
    # So that there is a log of this connection's: one in which nothing is valid may still have its old salt.
    connection.execute(f"UPDATE {TABLE} SET starts = starts + 1")
    update_salt(connection, database)
    [(is_busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return not is_busy


def update_salt(connection: apsw.Connection, database: Path) -> None:
    """Write the salt of the present log, in the transaction that was begun, if one was."""
    header = _read_header(wal_path(database))
    if header is not None:
        connection.execute(f"UPDATE {TABLE} SET salt = ?, starts = starts + 1", (header.salt,))


def clear_salt(connection: apsw.Connection) -> None:
    """Of a copy, to which no log belongs."""
    with suppress(apsw.SQLError):
        connection.execute(f"UPDATE {TABLE} SET salt = NULL")

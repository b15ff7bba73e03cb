"""Changes to database files that make them unusable for a cell."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import apsw


def make_newer(path: Path) -> None:
    """Give the database a version that no program knows."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def put_foreign_database(path: Path) -> None:
    """Replace the file with the database of another program."""
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('https://example.com')")
    connection.close()


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def corrupt_header(path: Path) -> None:
    path.write_bytes(b"x" * 5000)


def corrupt_pages(path: Path) -> None:
    """Overwrite eight pages in the middle."""

    def overwrite(content: bytearray) -> None:
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 8 * 4096] = b"\xff" * (8 * 4096)

    rewrite(path, overwrite)

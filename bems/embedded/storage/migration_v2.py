"""Repacking: version 2 of the store, whose values are all compressed against dictionaries that were learned from it.

Version 1 compressed with zlib what was kept for good, against the dictionaries for a new store.
"""

import zlib
from collections.abc import Callable
from typing import cast

import apsw

from bems.embedded.storage.codec import KINDS
from bems.embedded.storage.compression import TRAINING_SAMPLES, DictionaryCompressor

_PLAIN = b"\0"
_BITS = -12
_TABLES = {
    "event": ("events", "seq", "body"),
    "transition": ("transitions", "seq", "body"),
    "record": ("invoices", "number", "record"),
    "execution": ("executions", "number", "body"),
}
"""Table, key and column of a kind of value."""

_DICTIONARIES = """CREATE TABLE dictionaries (
    kind TEXT, number INTEGER, content BLOB NOT NULL, PRIMARY KEY (kind, number)
) STRICT"""

_SOMETIMES = ("record", "execution")
"""Kinds of which a byte told whether it was compressed."""


def migrate_to_v2(connection: apsw.Connection) -> None:
    """Write every value of version 1 anew. It takes some ten microseconds a value."""
    old = dict(connection.execute("SELECT kind, content FROM dictionaries"))
    connection.execute("DROP TABLE dictionaries")
    connection.execute(_DICTIONARIES)
    for kind in KINDS:
        table, key, column = _TABLES[kind]
        read, press = _reader(kind, old[kind]), DictionaryCompressor({0: old[kind]}, dict)
        connection.execute("INSERT INTO dictionaries VALUES (?, 0, ?)", (kind, old[kind]))
        newest = connection.execute(
            f"SELECT {column} FROM {table} ORDER BY {key} DESC LIMIT {TRAINING_SAMPLES}"
        ).fetchall()
        press.compress([read(cast(bytes, content)) for (content,) in newest])
        dictionary = press.next_dictionary()
        if dictionary:
            connection.execute("INSERT INTO dictionaries VALUES (?, ?, ?)", (kind, *dictionary))
            press.use_dictionary(*dictionary)
        last = -1
        select = f"SELECT {key}, {column} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 10000"
        while rows := cast("list[tuple[int, bytes]]", connection.execute(select, (last,)).fetchall()):
            last = rows[-1][0]
            repacked = press.compress([read(content) for _, content in rows])
            pairs = zip(repacked, (number for number, _ in rows), strict=True)
            connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", pairs)


def _reader(kind: str, dictionary: bytes) -> Callable[[bytes], bytes]:
    def unpress(content: bytes) -> bytes:
        return zlib.decompressobj(_BITS, zdict=dictionary).decompress(content)

    if kind not in _SOMETIMES:
        return unpress
    return lambda content: content[1:] if content[:1] == _PLAIN else unpress(content[1:])

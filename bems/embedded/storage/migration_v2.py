"""Migration to version 2, which compresses every value with dictionaries trained on the store's own values.

Version 1 compressed with zlib and the seed dictionaries, and only values that do not change any more.
"""

import zlib
from collections.abc import Callable
from typing import cast

import apsw

from bems.embedded.storage.codec import KINDS
from bems.embedded.storage.compression import TRAINING_SAMPLES, DictionaryCompressor

_PLAIN = b"\0"
"""First byte of a value of `_FLAGGED_KINDS` that is not compressed."""

_WINDOW_BITS = -12
"""Negative: a raw deflate stream, without a zlib header."""

_TABLES = {
    "event": ("events", "seq", "body"),
    "transition": ("transitions", "seq", "body"),
    "record": ("invoices", "number", "record"),
    "execution": ("executions", "number", "body"),
}
"""Table, key column and value column of each kind."""

_DICTIONARIES = """CREATE TABLE dictionaries (
    kind TEXT, number INTEGER, content BLOB NOT NULL, PRIMARY KEY (kind, number)
) STRICT"""

_FLAGGED_KINDS = ("record", "execution")
"""Kinds whose values began with a byte that said whether the rest was compressed."""


def migrate_to_v2(connection: apsw.Connection) -> None:
    """Recompress every value of version 1. It takes about ten microseconds per value."""
    old = dict(connection.execute("SELECT kind, content FROM dictionaries"))
    connection.execute("DROP TABLE dictionaries")
    connection.execute(_DICTIONARIES)
    for kind in KINDS:
        table, key, column = _TABLES[kind]
        read, compressor = _reader(kind, old[kind]), DictionaryCompressor({0: old[kind]}, dict)
        connection.execute("INSERT INTO dictionaries VALUES (?, 0, ?)", (kind, old[kind]))
        newest = connection.execute(
            f"SELECT {column} FROM {table} ORDER BY {key} DESC LIMIT {TRAINING_SAMPLES}"
        ).fetchall()
        compressor.compress([read(cast(bytes, content)) for (content,) in newest])
        dictionary = compressor.next_dictionary()
        if dictionary:
            connection.execute("INSERT INTO dictionaries VALUES (?, ?, ?)", (kind, *dictionary))
            compressor.use_dictionary(*dictionary)
        last = -1
        select = f"SELECT {key}, {column} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 10000"
        while rows := cast("list[tuple[int, bytes]]", connection.execute(select, (last,)).fetchall()):
            last = rows[-1][0]
            recompressed = compressor.compress([read(content) for _, content in rows])
            pairs = zip(recompressed, (number for number, _ in rows), strict=True)
            connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", pairs)


def _reader(kind: str, dictionary: bytes) -> Callable[[bytes], bytes]:
    """Return the function that decompresses a value of version 1."""

    def decompress(content: bytes) -> bytes:
        return zlib.decompressobj(_WINDOW_BITS, zdict=dictionary).decompress(content)

    if kind not in _FLAGGED_KINDS:
        return decompress
    return lambda content: content[1:] if content[:1] == _PLAIN else decompress(content[1:])

"""Compression of single values with a shared dictionary.

Zstandard trains a dictionary on values of this store. It holds the names of the store's vendors and systems, so that a
value shrinks to a quarter of its size and takes a microsecond to compress. A new store has a seed dictionary (see
`seed_dictionaries`). The first byte of a compressed value is the number of its dictionary. Dictionaries are never
deleted.
"""

from collections.abc import Callable
from typing import cast

import zstandard

TRAINING_SAMPLES = 1_000
"""Number of values on which a dictionary is trained. One training takes 10 to 50 ms."""

FIRST_TRAINING_AFTER_VALUES, NEXT_TRAINING_AFTER_VALUES = TRAINING_SAMPLES, 100 * TRAINING_SAMPLES
"""Number of values after which the first dictionary is trained in a store with only the seed dictionary, and in any
other store. The number grows tenfold with each training, because the values that are sent may change."""

MIN_MULTI_COMPRESS_VALUES = 24
"""Minimum number of values that are compressed in one call. One call costs 10 microseconds more, and is cheaper from
about twice this number on. Each call releases Python's global interpreter lock, so another thread may take it."""

DICTIONARY_BYTES = 16 * 1024
MAX_DICTIONARIES = 255
COMPRESSION_LEVEL = 1


class DictionaryCompressor:
    """Compresses with the newest of the dictionaries, which are given by number. `reload` reads them again."""

    def __init__(self, dictionaries: dict[int, bytes], reload: Callable[[], dict[int, bytes]]) -> None:
        self._reload = reload
        self._decompressors = {number: _decompressor(content) for number, content in dictionaries.items()}
        self._samples: list[bytes | bytearray | memoryview] = []
        self._trained = b""
        self._compressed = 0
        self._newest = max(dictionaries)
        self._training_due_at = NEXT_TRAINING_AFTER_VALUES if self._newest else FIRST_TRAINING_AFTER_VALUES
        self._prepare(dictionaries[self._newest])

    def _prepare(self, content: bytes) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            COMPRESSION_LEVEL,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=1,
            write_dict_id=0,
            write_checksum=0,
        )
        dictionary = zstandard.ZstdCompressionDict(content)
        dictionary.precompute_compress(compression_params=parameters)
        self._compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
        self._head = bytes((self._newest,))

    def compress(self, contents: list[bytes]) -> list[bytes]:
        """Compress each value alone."""
        self._compressed += len(contents)
        if self._compressed > self._training_due_at - TRAINING_SAMPLES:
            self._samples += contents[: TRAINING_SAMPLES - len(self._samples)]
        head = self._head
        if len(contents) < MIN_MULTI_COMPRESS_VALUES:
            return [head + self._compressor.compress(content) for content in contents]
        compressed = self._compressor.multi_compress_to_buffer(cast("list[bytes | bytearray | memoryview]", contents))
        return [head + compressed[number].tobytes() for number in range(len(contents))]

    def decompress(self, content: bytes) -> bytes:
        """Return the original value. Raises KeyError if its dictionary is not in the store."""
        number = content[0]
        if number not in self._decompressors:
            self._decompressors = {number: _decompressor(content) for number, content in self._reload().items()}
        return self._decompressors[number].decompress(memoryview(content)[1:])

    def next_dictionary(self) -> tuple[int, bytes] | None:
        """Return number and content of a new dictionary if one is due, else None.

        Repeated calls return the same dictionary until `use_dictionary`.
        """
        if self._compressed < self._training_due_at or self._newest == MAX_DICTIONARIES:
            return None
        if not self._trained:
            try:
                self._trained = zstandard.train_dictionary(DICTIONARY_BYTES, self._samples).as_bytes()
            except zstandard.ZstdError:
                # The samples have too little in common.
                self._schedule_next_training()
                return None
        return self._newest + 1, self._trained

    def use_dictionary(self, number: int, content: bytes) -> None:
        """Compress with this dictionary from now on."""
        self._newest = number
        self._decompressors[number] = _decompressor(content)
        self._prepare(content)
        self._schedule_next_training()

    def _schedule_next_training(self) -> None:
        self._samples, self._trained = [], b""
        self._training_due_at *= 10


def _decompressor(content: bytes) -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(
        dict_data=zstandard.ZstdCompressionDict(content), format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )

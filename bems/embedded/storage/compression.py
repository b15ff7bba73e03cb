"""The press: how values of one kind are compressed, each for itself, against what they have in common.

That is a dictionary, made by Zstandard from values of this very store: the names of its vendors and systems are in it,
so that a value takes a quarter of the room and a microsecond. A new store has one that was made without having seen
any (`dictionaries`). Every value says by its first byte which one it was written against; none is ever taken away.
"""

from collections.abc import Callable
from typing import cast

import zstandard

TRAINING_SAMPLES = 1_000
"""So many values make a dictionary: it takes 10 to 50 ms, once."""

FIRST_TRAINING_AFTER_VALUES, NEXT_TRAINING_AFTER_VALUES = TRAINING_SAMPLES, 100 * TRAINING_SAMPLES
"""After so many values a dictionary is made where there is only the one for a new store, and elsewhere; and then again
after every ten times as many, for what is sent may change."""

MIN_MULTI_COMPRESS_VALUES = 24
"""So many values are compressed in one call. That takes 10 microseconds more, and is cheaper from about twice that many
on: around each call Python's lock is given up, and another thread may take it."""

DICTIONARY_BYTES = 16 * 1024
MAX_DICTIONARIES = 255
COMPRESSION_LEVEL = 1


class DictionaryCompressor:
    """Compresses against the newest of the dictionaries, which are given by number; `read` reads them anew."""

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
        """Each of them compressed for itself."""
        self._compressed += len(contents)
        if self._compressed > self._training_due_at - TRAINING_SAMPLES:
            self._samples += contents[: TRAINING_SAMPLES - len(self._samples)]
        head = self._head
        if len(contents) < MIN_MULTI_COMPRESS_VALUES:
            return [head + self._compressor.compress(content) for content in contents]
        pressed = self._compressor.multi_compress_to_buffer(cast("list[bytes | bytearray | memoryview]", contents))
        return [head + pressed[number].tobytes() for number in range(len(contents))]

    def decompress(self, content: bytes) -> bytes:
        """KeyError where its dictionary is not in the store."""
        number = content[0]
        if number not in self._decompressors:
            self._decompressors = {number: _decompressor(content) for number, content in self._reload().items()}
        return self._decompressors[number].decompress(memoryview(content)[1:])

    def next_dictionary(self) -> tuple[int, bytes] | None:
        """Number and content of a better dictionary, if it is time for one: the same until it is adopted."""
        if self._compressed < self._training_due_at or self._newest == MAX_DICTIONARIES:
            return None
        if not self._trained:
            try:
                self._trained = zstandard.train_dictionary(DICTIONARY_BYTES, self._samples).as_bytes()
            except zstandard.ZstdError:
                # They have too little in common.
                self._schedule_next_training()
                return None
        return self._newest + 1, self._trained

    def use_dictionary(self, number: int, content: bytes) -> None:
        """Compress against this one from now on."""
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

"""Compression with dictionaries that are trained on the store's own values. Every value stays readable."""

from random import Random

import pytest

from bems.embedded.storage.compression import NEXT_TRAINING_AFTER_VALUES, TRAINING_SAMPLES, DictionaryCompressor

SEED = b"the dictionary of a new store"
RANDOM = Random(5)
VENDORS = [f"vendor {number} of {RANDOM.randbytes(12).hex()}" for number in range(40)]


def value(number: int) -> bytes:
    return f"event {number}: {VENDORS[number % 40]} sent it by way of {VENDORS[number * 7 % 40]}".encode()


def never_reload() -> dict[int, bytes]:
    raise AssertionError("every dictionary is known")


@pytest.mark.parametrize("content", [b"", b"x", value(1), bytes(100_000), RANDOM.randbytes(3_000)])
def test_compressed_values_can_be_decompressed(content: bytes) -> None:
    compressor = DictionaryCompressor({0: SEED}, never_reload)
    assert compressor.decompress(*compressor.compress([content])) == content


def test_no_dictionary_is_trained_on_too_few_values() -> None:
    compressor = DictionaryCompressor({0: SEED}, never_reload)
    for number in range(TRAINING_SAMPLES - 1):
        compressor.compress([value(number)])
        assert compressor.next_dictionary() is None
    compressor.compress([value(TRAINING_SAMPLES)])
    assert compressor.next_dictionary() is not None


def test_a_trained_dictionary_shrinks_values_and_older_ones_stay_readable() -> None:
    compressor = DictionaryCompressor({0: SEED}, never_reload)
    before = compressor.compress([value(number) for number in range(TRAINING_SAMPLES)])
    trained = compressor.next_dictionary()
    assert trained and trained[0] == 1
    # No value is compressed with it until the store has it, which may take a while.
    assert compressor.compress([value(1)])[0][0] == 0
    assert compressor.next_dictionary() == trained
    compressor.use_dictionary(*trained)
    after = compressor.compress([value(number) for number in range(TRAINING_SAMPLES)])
    assert sum(map(len, after)) < sum(map(len, before)) / 3
    assert [compressor.decompress(one) for one in before + after] == [
        value(number) for number in range(TRAINING_SAMPLES)
    ] * 2
    assert compressor.next_dictionary() is None


def test_a_newer_dictionary_is_reloaded_from_the_store() -> None:
    dictionaries = {0: SEED}
    reading, writing = (
        DictionaryCompressor(dictionaries, lambda: dictionaries),
        DictionaryCompressor(dictionaries, never_reload),
    )
    for number in range(TRAINING_SAMPLES):
        writing.compress([value(number)])
    number, content = writing.next_dictionary() or (0, b"")
    writing.use_dictionary(number, content)
    [compressed] = writing.compress([value(3)])
    with pytest.raises(KeyError):
        reading.decompress(compressed)
    dictionaries = {0: SEED, number: content}
    assert reading.decompress(compressed) == value(3)
    assert DictionaryCompressor(dictionaries, never_reload).decompress(compressed) == value(3)


def test_a_later_dictionary_is_trained_on_the_newest_values() -> None:
    compressor = DictionaryCompressor({0: SEED, 1: b"an earlier dictionary"}, never_reload)
    for number in range(NEXT_TRAINING_AFTER_VALUES - TRAINING_SAMPLES):
        compressor.compress([b"of old times %d" % number])
    assert compressor.next_dictionary() is None
    for number in range(TRAINING_SAMPLES):
        compressor.compress([value(number)])
    trained = compressor.next_dictionary()
    assert trained and trained[0] == 2 and b"of old times" not in trained[1] and b"vendor" in trained[1]


def test_no_dictionary_is_trained_on_values_without_common_content() -> None:
    compressor = DictionaryCompressor({0: SEED}, never_reload)
    for _ in range(TRAINING_SAMPLES):
        compressor.compress([b""])
    assert compressor.next_dictionary() is None


def test_the_number_of_dictionaries_is_bounded() -> None:
    compressor = DictionaryCompressor(dict.fromkeys(range(256), SEED), never_reload)
    for number in range(NEXT_TRAINING_AFTER_VALUES):
        compressor.compress([value(number)])
    assert compressor.next_dictionary() is None

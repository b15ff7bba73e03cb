"""Values are written against dictionaries that the store learns from its own, and each can be read for ever."""

from random import Random

import pytest

from bems.embedded.storage.compression import NEXT_TRAINING_AFTER_VALUES, TRAINING_SAMPLES, DictionaryCompressor

FIRST = b"what a new store has"
RANDOM = Random(5)
VENDORS = [f"vendor {number} of {RANDOM.randbytes(12).hex()}" for number in range(40)]


def value(number: int) -> bytes:
    return f"event {number}: {VENDORS[number % 40]} sent it by way of {VENDORS[number * 7 % 40]}".encode()


def missing() -> dict[int, bytes]:
    raise AssertionError("nothing is missing")


@pytest.mark.parametrize("content", [b"", b"x", value(1), bytes(100_000), RANDOM.randbytes(3_000)])
def test_what_is_pressed_can_be_read(content: bytes) -> None:
    press = DictionaryCompressor({0: FIRST}, missing)
    assert press.decompress(*press.compress([content])) == content


def test_nothing_is_learned_from_too_few() -> None:
    press = DictionaryCompressor({0: FIRST}, missing)
    for number in range(TRAINING_SAMPLES - 1):
        press.compress([value(number)])
        assert press.next_dictionary() is None
    press.compress([value(TRAINING_SAMPLES)])
    assert press.next_dictionary()


def test_what_was_learned_makes_values_small_and_what_came_before_is_still_read() -> None:
    press = DictionaryCompressor({0: FIRST}, missing)
    before = press.compress([value(number) for number in range(TRAINING_SAMPLES)])
    lesson = press.next_dictionary()
    assert lesson and lesson[0] == 1
    # Until it is kept, nothing is written against it; and it may be a while before it can be.
    assert press.compress([value(1)])[0][0] == 0
    assert press.next_dictionary() == lesson
    press.use_dictionary(*lesson)
    after = press.compress([value(number) for number in range(TRAINING_SAMPLES)])
    assert sum(map(len, after)) < sum(map(len, before)) / 3
    assert [press.decompress(one) for one in before + after] == [
        value(number) for number in range(TRAINING_SAMPLES)
    ] * 2
    assert press.next_dictionary() is None


def test_a_dictionary_that_came_later_is_looked_for() -> None:
    dictionaries = {0: FIRST}
    reading, writing = (
        DictionaryCompressor(dictionaries, lambda: dictionaries),
        DictionaryCompressor(dictionaries, missing),
    )
    for number in range(TRAINING_SAMPLES):
        writing.compress([value(number)])
    number, content = writing.next_dictionary() or (0, b"")
    writing.use_dictionary(number, content)
    [pressed] = writing.compress([value(3)])
    with pytest.raises(KeyError):
        reading.decompress(pressed)
    dictionaries = {0: FIRST, number: content}
    assert reading.decompress(pressed) == value(3)
    assert DictionaryCompressor(dictionaries, missing).decompress(pressed) == value(3)


def test_it_learns_again_from_the_newest_when_there_are_many_more() -> None:
    press = DictionaryCompressor({0: FIRST, 1: b"an earlier lesson"}, missing)
    for number in range(NEXT_TRAINING_AFTER_VALUES - TRAINING_SAMPLES):
        press.compress([b"of old times %d" % number])
    assert press.next_dictionary() is None
    for number in range(TRAINING_SAMPLES):
        press.compress([value(number)])
    lesson = press.next_dictionary()
    assert lesson and lesson[0] == 2 and b"of old times" not in lesson[1] and b"vendor" in lesson[1]


def test_of_what_has_nothing_in_common_nothing_is_learned() -> None:
    press = DictionaryCompressor({0: FIRST}, missing)
    for _ in range(TRAINING_SAMPLES):
        press.compress([b""])
    assert press.next_dictionary() is None


def test_dictionaries_do_not_outgrow_their_number() -> None:
    press = DictionaryCompressor(dict.fromkeys(range(256), FIRST), missing)
    for number in range(NEXT_TRAINING_AFTER_VALUES):
        press.compress([value(number)])
    assert press.next_dictionary() is None

"""Values are written against dictionaries that the store learns from its own, and each can be read for ever."""

from random import Random

import pytest

from bems.embedded.press import LESSON, NEXT_LESSON, Press

FIRST = b"what a new store has"
RANDOM = Random(5)
VENDORS = [f"vendor {number} of {RANDOM.randbytes(12).hex()}" for number in range(40)]


def value(number: int) -> bytes:
    return f"event {number}: {VENDORS[number % 40]} sent it by way of {VENDORS[number * 7 % 40]}".encode()


def missing() -> dict[int, bytes]:
    raise AssertionError("nothing is missing")


@pytest.mark.parametrize("content", [b"", b"x", value(1), bytes(100_000), RANDOM.randbytes(3_000)])
def test_what_is_pressed_can_be_read(content: bytes) -> None:
    press = Press({0: FIRST}, missing)
    assert press.unpress(*press.press([content])) == content


def test_nothing_is_learned_from_too_few() -> None:
    press = Press({0: FIRST}, missing)
    for number in range(LESSON - 1):
        press.press([value(number)])
        assert press.lesson() is None
    press.press([value(LESSON)])
    assert press.lesson()


def test_what_was_learned_makes_values_small_and_what_came_before_is_still_read() -> None:
    press = Press({0: FIRST}, missing)
    before = press.press([value(number) for number in range(LESSON)])
    lesson = press.lesson()
    assert lesson and lesson[0] == 1
    # Until it is kept, nothing is written against it; and it may be a while before it can be.
    assert press.press([value(1)])[0][0] == 0
    assert press.lesson() == lesson
    press.adopt(*lesson)
    after = press.press([value(number) for number in range(LESSON)])
    assert sum(map(len, after)) < sum(map(len, before)) / 3
    assert [press.unpress(one) for one in before + after] == [value(number) for number in range(LESSON)] * 2
    assert press.lesson() is None


def test_a_dictionary_that_came_later_is_looked_for() -> None:
    dictionaries = {0: FIRST}
    reading, writing = Press(dictionaries, lambda: dictionaries), Press(dictionaries, missing)
    for number in range(LESSON):
        writing.press([value(number)])
    number, content = writing.lesson() or (0, b"")
    writing.adopt(number, content)
    [pressed] = writing.press([value(3)])
    with pytest.raises(KeyError):
        reading.unpress(pressed)
    dictionaries = {0: FIRST, number: content}
    assert reading.unpress(pressed) == value(3)
    assert Press(dictionaries, missing).unpress(pressed) == value(3)


def test_it_learns_again_from_the_newest_when_there_are_many_more() -> None:
    press = Press({0: FIRST, 1: b"an earlier lesson"}, missing)
    for number in range(NEXT_LESSON - LESSON):
        press.press([b"of old times %d" % number])
    assert press.lesson() is None
    for number in range(LESSON):
        press.press([value(number)])
    lesson = press.lesson()
    assert lesson and lesson[0] == 2 and b"of old times" not in lesson[1] and b"vendor" in lesson[1]


def test_of_what_has_nothing_in_common_nothing_is_learned() -> None:
    press = Press({0: FIRST}, missing)
    for _ in range(LESSON):
        press.press([b""])
    assert press.lesson() is None


def test_dictionaries_do_not_outgrow_their_number() -> None:
    press = Press(dict.fromkeys(range(256), FIRST), missing)
    for number in range(NEXT_LESSON):
        press.press([value(number)])
    assert press.lesson() is None

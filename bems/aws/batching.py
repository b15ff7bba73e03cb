"""Calls: many things given to a service that takes some of them at a time, and maybe not all of those."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bems.aws.errors import BotoCoreError, ClientError, error_code

T = TypeVar("T")

MAX_ATTEMPTS = 3
BASE_DELAY_SECONDS = 0.1

# EventBridge's codes of an entry that would be refused again.
_PERMANENT_ERRORS = frozenset(
    {"InvalidArgument", "MalformedDetail", "NotAuthorizedForSourceException", "InvalidInputException"}
)


def chunks(things: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """All of them in their order, at most so many at a time."""
    return (things[start : start + most] for start in range(0, len(things), most))


def put_with_retries(entries: Sequence[T], call: Callable[[list[T]], list[str | None]]) -> list[str | None]:
    """Put entries that fit in one call; each one's error code, in order, None where it was taken.

    `call` answers so too. What was not taken is put again a few times, and nothing else; where the call itself is
    refused it is not, because boto3 has tried for long enough.
    """
    errors: list[str | None] = [None] * len(entries)
    waiting = list(range(len(entries)))
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, BASE_DELAY_SECONDS * 2**attempt))
        try:
            answers = call([entries[position] for position in waiting])
        except (ClientError, BotoCoreError) as error:
            for position in waiting:
                errors[position] = error_code(error)
            break
        for position, answer in zip(waiting, answers, strict=True):
            errors[position] = answer
        waiting = [position for position in waiting if errors[position] and errors[position] not in _PERMANENT_ERRORS]
        if not waiting:
            break
    return errors

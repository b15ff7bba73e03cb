"""Batch calls: splitting of long lists, and retries of entries that the service did not accept."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bems.aws.errors import BotoCoreError, ClientError, error_code

T = TypeVar("T")

MAX_ATTEMPTS = 3
BASE_DELAY_SECONDS = 0.1

# EventBridge's error codes for entries that fail on every attempt.
_PERMANENT_ERRORS = frozenset(
    {"InvalidArgument", "MalformedDetail", "NotAuthorizedForSourceException", "InvalidInputException"}
)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split a sequence into parts of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def put_with_retries(entries: Sequence[T], call: Callable[[list[T]], list[str | None]]) -> list[str | None]:
    """Put entries in one call, and retry those that were not accepted.

    Returns each entry's error code, in order, or None if it was accepted; `call` returns the same. Only entries that
    failed are put again, at most MAX_ATTEMPTS times in total. A call that raises is not repeated, because boto3 has
    already retried it.
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

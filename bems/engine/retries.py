"""Compilation of Retry and Catch, and the delay before a retry.

Source: Step Functions Developer Guide, "Retrying after an error" and "Fallback states".
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

from bems.engine.errors import ALL, RESERVED_NAMES
from bems.engine.machine import Catcher, Retrier
from bems.engine.paths import PathWriter
from bems.engine.problems import Problems
from bems.engine.timestamps import SECOND

_MAX_DELAY_SECONDS: Final = 31_622_400
_RETRIER_FIELDS: Final = frozenset(
    {"Comment", "ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy"}
)
_CATCHER_FIELDS: Final = frozenset({"Comment", "ErrorEquals", "Next", "ResultPath"})


def compile_retry(document: Any, where: str, problems: Problems) -> tuple[Retrier, ...]:
    retriers = []
    for path, item, error_equals in _entries(document, where, problems, _RETRIER_FIELDS):
        values = {"IntervalSeconds": 1, "MaxAttempts": 3, "MaxDelaySeconds": _MAX_DELAY_SECONDS, **item}
        problems.check_integer(values["IntervalSeconds"], f"{path}.IntervalSeconds", minimum=1)
        problems.check_integer(values["MaxAttempts"], f"{path}.MaxAttempts", minimum=0)
        problems.check_integer(
            values["MaxDelaySeconds"], f"{path}.MaxDelaySeconds", minimum=1, maximum=_MAX_DELAY_SECONDS
        )
        rate = item.get("BackoffRate", 2.0)
        if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 1:
            problems.add(f"{path}.BackoffRate", "expected a number of at least 1.0")
            rate = 1.0
        jitter = item.get("JitterStrategy", "NONE")
        if jitter not in ("FULL", "NONE"):
            problems.add(f"{path}.JitterStrategy", "expected FULL or NONE")
        retriers.append(
            Retrier(
                error_equals,
                values["IntervalSeconds"],
                values["MaxAttempts"],
                float(rate),
                values["MaxDelaySeconds"],
                jitter == "FULL",
            )
        )
    return tuple(retriers)


def compile_catch(
    document: Any,
    where: str,
    problems: Problems,
    target: Callable[[Any, str], str],
    writer: Callable[[Any, str], PathWriter | None],
) -> tuple[Catcher, ...]:
    return tuple(
        Catcher(
            error_equals,
            target(item.get("Next"), f"{path}.Next"),
            writer(item.get("ResultPath", "$"), f"{path}.ResultPath"),
        )
        for path, item, error_equals in _entries(document, where, problems, _CATCHER_FIELDS)
    )


def _entries(
    document: Any, where: str, problems: Problems, fields: frozenset[str]
) -> list[tuple[str, dict[str, Any], frozenset[str]]]:
    if not isinstance(document, list):
        problems.add(where, "expected a list")
        return []
    entries = []
    for index, item in enumerate(document):
        path = f"{where}[{index}]"
        if not isinstance(item, dict):
            problems.add(path, "expected an object")
            continue
        for field in item.keys() - fields:
            if field in ("Assign", "Output"):
                problems.add_unsupported(f"{path}.{field}", f"field {field} is not supported")
            else:
                problems.add(f"{path}.{field}", "unknown field")
        last = index == len(document) - 1
        entries.append((path, item, _error_equals(item.get("ErrorEquals"), f"{path}.ErrorEquals", problems, last)))
    return entries


def _error_equals(names: Any, where: str, problems: Problems, last: bool) -> frozenset[str]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        problems.add(where, "required field is missing or not a list of error names")
        return frozenset()
    for name in names:
        if name.startswith("States.") and name not in RESERVED_NAMES:
            problems.add(where, f"{name} is not an error name of the States Language")
    if ALL in names and (len(names) > 1 or not last):
        problems.add(where, f"{ALL} must be the only name of the last entry")
    return frozenset(names)


def retry_delay(retrier: Retrier, attempt: int, seed: int, event: int) -> int:
    """Return the delay before retry number `attempt`, counted from 0, in microseconds.

    FULL jitter is a hash of the seed and the event id, so that a replay computes the same delay.
    """
    try:
        seconds = min(retrier.interval * retrier.backoff_rate**attempt, retrier.max_delay)
    except OverflowError:
        seconds = retrier.max_delay
    if retrier.jitter:
        digest = hashlib.blake2b(f"{seed}:{event}".encode(), digest_size=8).digest()
        seconds *= int.from_bytes(digest) / 2**64
    return round(seconds * SECOND)

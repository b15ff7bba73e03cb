"""Faults of a definition, collected while it is compiled."""

from typing import Any

from bems.engine.errors import InvalidDefinition, UnsupportedDefinition

MAX_SECONDS = 99_999_999
"""The largest number of seconds that a state may name. Source: Step Functions Developer Guide, Task and Wait states."""


class Problems:
    """What was found so far, as `path: what is wrong`."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._invalid = False

    def add(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")
        self._invalid = True

    def add_unsupported(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")

    def include(self, error: InvalidDefinition, where: str | None = None) -> None:
        """Takes over the faults of an error; they get the path `where`, or have theirs already."""
        self._found += error.problems if where is None else [f"{where}: {problem}" for problem in error.problems]
        self._invalid = self._invalid or not isinstance(error, UnsupportedDefinition)

    def check_integer(self, value: Any, where: str, *, minimum: int, maximum: int = MAX_SECONDS) -> bool:
        """Whether the value is an integer in the range; notes the fault if not."""
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return True
        self.add(where, f"expected an integer from {minimum} to {maximum}")
        return False

    def raise_if_any(self) -> None:
        if self._found:
            raise (InvalidDefinition if self._invalid else UnsupportedDefinition)(sorted(self._found))

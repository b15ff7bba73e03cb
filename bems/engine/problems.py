"""Problems of a definition, collected during compilation."""

from typing import Any

from bems.engine.errors import InvalidDefinition, UnsupportedDefinition

MAX_SECONDS = 99_999_999
"""Maximum number of seconds in a state's field. Source: Step Functions Developer Guide, Task and Wait states."""


class Problems:
    """List of problems, each as `path: description`."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._invalid = False

    def add(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")
        self._invalid = True

    def add_unsupported(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")

    def include(self, error: InvalidDefinition, where: str | None = None) -> None:
        """Add the problems of an error, prefixed with the path `where` if it is given."""
        self._found += error.problems if where is None else [f"{where}: {problem}" for problem in error.problems]
        self._invalid = self._invalid or not isinstance(error, UnsupportedDefinition)

    def check_integer(self, value: Any, where: str, *, minimum: int, maximum: int = MAX_SECONDS) -> bool:
        """Return whether the value is an integer in the range; add a problem if it is not."""
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return True
        self.add(where, f"expected an integer from {minimum} to {maximum}")
        return False

    def raise_if_any(self) -> None:
        if self._found:
            raise (InvalidDefinition if self._invalid else UnsupportedDefinition)(sorted(self._found))

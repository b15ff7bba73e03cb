"""Errors of the command line: a one-line message and an exit code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import click

from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed

CommandFunctionT = TypeVar("CommandFunctionT")
T = TypeVar("T")


class UserError(click.ClickException):
    """A user's mistake, such as a missing file or an invalid value."""

    exit_code = 2


class Failure(click.ClickException):
    """A failure that is not the user's mistake, such as a full disk or a killed process."""

    exit_code = 1


class ErrorCollector:
    """Context manager that collects UserErrors and raises all of them as one at the end of the block."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._messages:
            raise UserError("\n".join(self._messages))

    def add(self, message: str) -> None:
        self._messages.append(message)

    def attempt(self, read: Callable[[CommandFunctionT], T], given: CommandFunctionT) -> T | None:
        """Return `read(given`; collect a UserError and return None."""
        try:
            return read(given)
        except UserError as mistake:
            self.add(mistake.message)
            return None


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """Raise the errors of a store as Failure."""
    try:
        yield
    except (StoreUnusable, StoreFailed) as wrong:
        raise Failure(str(wrong)) from wrong

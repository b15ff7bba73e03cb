"""What goes wrong, as the command line tells it: one line, and an exit code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import click

from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed

A = TypeVar("A")
T = TypeVar("T")


class UserError(click.ClickException):
    """The user's: a file that is not there, a value that cannot be."""

    exit_code = 2


class Failure(click.ClickException):
    """Not the user's: a full disk, a process that was killed."""

    exit_code = 1


class ErrorCollector:
    """Collects what is wrong with what a user gave, so that all of it is told at once, at the end of the block."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._messages:
            raise UserError("\n".join(self._messages))

    def add(self, message: str) -> None:
        self._messages.append(message)

    def attempt(self, read: Callable[[A], T], given: A) -> T | None:
        """What `read` makes of what was given; None if that is a mistake, which the end of the block tells."""
        try:
            return read(given)
        except UserError as mistake:
            self.add(mistake.message)
            return None


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """What is wrong with a store is a failure."""
    try:
        yield
    except (StoreUnusable, StoreFailed) as wrong:
        raise Failure(str(wrong)) from wrong

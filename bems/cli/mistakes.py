"""What goes wrong, as the command line tells it: one line, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from bems.embedded.databases import StoreRefused
from bems.embedded.reader import StoreFailed


class Mistake(click.ClickException):
    """The user's: a file that is not there, a value that cannot be."""

    exit_code = 2


class Failure(click.ClickException):
    """Not the user's: a full disk, a process that was killed."""

    exit_code = 1


@contextmanager
def store_told() -> Iterator[None]:
    """What is wrong with a store is a failure."""
    try:
        yield
    except (StoreRefused, StoreFailed) as wrong:
        raise Failure(str(wrong)) from wrong

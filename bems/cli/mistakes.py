"""What goes wrong, as the command line tells it: one line, and an exit code."""

import click


class Mistake(click.ClickException):
    """The user's: a file that is not there, a value that cannot be."""

    exit_code = 2


class Failure(click.ClickException):
    """Not the user's: a full disk, a process that was killed."""

    exit_code = 1

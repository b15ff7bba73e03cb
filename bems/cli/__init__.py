"""The command line `bems`: the composition root, where the rooms meet."""

import signal
import sys
from types import FrameType

import click

from bems.cli.demo import demo
from bems.cli.generate import generate
from bems.cli.replay import replay


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bems", message="%(prog)s %(version)s")
def bems() -> None:
    """BEMS tracks every invoice from ingestion to posting and finds the ones that are stuck."""


bems.add_command(demo)
bems.add_command(generate)
bems.add_command(replay)


def main() -> None:
    """Run the command line. What goes wrong is told in one line: exit code 2 for a user's mistake, 1 for a failure."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = bems.main(prog_name="bems", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help:
        click.echo(help.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as mistake:
        click.echo(f"bems: {mistake.format_message()}", err=True)
        sys.exit(mistake.exit_code)
    except click.Abort:
        click.echo("bems: interrupted", err=True)
        sys.exit(130)
    except OSError as fault:
        click.echo(f"bems: {fault.filename or 'output'}: {fault.strerror}", err=True)
        _forget_output()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """End as Python ends, so that what was begun is cleaned up."""
    sys.exit(143)


def _forget_output() -> None:
    """What cannot be written now would only fail again at exit."""
    try:
        sys.stdout.close()
    except OSError:
        sys.stdout = None

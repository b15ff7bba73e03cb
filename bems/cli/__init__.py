"""The command line `bems`: the composition root, which assembles all packages."""

import signal
import sys
from io import TextIOWrapper
from types import FrameType

import click

from bems import __version__
from bems.cli.checked_commands import CheckedGroup, UsageErrors
from bems.cli.lazy_commands import LazyCommands

COMMAND_MODULES = {
    "act": "bems.cli.commands.act",
    "alerts": "bems.cli.commands.alerts",
    "backup": "bems.cli.commands.backup",
    "check": "bems.cli.commands.check",
    "completeness": "bems.cli.commands.completeness",
    "dashboard": "bems.cli.commands.dashboard",
    "deliveries": "bems.cli.commands.alerts",
    "demo": "bems.cli.commands.demo",
    "dlq": "bems.cli.commands.dlq",
    "generate": "bems.cli.commands.generate",
    "invoice": "bems.cli.commands.invoice",
    "keys": "bems.cli.commands.keys",
    "policy": "bems.cli.commands.policy",
    "replay": "bems.cli.commands.replay",
    "restore": "bems.cli.commands.restore",
    "send": "bems.cli.commands.send",
    "stuck": "bems.cli.commands.stuck",
    "up": "bems.cli.commands.up",
}
"""Module of each command."""


@click.group(
    cls=CheckedGroup, commands=LazyCommands(COMMAND_MODULES), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def bems() -> None:
    """BEMS tracks every invoice from ingestion to posting and finds the ones that are stuck."""


def main() -> None:
    """Run the command line. Print each error in one line; exit with 2 for a user's mistake and with 1 for a failure."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is printed as a question mark.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Exit outside the error handlers: their frames would keep databases open until the interpreter ends.
    sys.exit(_run())


def _run() -> int:
    try:
        code = bems.main(prog_name="bems", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help:
        click.echo(help.format_message(), err=True)
        return 2
    except UsageErrors as mistakes:
        for mistake in mistakes.errors:
            _print_usage_error(mistake)
        return mistakes.exit_code
    except click.UsageError as mistake:
        _print_usage_error(mistake)
        return mistake.exit_code
    except click.ClickException as mistake:
        click.echo(f"bems: {mistake.format_message()}", err=True)
        return mistake.exit_code
    except click.Abort:
        click.echo("bems: interrupted", err=True)
        return 130
    except UnicodeEncodeError as fault:
        # Python decodes a byte that is not UTF-8 to a lone surrogate; every other text can be encoded.
        if not "\ud800" <= fault.object[fault.start] <= "\udfff":
            raise
        # It imports the HTTP client, which not every command needs.
        from bems.cli.http_errors import to_one_line

        click.echo(f"bems: {to_one_line(fault.object)!r} is not UTF-8 text", err=True)
        return 2
    except OSError as fault:
        click.echo(f"bems: {fault.filename or 'output'}: {fault.strerror}", err=True)
        _discard_output()
        return 1
    return code if isinstance(code, int) else 0


def _print_usage_error(mistake: click.UsageError) -> None:
    """Print the error in one line; click puts each choice of an option on its own line."""
    click.echo(f"bems: {' '.join(mistake.format_message().split())}", err=True)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Exit through SystemExit, so that context managers clean up."""
    sys.exit(143)


def _discard_output() -> None:
    """Close standard output, because flushing it at exit would fail again."""
    try:
        sys.stdout.close()
    except OSError:
        sys.stdout = None

"""The command line `bems`: the composition root, where the rooms meet."""

import sys

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
    """Run the command line. A user's mistake is told in one line, with exit code 2."""
    try:
        code = bems.main(prog_name="bems", standalone_mode=False)
    except click.ClickException as mistake:
        sys.exit(_tell(mistake.format_message()))
    except click.Abort:
        click.echo("bems: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough; a second failure at exit would be noise.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str) -> int:
    click.echo(f"bems: {message}", err=True)
    return 2

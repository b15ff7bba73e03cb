"""`bems generate`: writes a realistic log of events."""

from datetime import date, datetime

import click
from rich.console import Console
from rich.progress import Progress

from bems.cli.checked_commands import CheckedCommand
from bems.cli.errors import UserError
from bems.cli.files import output_file
from bems.generator.event_log import generate as lines


@click.command(
    cls=CheckedCommand,
    epilog="Example: bems generate --invoices 2000 --seed 7 --out events.jsonl",
)
@click.option(
    "--invoices", type=click.IntRange(1, 100_000_000), default=2000, show_default=True, help="Number of invoices."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same log.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2026-01-01", show_default=True, help="First day.")
@click.option(
    "--days",
    type=click.IntRange(1, 3660),
    default=31,
    show_default=True,
    help="Number of days on which invoices arrive.",
)
@click.option("--out", metavar="FILE", default="-", help="File to write. Default: standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
def generate(invoices: int, seed: int, start: datetime, days: int, out: str, force: bool) -> None:
    """Generate a log of invoice events.

    The log has one JSON object per line, in the order of arrival. Most invoices pass all stages. Some events are early,
    late, duplicate, out of order or malformed; some invoices are rejected, reversed, disputed, cancelled, orphaned or
    stuck. All data is fictitious. The last events occur about two months after the last invoice arrives; bems replay
    refuses events in the future. Logs with different seeds share ids: send them to different cells.
    """
    try:
        log = lines(invoices, seed, start=date(start.year, start.month, start.day), days=days)
    except ValueError as fault:
        raise UserError(str(fault)) from fault
    console = Console(stderr=True)
    has_progress = console.is_terminal and out != "-"
    with (
        output_file(out, is_private=False, must_be_new=not force) as file,
        Progress(console=console, transient=True, disable=not has_progress) as progress,
    ):
        # An invoice has 4.1 lines on average.
        task = progress.add_task("Writing", total=int(4.1 * invoices))
        for number, line in enumerate(log, 1):
            file.write(line)
            if number % 10_000 == 0:
                progress.update(task, completed=number)

"""`bems backup`: a copy of a cell's folder, taken while it runs."""

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bems.cli.commands import CheckedCommand
from bems.cli.files import folder_of
from bems.cli.mistakes import Mistake, store_told
from bems.cli.show import counted, moment, print_json
from bems.embedded.backup import Backup, BackupRefused, back_up
from bems.tracker.instants import render, to_datetime


@click.command(cls=CheckedCommand, epilog="Example: bems backup --store /var/lib/bems /mnt/backups/bems-2026-11-23")
@click.option("--store", "folder", metavar="FOLDER", default=".bems", show_default=True, help="The cell's folder.")
@click.argument("target", metavar="TO")
@click.option("--json", "as_json", is_flag=True, help="Print what the copy holds as one JSON object.")
def backup(folder: str, target: str, as_json: bool) -> None:
    """Copy a cell's folder, whether it runs or not, to a new folder TO.

    The copy is of one moment, is read as a whole once it is made, and appears under its name when it is on the disk. It
    is restored by starting a cell on it: bems up --store TO; or on a copy of it, so that the backup stays. Then send
    again what was sent since: what it has is a duplicate. It holds the hashes of keys, so keep it as you keep the cell.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Copying", total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if done == total:
                progress.update(task, description="Checking")

        try:
            with store_told():
                made = back_up(folder_of(folder), folder_of(target), told)
        except BackupRefused as refused:
            raise Mistake(str(refused)) from refused
    if as_json:
        latest = None if made.latest is None else render(made.latest)
        print_json({"store": target, **msgspec.to_builtins(made), "latest": latest})
    else:
        click.echo(_told(target, made))


def _told(target: str, made: Backup) -> str:
    until = f"until {moment(to_datetime(made.latest))} UTC" if made.latest is not None else "nothing yet"
    things = (
        counted(made.invoices, "invoice"),
        counted(made.events, "event"),
        counted(made.alerts, "alert"),
        counted(made.dead_letters, "dead letter"),
        counted(made.deliveries, "undelivered alert"),
        counted(made.keys, "key"),
    )
    return f"{target} holds the cell {until}: {', '.join(things)}; {made.bytes:,} bytes."

"""`bems backup`: copies a cell's folder, even while the cell runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec
from rich.progress import DownloadColumn, TaskProgressColumn

from bems.cli.checked_commands import CheckedCommand
from bems.cli.errors import UserError, translate_store_errors
from bems.cli.files import parse_folder
from bems.cli.output import format_time, pluralize_count, print_json
from bems.cli.progress import progress_bar
from bems.embedded.backup import Backup, BackupRefused, OnProgress, back_up
from bems.embedded.storage.file_permissions import private_umask
from bems.tracker.instants import render, to_datetime


@click.command(cls=CheckedCommand, epilog="Example: bems backup --store /var/lib/bems /mnt/backups/bems-2026-11-23")
@click.option("--store", "folder", metavar="FOLDER", default=".bems", show_default=True, help="The cell's folder.")
@click.argument("target", metavar="TO")
@click.option("--json", "as_json", is_flag=True, help="Print the content of the copy as one JSON object.")
def backup(folder: str, target: str, as_json: bool) -> None:
    """Copy a cell's folder, even while the cell runs.

    TO is a new folder. The copy is consistent and verified by reading all of it; TO appears when the copy is complete
    and durable. Restore it with: bems restore TO --store FOLDER. The copy contains every invoice and the hashes of the
    keys, and only its owner can read it: protect it like the cell.
    """
    with copying("Copying") as on_progress:
        try:
            with translate_store_errors(), private_umask():
                made = back_up(parse_folder(folder), parse_folder(target), on_progress)
        except BackupRefused as refused:
            raise UserError(str(refused)) from refused
    if as_json:
        print_copy(target, made)
    else:
        click.echo(describe(target, made))


@contextmanager
def copying(what: str) -> Iterator[OnProgress]:
    """Show a progress bar on a terminal, and yield the callback that advances it."""
    with progress_bar("{task.description}", TaskProgressColumn(), DownloadColumn()) as progress:
        task = progress.add_task(what, total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if done == total:
                progress.update(task, description="Checking")

        yield on_progress


def print_copy(target: str, made: Backup) -> None:
    """Print the content of the copy as JSON."""
    latest = None if made.latest is None else render(made.latest)
    print_json({"store": target, **msgspec.to_builtins(made), "latest": latest})


def describe(target: str, made: Backup) -> str:
    """Return the content of the copy as a sentence."""
    until = f"until {format_time(to_datetime(made.latest))} UTC" if made.latest is not None else "nothing yet"
    counts = (
        pluralize_count(made.invoices, "invoice"),
        pluralize_count(made.events, "event"),
        pluralize_count(made.alerts, "alert"),
        pluralize_count(made.dead_letters, "dead letter"),
        pluralize_count(made.deliveries, "undelivered alert"),
        pluralize_count(made.keys, "key"),
    )
    return f"{target} holds the cell {until}: {', '.join(counts)}; {made.bytes:,} bytes."

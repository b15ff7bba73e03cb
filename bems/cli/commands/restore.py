"""`bems restore`: creates a cell's folder from a backup."""

import shlex

import click

from bems.cli.checked_commands import CheckedCommand
from bems.cli.commands.backup import copying, describe, print_copy
from bems.cli.errors import UserError, translate_store_errors
from bems.cli.files import parse_folder
from bems.embedded.backup import BackupRefused
from bems.embedded.restore import RestoreRefused
from bems.embedded.restore import restore as make_folder
from bems.embedded.storage.file_permissions import private_umask


@click.command(cls=CheckedCommand, epilog="Example: bems restore /mnt/backups/bems-2026-11-23 --store /var/lib/bems")
@click.argument("source", metavar="BACKUP")
@click.option(
    "--store",
    "folder",
    metavar="FOLDER",
    default=".bems",
    show_default=True,
    help="Folder to create; it must be new or empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was restored as one JSON object.")
def restore(source: str, folder: str, as_json: bool) -> None:
    """Create a cell's folder from a backup.

    BACKUP is a folder written by bems backup. It is read and checked completely first, and is not changed. A FOLDER
    that is not empty is refused: stop its cell and move it away. Then start the cell and send the events since the
    backup again; events that the cell already has count as duplicates.
    """
    with copying("Restoring") as on_progress:
        try:
            with translate_store_errors(), private_umask():
                made = make_folder(parse_folder(source), parse_folder(folder), on_progress)
        except (RestoreRefused, BackupRefused) as refused:
            raise UserError(str(refused)) from refused
    if as_json:
        print_copy(folder, made)
    else:
        click.echo(f"{describe(folder, made)}\nStart it with: bems up --store {shlex.quote(folder)}")

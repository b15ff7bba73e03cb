"""`bems books`: whether every accepted event is accounted for."""

import time

import click

from bems.cli import options
from bems.cli.client import Client, shaped
from bems.cli.commands import CheckedCommand
from bems.cli.options import connected
from bems.cli.show import print_json
from bems.embedded.api.access import LOOK
from bems.embedded.api.books import Books

PATIENCE = 10.0
"""Seconds that the series may lag behind before that counts as not balanced."""

LOOK_EVERY = 0.25


@click.command(cls=CheckedCommand, epilog="Example: bems books")
@options.as_json
@connected
@click.pass_context
def books(context: click.Context, client: Client, as_json: bool) -> None:
    """Show whether every event is accounted for.

    The books are balanced if accepted = applied + dead letters, and the series is the same in the store and in DuckDB.
    DuckDB may be two seconds behind; it is waited for, ten seconds at most. Exit code 1 if the books are not balanced.
    Needs a key of a viewer, operator or admin.
    """
    until = time.monotonic() + PATIENCE
    while True:
        answer = client.ask("GET", "/books", LOOK)
        counted = shaped(answer, Books)
        if counted.balanced is not None or time.monotonic() > until:
            break
        time.sleep(LOOK_EVERY)
    if as_json:
        print_json(answer)
    else:
        for label, count in (
            ("Accepted events", counted.accepted),
            ("applied", counted.applied),
            ("dead letters", counted.dead_letters),
            ("  of these set aside", counted.set_aside),
            ("Transitions in the store", counted.transitions),
            ("in DuckDB", counted.analytics),
            ("Alerts in the store", counted.alerts),
            ("in DuckDB", counted.alert_rows),
        ):
            click.echo(f"{label:<26}{count:>14,}")
        told = {True: "yes", False: "no", None: "not yet: DuckDB is behind"}
        click.echo(f"{'Balanced':<26}{told[counted.balanced]:>14}")
    if not counted.balanced:
        context.exit(1)

"""`bems check`: verifies that every accepted event is accounted for."""

import time

import click

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, decode_as
from bems.cli.options import connected
from bems.cli.output import format_amount, make_console, print_json
from bems.cli.table_layout import Column, print_table
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.check import Check, Difference

TIMEOUT_SECONDS = 10.0
"""Maximum number of seconds to wait for DuckDB to catch up with the store."""

POLL_SECONDS = 0.25

DIFFERENCE_COLUMNS = (
    Column("Status"),
    Column("Invoices", is_right=True),
    Column("In the series", is_right=True),
    Column("Amount", is_right=True),
    Column("In the series", is_right=True),
)


@click.command(cls=CheckedCommand, epilog="Example: bems check")
@options.as_json
@connected
@click.pass_context
def check(context: click.Context, client: Client, as_json: bool) -> None:
    """Check that every accepted event is accounted for.

    The cell is balanced if accepted = applied + dead letters, the series of transitions is the same in the store and in
    DuckDB, and the series and the invoice records have the same number and amount of invoices in every status and
    currency. Differences are printed.

    DuckDB may lag by two seconds; the command waits for it, at most ten seconds. The exit code is 1 if the cell is not
    balanced. Requires a viewer, operator or admin key.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        answer = client.request_json("GET", "/check", VIEWERS)
        counted = decode_as(answer, Check)
        if counted.balanced is not None or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
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
        answers = {True: "yes", False: "no", None: "not yet: DuckDB is behind"}
        click.echo(f"{'Balanced':<26}{answers[counted.balanced]:>14}")
        if counted.differences:
            click.echo("\nDifferences between the records and the series\n")
            print_table(make_console(), DIFFERENCE_COLUMNS, map(_row, counted.differences))
    if not counted.balanced:
        context.exit(1)


def _row(one: Difference) -> tuple[str, ...]:
    amounts = format_amount(one.amount, one.currency), format_amount(one.series_amount, one.currency)
    return one.status, f"{one.invoices:,}", f"{one.series_invoices:,}", *amounts

"""`bems dlq`: dead letters, the accepted events whose handling failed."""

from typing import Any

import click

from bems.cli import options
from bems.cli.checked_commands import CheckedGroup
from bems.cli.client import Client, decode_as
from bems.cli.errors import UserError
from bems.cli.http_errors import to_one_line
from bems.cli.listing import ItemTable, Listing, with_listing
from bems.cli.options import connected
from bems.cli.output import format_time, pluralize_count, print_json
from bems.cli.table_layout import Column
from bems.embedded.api.access import OPERATORS
from bems.embedded.api.operations import Redriven
from bems.embedded.api.views import DeadLetter

DEAD_LETTER_COLUMNS = (
    Column("Event"),
    Column("Invoice", 1),
    Column("Attempts", 4, is_right=True),
    Column("Failed (UTC)", 3),
    Column("Next retry (UTC)", 5),
    Column("Error", 2, is_prose=True),
)

MAX_REQUEST_IDS = 1_000
"""Maximum number of ids in one request, which the API accepts at any length of the ids."""

MAX_DEAD_LETTERS = 1_000_000

of_invoice = click.option("--invoice", metavar="ID", help="Only dead letters of this invoice.")
with_error = click.option("--error", metavar="TEXT", help="Only dead letters with this text in their error.")


@click.group(cls=CheckedGroup)
def dlq() -> None:
    """List and redrive dead letters.

    A dead letter is an accepted event whose handling failed. Requires an operator or admin key.
    """


@dlq.command("list", epilog="Example: bems dlq list --error KeyError")
@of_invoice
@with_error
@with_listing
def list_(listing: Listing, invoice: str | None, error: str | None) -> None:
    """List dead letters, sorted by event id."""
    found = listing.read("/dead-letters", OPERATORS, {"invoice_id": invoice, "error": error})
    listing.print_items(found, DEAD_LETTER_TABLE)


@dlq.command(epilog="Example: bems dlq redrive --error KeyError")
@click.argument("event_ids", metavar="[EVENT_ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@of_invoice
@with_error
@options.as_json
@connected
@click.pass_context
def redrive(
    context: click.Context,
    client: Client,
    event_ids: tuple[str, ...],
    every: bool,
    invoice: str | None,
    error: str | None,
    as_json: bool,
) -> None:
    """Redrive dead letters: the named ones, all, or all that match. Each is handled once more.

    The exit code is 1 if any of them fails again, or if a named event is not a dead letter.
    """
    if (len(event_ids) > 0) + every + (invoice is not None or error is not None) != 1:
        raise UserError("choose one: EVENT_IDs, or --all, or --invoice and --error")
    wanted = list(dict.fromkeys(event_ids))
    if not wanted:
        # Redrive by id: a dead letter that fails again would still match, and be redriven without end.
        found = client.list("/dead-letters", OPERATORS, {"invoice_id": invoice, "error": error}, MAX_DEAD_LETTERS)
        wanted = [letter.event_id for letter in decode_as(found.items, list[DeadLetter])]
    if not as_json and wanted:
        selection = _describe_selection(event_ids, invoice, error)
        click.echo(f"Redriving {pluralize_count(len(wanted), 'dead letter')}{selection}")
    redriven: list[Any] = []
    failed: list[Any] = []
    for start in range(0, len(wanted), MAX_REQUEST_IDS):
        body = {"event_ids": wanted[start : start + MAX_REQUEST_IDS]}
        answer = client.request_json("POST", "/dead-letters/redrive", OPERATORS, body=body)
        decode_as(answer, Redriven)
        redriven += answer["redriven"]
        failed += answer["failed"]
    if as_json:
        print_json({"redriven": redriven, "failed": failed})
    else:
        for one in failed:
            click.echo(f"{one['event_id']} failed: {to_one_line(one['error'])}")
        click.echo(f"{len(redriven):,} handled, {len(failed):,} failed")
    if failed:
        context.exit(1)


def _describe_selection(event_ids: tuple[str, ...], invoice: str | None, error: str | None) -> str:
    if event_ids:
        return ": " + ", ".join(map(to_one_line, dict.fromkeys(event_ids)))
    of = f" of invoice {to_one_line(invoice)}" if invoice is not None else ""
    with_ = f" with {to_one_line(error)!r} in its error" if error is not None else ""
    return f"{of}{with_}" or ", all of them"


def _row(letter: DeadLetter) -> tuple[str, ...]:
    retry = format_time(letter.retry_at) if letter.retry_at else "set aside"
    return (
        letter.event_id,
        letter.invoice_id,
        str(letter.attempts),
        format_time(letter.failed_at),
        retry,
        letter.error,
    )


DEAD_LETTER_TABLE = ItemTable(list[DeadLetter], "dead letter", DEAD_LETTER_COLUMNS, _row)

"""`bems stuck`: lists the invoices that have waited too long."""

import click

from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import decode_as
from bems.cli.listing import Listing, with_listing
from bems.cli.output import format_amount, format_times, make_console, print_json, vendor_label
from bems.cli.stuck_totals import read_stuck_totals
from bems.cli.table_layout import Column, print_prose, print_table
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.views import Invoice
from bems.tracker.contract import STAGES, Stage

STUCK_COLUMNS = (
    Column("Invoice"),
    Column("Waits for", 4),
    Column("Since", 5),
    Column("Alerts", 7, is_right=True),
    Column("Severity", 9),
    Column("Amount", 1, is_right=True),
    Column("Mark", 3, is_prose=True),
    Column("Vendor", 8, is_prose=True),
    Column("Assigned to", 2, is_prose=True),
    Column("Note", 6, is_prose=True),
)


@click.command(cls=CheckedCommand, epilog="Example: bems stuck --stage posting --by value --limit 20")
@click.option("--stage", type=click.Choice(STAGES), help="Only invoices that wait for this stage.")
@click.option(
    "--by",
    type=click.Choice(["age", "value"]),
    default="age",
    show_default=True,
    help="Sort order. age: the longest wait first; value: the greatest amount of each currency first.",
)
@with_listing
def stuck(listing: Listing, stage: Stage | None, by: str) -> None:
    """List stuck invoices and their total amounts.

    An invoice is stuck if an alert was raised in its current wait, or if it is parked, which means that no more alerts
    are raised. An extended invoice is not stuck until its next alert. Dates are in UTC. Requires a viewer, operator or
    admin key.
    """
    found = listing.read("/invoices", VIEWERS, {"stuck": "true", "stage": stage, "sort": by})
    totals = read_stuck_totals(listing.client, stage)
    if listing.as_json:
        print_json({"items": found.items, "more": found.more, **totals.as_document()})
        return
    invoices = decode_as(found.items, list[Invoice])
    console = make_console()
    if invoices:
        click.echo()
        print_table(console, STUCK_COLUMNS, map(_row, invoices), wide=listing.wide)
        click.echo()
    more = f"; the first {len(invoices):,} are shown, see --limit" if found.more else ""
    print_prose(console, f"{totals}{more}")


def _row(invoice: Invoice) -> tuple[str, ...]:
    wait, parked = invoice.waiting, invoice.parked
    since = wait.since if wait else parked.since if parked else None
    step = wait.step if wait else parked.step if parked else None
    marks = []
    if invoice.mark == "parked":
        marks.append("parked")
    if wait and wait.extensions:
        marks.append(f"extended {format_times(wait.extensions)}")
    if wait and wait.snoozed_until:
        marks.append(f"snoozed to {wait.snoozed_until:%Y-%m-%d}")
    if wait and wait.acknowledged:
        marks.append(f"{wait.acknowledged} seen")
    return (
        invoice.invoice_id,
        invoice.stage or "-",
        f"{since:%Y-%m-%d}" if since else "-",
        "-" if step is None else f"{step}",
        (wait and wait.severity) or "-",
        format_amount(invoice.amount, invoice.currency),
        ", ".join(marks) or "-",
        vendor_label(invoice.vendor),
        invoice.assignee or "-",
        invoice.note.text if invoice.note else "-",
    )

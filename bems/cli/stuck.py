"""`bems stuck`: the invoices that are waited for too long."""

import click

from bems.cli import options
from bems.cli.client import Client, shaped
from bems.cli.commands import CheckedCommand
from bems.cli.layout import Column
from bems.cli.options import connected
from bems.cli.show import moment, money, print_list, whose
from bems.embedded.api.access import LOOK
from bems.embedded.api.views import Invoice
from bems.tracker.contract import STAGES

COLUMNS = (
    Column("Invoice"),
    Column("Status", 2),
    Column("Waits since (UTC)", 3),
    Column("Alerts", 4, is_right=True),
    Column("Severity", 6),
    Column("Amount", 1, is_right=True),
    Column("Vendor", 5, is_prose=True),
)


@click.command(cls=CheckedCommand, epilog="Example: bems stuck --stage posting --limit 20")
@click.option("--stage", type=click.Choice(STAGES), help="Only those that lack this stage's event.")
@options.limit
@options.wide
@options.as_json
@connected
def stuck(client: Client, stage: str | None, limit: int, wide: bool, as_json: bool) -> None:
    """List the invoices that are stuck.

    The longest waiting come first. Stuck is an invoice whose deadline has passed, so that an alert is out. Needs a key
    of a viewer, operator or admin.
    """
    found = client.list("/invoices", LOOK, {"stuck": "true", "stage": stage}, limit)
    invoices = shaped(found.items, list[Invoice])
    print_list(found.items, found.more, as_json, COLUMNS, map(_row, invoices), "stuck invoice", wide=wide)


def _row(invoice: Invoice) -> tuple[str, ...]:
    wait = invoice.waiting
    seen = f", {wait.acknowledged} seen" if wait and wait.acknowledged else ""
    return (
        invoice.invoice_id,
        invoice.status,
        moment(wait.since) if wait else "-",
        f"{wait.step}{seen}" if wait else "-",
        (wait and wait.severity) or "-",
        money(invoice.amount, invoice.currency),
        whose(invoice.vendor),
    )

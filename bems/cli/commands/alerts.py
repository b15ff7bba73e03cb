"""`bems alerts` lists alerts; `bems deliveries` lists those that a destination has not accepted yet."""

from typing import Any, get_args

import click

from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import ListResult, decode_as
from bems.cli.listing import ItemTable, Listing, with_listing
from bems.cli.output import format_amount, format_time, pluralize_count, print_json, vendor_label
from bems.cli.table_layout import Column
from bems.embedded.alerting.delivery import DeliveryState
from bems.embedded.api.access import OPERATORS, VIEWERS
from bems.embedded.api.operations import Delivery, Retried
from bems.embedded.api.views import Alert
from bems.tracker.actions import Severity
from bems.tracker.contract import STAGES

ALERT_COLUMNS = (
    Column("Invoice"),
    Column("Raised (UTC)", 2),
    Column("Alert", 1, is_prose=True),
    Column("Severity", 3),
    Column("Waits since (UTC)", 6),
    Column("Amount", 4, is_right=True),
    Column("Vendor", 5, is_prose=True),
    Column("Id", 7),
)
DELIVERY_COLUMNS = (
    Column("Invoice"),
    Column("Destination", 1),
    Column("State", 2),
    Column("Attempts", 5, is_right=True),
    Column("Next attempt (UTC)", 4),
    Column("Error", 3, is_prose=True),
    Column("Alert", 6),
)
DELIVERY_STATES = get_args(DeliveryState)
KIND_TEXTS: dict[str, str] = {
    "dispute": "reconciliation disputed",
    "failed": "posting failed",
    "identity": "two invoices under one id?",
    "contradiction": "contradictory outcomes",
    "resolved": "resolved",
}
"""Descriptions of the alerts that do not belong to a wait."""


@click.command(cls=CheckedCommand, epilog="Example: bems alerts --severity critical --stage posting")
@click.option("--severity", type=click.Choice(get_args(Severity)), help="Only alerts of this severity.")
@click.option("--stage", type=click.Choice(STAGES), help="Only alerts of this stage.")
@click.option("--invoice", metavar="ID", help="Only alerts of this invoice.")
@with_listing
def alerts(listing: Listing, severity: str | None, stage: str | None, invoice: str | None) -> None:
    """List alerts, newest first, and the messages that a wait with alerts was resolved.

    Requires a viewer, operator or admin key.
    """
    query = {"severity": severity, "stage": stage, "invoice_id": invoice}
    listing.print_items(listing.read("/alerts", VIEWERS, query), ALERT_TABLE)


def describe_alert(alert: Alert) -> str:
    """Return the kind of the alert and its details, such as `posting stuck, 3`."""
    if alert.kind == "stuck":
        return f"{alert.stage} stuck, {alert.step}" + (", the last" if alert.last else "")
    if alert.kind == "identity":
        return " ".join(filter(None, (KIND_TEXTS["identity"], alert.detail)))
    if alert.kind in ("contradiction", "resolved"):
        return ": ".join(filter(None, (KIND_TEXTS[alert.kind], alert.detail)))
    return KIND_TEXTS[alert.kind]


def _row(alert: Alert) -> tuple[str, ...]:
    return (
        alert.invoice_id,
        format_time(alert.raised_at),
        describe_alert(alert),
        alert.severity,
        format_time(alert.waiting_since) if alert.kind == "stuck" else "-",
        format_amount(alert.amount, alert.currency),
        vendor_label(alert.vendor),
        alert.id,
    )


ALERT_TABLE = ItemTable(list[Alert], "alert", ALERT_COLUMNS, _row)


@click.command(cls=CheckedCommand, epilog="Example: bems deliveries --state failed --retry")
@click.option(
    "--state", type=click.Choice(DELIVERY_STATES), help="failed: given up; waiting: will be retried. Default: both."
)
@click.option("--retry", is_flag=True, help="Retry all failed deliveries; requires an operator or admin key.")
@with_listing
def deliveries(listing: Listing, state: str | None, retry: bool) -> None:
    """List alerts that are not delivered yet.

    An alert is listed once for each destination that has not accepted it, oldest first. Requires a viewer, operator or
    admin key.
    """
    if retry:
        answer = listing.client.request_json("POST", "/deliveries/retry", OPERATORS)
        number = decode_as(answer, Retried).deliveries
        if listing.as_json:
            print_json(answer)
        else:
            click.echo(f"{pluralize_count(number, 'undelivered alert')} will be retried")
        return
    items: list[Any] = []
    more = False
    for one in DELIVERY_STATES if state is None else (state,):
        found = listing.read("/deliveries", VIEWERS, {"state": one})
        items, more = items + found.items, more or found.more
    found = ListResult(items[: listing.limit], more or len(items) > listing.limit)
    listing.print_items(found, DELIVERY_TABLE)


def _delivery_row(delivery: Delivery) -> tuple[str, ...]:
    return (
        delivery.invoice_id or "-",
        delivery.destination,
        delivery.state,
        str(delivery.attempts),
        delivery.due[:19].replace("T", " "),
        delivery.error or "-",
        delivery.alert_id,
    )


DELIVERY_TABLE = ItemTable(list[Delivery], "undelivered alert", DELIVERY_COLUMNS, _delivery_row)

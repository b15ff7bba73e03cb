"""`bems alerts` lists alerts; `bems deliveries` lists those that a destination has not accepted yet."""

from typing import Any, get_args

import click

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, decode_as
from bems.cli.options import connected
from bems.cli.output import format_amount, format_time, pluralize_count, print_json, print_list, vendor_label
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
    "contradiction": "contradicts what was recorded by hand",
    "resolved": "resolved",
}
"""Descriptions of the alerts that do not belong to a wait."""


@click.command(cls=CheckedCommand, epilog="Example: bems alerts --severity critical --stage posting")
@click.option("--severity", type=click.Choice(get_args(Severity)), help="Only alerts of this severity.")
@click.option("--stage", type=click.Choice(STAGES), help="Only alerts of this stage.")
@click.option("--invoice", metavar="ID", help="Only alerts of this invoice.")
@options.limit
@options.wide
@options.as_json
@connected
def alerts(
    client: Client,
    severity: str | None,
    stage: str | None,
    invoice: str | None,
    limit: int,
    wide: bool,
    as_json: bool,
) -> None:
    """List alerts, newest first, and the messages that a wait with alerts was resolved.

    Requires a viewer, operator or admin key.
    """
    query = {"severity": severity, "stage": stage, "invoice_id": invoice}
    found = client.list("/alerts", VIEWERS, query, limit)
    raised = decode_as(found.items, list[Alert])
    print_list(found.items, found.more, as_json, ALERT_COLUMNS, map(_row, raised), "alert", wide=wide)


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


@click.command(cls=CheckedCommand, epilog="Example: bems deliveries --state failed --retry")
@click.option(
    "--state", type=click.Choice(DELIVERY_STATES), help="failed: given up; waiting: will be retried. Default: both."
)
@click.option("--retry", is_flag=True, help="Retry all failed deliveries; requires an operator or admin key.")
@options.limit
@options.wide
@options.as_json
@connected
def deliveries(client: Client, state: str | None, retry: bool, limit: int, wide: bool, as_json: bool) -> None:
    """List alerts that are not delivered yet.

    An alert is listed once for each destination that has not accepted it, oldest first. Requires a viewer, operator or
    admin key.
    """
    if retry:
        answer = client.request_json("POST", "/deliveries/retry", OPERATORS)
        number = decode_as(answer, Retried).deliveries
        if as_json:
            print_json(answer)
        else:
            click.echo(f"{pluralize_count(number, 'undelivered alert')} will be retried")
        return
    items: list[Any] = []
    more = False
    for one in DELIVERY_STATES if state is None else (state,):
        found = client.list("/deliveries", VIEWERS, {"state": one}, limit)
        items, more = items + found.items, more or found.more
    items, more = items[:limit], more or len(items) > limit
    waiting = decode_as(items, list[Delivery])
    print_list(items, more, as_json, DELIVERY_COLUMNS, map(_delivery_row, waiting), "undelivered alert", wide=wide)


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

"""`bems act`: what an operator does to an invoice."""

import secrets
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any

import click

from bems.cli import options
from bems.cli.client import Client, escaped, shaped
from bems.cli.files import WhenParam
from bems.cli.mistakes import Failure
from bems.cli.options import connected
from bems.cli.report import MEANING
from bems.cli.show import moment, print_json
from bems.embedded.api.access import ACT
from bems.embedded.api.operations import Accepted
from bems.embedded.api.views import Invoice
from bems.tracker.contract import STAGES
from bems.tracker.instants import Instant, from_datetime, render


@click.group()
def act() -> None:
    """Act on an invoice. Needs a key of an operator or admin, under whose name it is remembered."""


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every such command takes."""
    command = options.as_json(connected(command))
    command = click.option("--command-id", metavar="ID", help="Of a command that may have been done, to repeat it.")(
        command
    )
    command = click.option("--note", default="", help="Why, for those who look at it later.")(command)
    return click.argument("invoice_id", metavar="INVOICE")(command)


@act.command(epilog='Example: bems act complete INV/2026/000123 --stage posting --note "posted by hand"')
@click.option("--stage", type=click.Choice(STAGES), required=True, help="Which stage.")
@common
def complete(client: Client, stage: str, **given: Any) -> None:
    """A stage is complete, on your word: its event will not come."""
    carry_out(client, "complete", {"stage": stage}, **given)


@act.command(epilog='Example: bems act cancel INV/2026/000123 --note "a double"')
@common
def cancel(client: Client, **given: Any) -> None:
    """The invoice is withdrawn."""
    carry_out(client, "cancel", {}, **given)


@act.command(epilog="Example: bems act extend INV/2026/000123 --until 2026-12-24")
@click.option(
    "--until",
    type=WhenParam(),
    required=True,
    help="The new deadline, such as 2026-12-24T12:00:00+01:00. A date means the end of that day, here.",
)
@common
def extend(client: Client, until: Instant | date, **given: Any) -> None:
    """The wait's deadline moves to a later time; alerts that are out stay so."""
    carry_out(client, "extend", {"until": render(end_of(until))}, **given)


@act.command(epilog='Example: bems act park INV/2026/000123 --note "in court until spring"')
@common
def park(client: Client, **given: Any) -> None:
    """No more alerts until the invoice's next event."""
    carry_out(client, "park", {}, **given)


@act.command(epilog="Example: bems act revive INV/2026/000123")
@common
def revive(client: Client, **given: Any) -> None:
    """A parked invoice is waited for again, from now on."""
    carry_out(client, "revive", {}, **given)


@act.command(epilog='Example: bems act acknowledge INV/2026/000123 --note "called the vendor"')
@common
def acknowledge(client: Client, **given: Any) -> None:
    """The alerts so far have been seen; later ones still come."""
    carry_out(client, "acknowledge", {}, **given)


def carry_out(
    client: Client,
    verb: str,
    what: dict[str, str],
    *,
    invoice_id: str,
    note: str,
    command_id: str | None,
    as_json: bool,
) -> None:
    """Send the command, and say what has become of the invoice. It may be sent several times: its id makes it one."""
    command_id = command_id or f"cli-{secrets.token_hex(8)}"
    body = {"verb": verb, "command_id": command_id, "invoice_id": invoice_id, "note": note, **what}
    try:
        answer = client.ask("POST", "/commands", ACT, body=body, repeat=True)
    except Failure as failure:
        again = f"whether it was done is not known; to make sure, repeat it with --command-id {command_id}"
        raise Failure(f"{failure.message}; {again}") from failure
    accepted = shaped(answer, Accepted)
    found = client.ask("GET", f"/invoices/{escaped(invoice_id)}", ACT)
    invoice = shaped(found, Invoice)
    if as_json:
        known = {name: found[name] for name in Invoice.__struct_fields__ if name in found}
        print_json({**answer, "invoice": known})
        return
    done = "done" if accepted.status == "accepted" else "had been done before"
    click.echo(f"{verb} {invoice_id}: {done} (command {accepted.command_id})")
    click.echo(f"Status: {invoice.status}, {MEANING[invoice.status]}" + (f"; {invoice.mark}" if invoice.mark else ""))
    if invoice.waiting is not None:
        click.echo(f"Waits for {invoice.waiting.stage} until {moment(invoice.waiting.deadline)} UTC")


def end_of(until: Instant | date) -> Instant:
    """The instant that is meant; of a day, its end where this machine is."""
    if not isinstance(until, date):
        return until
    return from_datetime(datetime.combine(until + timedelta(days=1), time()).astimezone())

"""`bems act`: what an operator does to invoices."""

import secrets
from collections import Counter
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, NamedTuple

import click

from bems.cli import options
from bems.cli.bulk_commands import (
    BulkCommand,
    BulkSummary,
    CommandOutcome,
    as_document,
    format_outcome,
    read_ids,
    to_resumable_failure,
)
from bems.cli.checked_commands import CheckedGroup
from bems.cli.client import Client, decode_as, quote_path
from bems.cli.deadlines import DeadlineInput, DeadlineParam, is_relative, resolve_deadline
from bems.cli.errors import Failure, UserError
from bems.cli.files import load_policy
from bems.cli.options import connected
from bems.cli.output import format_time, print_json
from bems.cli.replay_report import STATUS_MEANINGS
from bems.embedded.api.access import OPERATORS, VIEWERS
from bems.embedded.api.operations import Accepted
from bems.embedded.api.views import CurrentWait, Health, Invoice
from bems.tracker.contract import STAGE_INDEX, STAGES
from bems.tracker.instants import Instant, parse, render, to_datetime


@click.group(cls=CheckedGroup)
def act() -> None:
    """Act on invoices: one, several, or all that a file names.

    Needs a key of an operator or admin, under whose name it is remembered.
    """


PARAMETERS = (
    click.argument("invoice_ids", metavar="[INVOICE]...", nargs=-1),
    click.option(
        "--from",
        "files",
        metavar="FILE",
        multiple=True,
        help="Act on every invoice that FILE names: an id a line, CSV with a column invoice_id (or the id first), or "
        "JSON lines with invoice_id; # begins a comment; - is standard input.",
    ),
    click.option("--note", default="", help="Why, for those who look at it later."),
    click.option("--command-id", metavar="ID", help="ID of an earlier command, to retry it safely."),
    click.option("--run", metavar="ID", help="ID of an earlier run over several invoices, to retry it safely."),
)


class CommandOptions(NamedTuple):
    """What every such command takes."""

    invoice_ids: tuple[str, ...]
    files: tuple[str, ...]
    note: str
    command_id: str | None
    run: str | None
    as_json: bool


def command_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what every such command takes."""

    def given_all(client: Client, /, **others: Any) -> None:
        command(client, CommandOptions(*(others.pop(name) for name in CommandOptions._fields)), **others)

    run = options.as_json(connected(update_wrapper(given_all, command)))
    for parameter in reversed(PARAMETERS):
        run = parameter(run)
    return run


@act.command(epilog='Example: bems act complete INV/2026/000123 --stage posting --note "posted by hand"')
@click.option("--stage", type=click.Choice(STAGES), required=True, help="Which stage.")
@command_options
def complete(client: Client, given: CommandOptions, stage: str) -> None:
    """A stage is complete, on your word: its event will not come."""
    run_command(client, given, "complete", {"stage": stage})


@act.command(epilog='Example: bems act cancel INV/2026/000123 --note "a double"')
@command_options
def cancel(client: Client, given: CommandOptions) -> None:
    """The invoice is withdrawn."""
    run_command(client, given, "cancel", {})


@act.command(epilog="Example: bems act extend INV/2026/000123 --until friday")
@click.option(
    "--until",
    type=DeadlineParam(),
    required=True,
    help="The new deadline: a date or a weekday (the end of that day here, or where the policy's calendar is), so long "
    "from now (+3d, +12h, +3bd), or a time such as 2026-12-24T12:00:00+01:00.",
)
@click.option("--policy", "policy_file", metavar="FILE", help="The policy whose calendar and time zone days are of.")
@command_options
def extend(client: Client, given: CommandOptions, until: DeadlineInput, policy_file: str | None) -> None:
    """Move the wait's deadline to a later time. The count of alerts starts anew there, and until the next alert, of
    which the answer says the time, the invoice is not stuck.

    A relative time counts from the cell's clock, and a weekday is the next such day, never today. The answer says
    which time was meant.
    """
    policy = None if policy_file is None else load_policy(policy_file)
    meant = resolve_deadline(until, _now_of(client) if is_relative(until) else 0, policy)
    run_command(client, given, "extend", {"until": render(meant.instant)}, meant.meaning)


@act.command(epilog='Example: bems act park INV/2026/000123 --note "in court until spring"')
@command_options
def park(client: Client, given: CommandOptions) -> None:
    """No more alerts until the invoice's next event."""
    run_command(client, given, "park", {})


@act.command(epilog="Example: bems act revive --from parked.csv")
@command_options
def revive(client: Client, given: CommandOptions) -> None:
    """A parked invoice is waited for again, from now on."""
    run_command(client, given, "revive", {})


@act.command(epilog='Example: bems act acknowledge INV/2026/000123 --note "called the vendor"')
@command_options
def acknowledge(client: Client, given: CommandOptions) -> None:
    """The alerts so far have been seen; later ones still come."""
    run_command(client, given, "acknowledge", {})


def run_command(client: Client, given: CommandOptions, verb: str, what: dict[str, str], meaning: str = "") -> None:
    """Send the command for each invoice. `meaning` says how its time was found."""
    invoice_ids = list(given.invoice_ids)
    for file in given.files:
        invoice_ids += read_ids(file)
    invoice_ids = list(dict.fromkeys(invoice_ids))
    if not invoice_ids and not given.files:
        raise UserError("say which: INVOICE ids, or --from FILE")
    if len(given.invoice_ids) == 1 and not given.files and given.run is None:
        _send_one(client, given, verb, what, meaning)
        return
    if given.command_id is not None:
        raise UserError("--command-id is for one invoice: retry a run over several with --run")
    _send_bulk(client, given, verb, what, meaning, invoice_ids)


def _send_one(client: Client, given: CommandOptions, verb: str, what: dict[str, str], meaning: str) -> None:
    """Say what has become of the invoice. The command may be sent several times: its id makes it one."""
    (invoice_id,) = given.invoice_ids
    command_id = given.command_id or f"cli-{secrets.token_hex(8)}"
    body = {"verb": verb, "command_id": command_id, "invoice_id": invoice_id, "note": given.note, **what}
    try:
        answer = client.request_json("POST", "/commands", OPERATORS, body=body, is_idempotent=True)
    except Failure as failure:
        until = f" --until {what['until']}" if meaning else ""
        again = f"whether it was done is not known; to make sure, repeat it with --command-id {command_id}{until}"
        raise Failure(f"{failure.message}; {again}") from failure
    accepted = decode_as(answer, Accepted)
    found = client.request_json("GET", f"/invoices/{quote_path(invoice_id)}", OPERATORS)
    invoice = decode_as(found, Invoice)
    if given.as_json:
        known = {name: found[name] for name in Invoice.__struct_fields__ if name in found}
        print_json({**answer, "invoice": known})
        return
    done = "done" if accepted.status == "accepted" else "had been done before"
    click.echo(f"{verb} {invoice_id}: {done} (command {accepted.command_id})")
    if "until" in what:
        click.echo(_new_deadline(what["until"], meaning))
    click.echo(
        f"Status: {invoice.status}, {STATUS_MEANINGS[invoice.status]}" + (f"; {invoice.mark}" if invoice.mark else "")
    )
    if invoice.waiting is not None:
        click.echo(_still_waits(invoice.waiting, what.get("stage")))
        next_alert_at = accepted.next_alert_at or invoice.waiting.next_alert_at
        click.echo(f"Next alert: {format_time(next_alert_at)} UTC")


def _still_waits(wait: CurrentWait, completed: Any) -> str:
    """What the invoice waits for; after a stage that was completed out of turn, that this one comes before it."""
    waits = f"Waits for {wait.stage} until {format_time(wait.deadline)} UTC"
    if completed in STAGES and STAGE_INDEX[wait.stage] < STAGE_INDEX[completed]:
        return f"{completed} is complete, but {wait.stage} comes before it and is still missing\n{waits}"
    return waits


def _send_bulk(
    client: Client, given: CommandOptions, verb: str, what: dict[str, str], meaning: str, invoice_ids: list[str]
) -> None:
    """Say what has become of each command, and how to repeat those that failed; exit code 1 if any did."""
    run = given.run or f"run-{secrets.token_hex(4)}"
    again = f"--run {run}" + (f" --until {what['until']}" if meaning else "")
    bulk = BulkCommand(client, run, {"verb": verb, "note": given.note, **what})

    def show(outcome: CommandOutcome) -> None:
        if not given.as_json and outcome.result != "not_sent":
            click.echo(format_outcome(verb, outcome))

    outcomes, is_interrupted = bulk.send(invoice_ids, show)
    if bulk.fault and all(outcome.result == "not_sent" for outcome in outcomes):
        raise bulk.fault
    summary = BulkSummary(Counter(outcome.result for outcome in outcomes))
    if given.as_json:
        print_json(as_document(run, {"verb": verb, **what}, outcomes, summary))
    else:
        if "until" in what:
            click.echo(_new_deadline(what["until"], meaning))
        click.echo(f"{summary}\nTo retry it safely, repeat it with {again}")
    if bulk.fault:
        raise to_resumable_failure(bulk.fault, again)
    if is_interrupted:
        raise click.Abort
    if not summary.all_succeeded:
        click.get_current_context().exit(1)


def _new_deadline(until: str, meaning: str) -> str:
    shown = format_time(to_datetime(parse(until)))
    return f"New deadline: {shown} UTC" + (f" ({meaning})" if meaning else "")


def _now_of(client: Client) -> Instant:
    """What the cell's clock says: in a rehearsal it is not this machine's."""
    answer = client.request_json("GET", "/healthz", VIEWERS)
    return parse(decode_as(answer, Health).now)

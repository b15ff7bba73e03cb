"""`bems act`: an operator's commands for invoices."""

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
from bems.cli.files import read_policy_file
from bems.cli.listing import ItemTable, Listing, with_listing
from bems.cli.options import connected
from bems.cli.output import format_time, print_json
from bems.cli.replay_report import STATUS_MEANINGS
from bems.cli.table_layout import Column
from bems.embedded.api.access import OPERATORS, VIEWERS
from bems.embedded.api.operations import Accepted, Requested
from bems.embedded.api.views import Command, CurrentWait, Health, Invoice
from bems.tracker.contract import STAGE_INDEX, STAGES
from bems.tracker.instants import Instant, parse, render, to_datetime


@click.group(cls=CheckedGroup)
def act() -> None:
    """Act on invoices: one, several, or all in a file.

    Requires an operator or admin key; the key's name is recorded with the command.
    """


PARAMETERS = (
    click.argument("invoice_ids", metavar="[INVOICE]...", nargs=-1),
    click.option(
        "--from",
        "files",
        metavar="FILE",
        multiple=True,
        help="Act on every invoice in FILE: one id per line, CSV with a column invoice_id (or the id first), or JSON "
        "lines with invoice_id. Lines that start with # are skipped; - reads standard input.",
    ),
    click.option("--note", default="", help="Why, kept with the command and shown with the invoice."),
    click.option("--command-id", metavar="ID", help="ID of an earlier command, to retry it safely."),
    click.option("--run", metavar="ID", help="ID of an earlier run over several invoices, to retry it safely."),
)


REQUEST_COLUMNS = (
    Column("Request"),
    Column("Command", is_prose=True),
    Column("Invoice"),
    Column("By", 2),
    Column("Confirm until (UTC)", 1),
    Column("Note", 3, is_prose=True),
)


class CommandOptions(NamedTuple):
    """Options of every act command."""

    invoice_ids: tuple[str, ...]
    files: tuple[str, ...]
    note: str
    command_id: str | None
    run: str | None
    as_json: bool


CommandArguments = dict[str, str | None]
"""Fields of a command's request that only its verb has. None is null."""


def command_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments and options of every act command."""

    def collect_options(client: Client, /, **others: Any) -> None:
        command(client, CommandOptions(*(others.pop(name) for name in CommandOptions._fields)), **others)

    run = options.as_json(connected(update_wrapper(collect_options, command)))
    for parameter in reversed(PARAMETERS):
        run = parameter(run)
    return run


@act.command(epilog='Example: bems act complete INV/2026/000123 --stage posting --note "posted by hand"')
@click.option("--stage", type=click.Choice(STAGES), required=True, help="Stage to complete.")
@command_options
def complete(client: Client, common: CommandOptions, stage: str) -> None:
    """Mark a stage complete whose event will not arrive. Requires a note.

    The stage is marked as recorded by hand. An event that contradicts it later raises an alert.
    """
    require_note(common)
    run_command(client, common, "complete", {"stage": stage})


def require_note(common: CommandOptions) -> None:
    if not common.note.strip():
        raise UserError('say why: use --note "..."')


@act.command(epilog='Example: bems act cancel INV/2026/000123 --note "a double"')
@command_options
def cancel(client: Client, common: CommandOptions) -> None:
    """Cancel an invoice. Requires a note."""
    require_note(common)
    run_command(client, common, "cancel", {})


@act.command(epilog="Example: bems act extend INV/2026/000123 --until friday")
@click.option(
    "--until",
    type=DeadlineParam(),
    required=True,
    help="New deadline: a date or weekday (the end of that day in this machine's time zone, or in that of "
    "--policy's calendar), a duration from now (+3d, +12h, +3bd), or a time such as 2026-12-24T12:00:00+01:00.",
)
@click.option("--policy", "policy_file", metavar="FILE", help="Policy whose calendar and time zone define the days.")
@command_options
def extend(client: Client, common: CommandOptions, until: DeadlineInput, policy_file: str | None) -> None:
    """Extend the deadline of an invoice's current wait.

    Alerts are counted anew from the new deadline. The invoice is not stuck until its next alert, whose time is printed.

    A duration counts from the cell's clock. A weekday is the next such day, never today. The resulting deadline is
    printed.
    """
    _send_until(client, common, "extend", until, policy_file)


@act.command(epilog='Example: bems act snooze INV/2026/000123 --until friday --note "the vendor will call"')
@click.option(
    "--until", type=DeadlineParam(), required=True, help="Time until which no alert is raised, as for extend."
)
@click.option("--policy", "policy_file", metavar="FILE", help="Policy whose calendar and time zone define the days.")
@command_options
def snooze(client: Client, common: CommandOptions, until: DeadlineInput, policy_file: str | None) -> None:
    """Raise no alert of an invoice's current wait until a time.

    The deadline stays, and the invoice stays stuck. At the end, the alert that is due by then is raised. A snooze must
    end before the wait's last alert, and ends with the wait.
    """
    _send_until(client, common, "snooze", until, policy_file)


@act.command(epilog="Example: bems act assign INV/2026/000123 --to jane@example.com")
@click.option("--to", "assignee", metavar="NAME", help="Person who takes care of the invoice.")
@click.option("--nobody", is_flag=True, help="Remove the assignment.")
@command_options
def assign(client: Client, common: CommandOptions, assignee: str | None, nobody: bool) -> None:
    """Assign an invoice to somebody."""
    if nobody is (assignee is not None):
        raise UserError("say to whom: use --to NAME, or --nobody")
    run_command(client, common, "assign", {"assignee": assignee})


@act.command(epilog='Example: bems act note INV/2026/000123 --note "asked the vendor for a credit note"')
@command_options
def note(client: Client, common: CommandOptions) -> None:
    """Leave a note, which is shown with the invoice. Every other command can carry one too."""
    require_note(common)
    run_command(client, common, "note", {})


def _send_until(
    client: Client, common: CommandOptions, verb: str, until: DeadlineInput, policy_file: str | None
) -> None:
    policy = None if policy_file is None else read_policy_file(policy_file)
    deadline = resolve_deadline(until, _read_clock(client) if is_relative(until) else 0, policy)
    run_command(client, common, verb, {"until": render(deadline.instant)}, deadline.meaning)


@act.command(epilog='Example: bems act park INV/2026/000123 --note "in court until spring"')
@command_options
def park(client: Client, common: CommandOptions) -> None:
    """Stop alerts until the invoice's next event. Requires a note."""
    require_note(common)
    run_command(client, common, "park", {})


@act.command(epilog="Example: bems act revive --from parked.csv")
@command_options
def revive(client: Client, common: CommandOptions) -> None:
    """Monitor a parked invoice again, from now on."""
    run_command(client, common, "revive", {})


@act.command(epilog='Example: bems act acknowledge INV/2026/000123 --note "called the vendor"')
@command_options
def acknowledge(client: Client, common: CommandOptions) -> None:
    """Mark an invoice's alerts so far as seen.

    Later alerts are still raised.
    """
    run_command(client, common, "acknowledge", {})


@act.command(epilog="Example: bems act requests")
@with_listing
def requests(listing: Listing) -> None:
    """List the commands that wait for a second person, newest first.

    The policy says which commands need one (`acts`). A request expires after 24 hours. Requires a viewer, operator or
    admin key.
    """
    listing.print_items(listing.read("/commands", VIEWERS, {"result": "requested"}), REQUEST_TABLE)


def _request_row(command: Command) -> tuple[str, ...]:
    extra = command.stage or (f"until {format_time(command.until)}" if command.until else "")
    return (
        command.command_id,
        f"{command.verb} {extra}".strip(),
        command.invoice_id,
        command.operator,
        format_time(command.confirm_by),
        command.note or "-",
    )


REQUEST_TABLE = ItemTable(list[Command], "request", REQUEST_COLUMNS, _request_row)


@act.command(epilog="Example: bems act confirm cli-2f6c1d0e9a7b3c54")
@click.argument("command_id", metavar="COMMAND")
@options.as_json
@connected
def confirm(client: Client, command_id: str, as_json: bool) -> None:
    """Confirm a command that another operator has requested. It takes effect now.

    Requires the operator or admin key of another person than who requested it.
    """
    path = f"/commands/{quote_path(command_id)}/confirmation"
    answer = client.request_json("POST", path, OPERATORS, is_idempotent=True)
    if as_json:
        print_json(answer)
        return
    accepted = decode_as(answer, Accepted)
    done = "confirmed and done" if accepted.status == "accepted" else "already confirmed"
    click.echo(f"{command_id}: {done}")


def run_command(
    client: Client, common: CommandOptions, verb: str, arguments: CommandArguments, meaning: str = ""
) -> None:
    """Send the command for each invoice. `meaning` describes how its deadline was calculated."""
    invoice_ids = list(common.invoice_ids)
    for file in common.files:
        invoice_ids += read_ids(file)
    invoice_ids = list(dict.fromkeys(invoice_ids))
    if not invoice_ids and not common.files:
        raise UserError("no invoice given: name INVOICE ids, or use --from FILE")
    if len(common.invoice_ids) == 1 and not common.files and common.run is None:
        _send_one(client, common, verb, arguments, meaning)
        return
    if common.command_id is not None:
        raise UserError("--command-id is for one invoice; use --run to retry a run over several")
    _send_bulk(client, common, verb, arguments, meaning, invoice_ids)


def _send_one(client: Client, common: CommandOptions, verb: str, arguments: CommandArguments, meaning: str) -> None:
    """Send the command for one invoice and print the invoice's new state. The command id makes retries idempotent."""
    (invoice_id,) = common.invoice_ids
    command_id = common.command_id or f"cli-{secrets.token_hex(8)}"
    body = {"verb": verb, "command_id": command_id, "invoice_id": invoice_id, "note": common.note, **arguments}
    try:
        answer = client.request_json("POST", "/commands", OPERATORS, body=body, is_idempotent=True)
    except Failure as failure:
        until = f" --until {arguments['until']}" if meaning else ""
        hint = f"it is not known whether the command was done; repeat it safely with --command-id {command_id}{until}"
        raise Failure(f"{failure.message}; {hint}") from failure
    if isinstance(answer, dict) and answer.get("status") == "requested":
        if common.as_json:
            print_json(answer)
            return
        requested = decode_as(answer, Requested)
        click.echo(
            f"{verb} {invoice_id}: requested; another person must confirm it until"
            f" {format_time(requested.confirm_by)} UTC:\n  bems act confirm {requested.command_id}"
        )
        return
    accepted = decode_as(answer, Accepted)
    found = client.request_json("GET", f"/invoices/{quote_path(invoice_id)}", OPERATORS)
    invoice = decode_as(found, Invoice)
    if common.as_json:
        known = {name: found[name] for name in Invoice.__struct_fields__ if name in found}
        print_json({**answer, "invoice": known})
        return
    done = "done" if accepted.status == "accepted" else "already done"
    click.echo(f"{verb} {invoice_id}: {done} (command {accepted.command_id})")
    if "until" in arguments:
        click.echo(_describe_until(verb, arguments["until"] or "", meaning))
    if "assignee" in arguments:
        click.echo(f"Assigned to {invoice.assignee}" if invoice.assignee else "Assigned to nobody")
    click.echo(
        f"Status: {invoice.status}, {STATUS_MEANINGS[invoice.status]}" + (f"; {invoice.mark}" if invoice.mark else "")
    )
    if invoice.waiting is not None:
        click.echo(_describe_wait(invoice.waiting, arguments.get("stage")))
        next_alert_at = accepted.next_alert_at or invoice.waiting.next_alert_at
        click.echo(f"Next alert: {format_time(next_alert_at)} UTC")


def _describe_wait(wait: CurrentWait, completed: Any) -> str:
    """Return what the invoice waits for, with a note if a later stage was completed first."""
    waits = f"Waits for {wait.stage} until {format_time(wait.deadline)} UTC"
    if completed in STAGES and STAGE_INDEX[wait.stage] < STAGE_INDEX[completed]:
        return f"{completed} is complete, but the earlier stage {wait.stage} is still missing\n{waits}"
    return waits


def _send_bulk(
    client: Client,
    common: CommandOptions,
    verb: str,
    arguments: CommandArguments,
    meaning: str,
    invoice_ids: list[str],
) -> None:
    """Send the command for several invoices and print each outcome. Exits with 1 if any command failed."""
    run = common.run or f"run-{secrets.token_hex(4)}"
    retry_options = f"--run {run}" + (f" --until {arguments['until']}" if meaning else "")
    bulk = BulkCommand(client, run, {"verb": verb, "note": common.note} | arguments)

    def show(outcome: CommandOutcome) -> None:
        if not common.as_json and outcome.result != "not_sent":
            click.echo(format_outcome(verb, outcome))

    outcomes, is_interrupted = bulk.send(invoice_ids, show)
    if bulk.fault and all(outcome.result == "not_sent" for outcome in outcomes):
        raise bulk.fault
    summary = BulkSummary(Counter(outcome.result for outcome in outcomes))
    if common.as_json:
        print_json(as_document(run, {"verb": verb} | arguments, outcomes, summary))
    else:
        if "until" in arguments:
            click.echo(_describe_until(verb, arguments["until"] or "", meaning))
        click.echo(f"{summary}\nTo retry safely, repeat the command with {retry_options}")
    if bulk.fault:
        raise to_resumable_failure(bulk.fault, retry_options)
    if is_interrupted:
        raise click.Abort
    if not summary.all_succeeded:
        click.get_current_context().exit(1)


def _describe_until(verb: str, until: str, meaning: str) -> str:
    shown = format_time(to_datetime(parse(until)))
    what = "New deadline" if verb == "extend" else "No alerts until"
    return f"{what}: {shown} UTC" + (f" ({meaning})" if meaning else "")


def _read_clock(client: Client) -> Instant:
    """Return the time of the cell's clock, which differs from this machine's with bems up --speed."""
    answer = client.request_json("GET", "/healthz", VIEWERS)
    return parse(decode_as(answer, Health).now)

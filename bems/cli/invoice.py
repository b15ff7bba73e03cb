"""`bems invoice`: all that is known of one invoice."""

from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from bems.cli import options
from bems.cli.alerts import name_of
from bems.cli.client import Client, escaped, shaped
from bems.cli.complaints import one_line
from bems.cli.options import connected
from bems.cli.report import MEANING
from bems.cli.show import moment, money, print_json, screen, table, whose
from bems.embedded.api.access import LOOK
from bems.embedded.api.views import Command, Execution, InvoiceDetails, Transition, Waiting
from bems.tracker.contract import PaymentTerms, Source, Vendor

ENTERED = "StateEntered"

MOST_EVENTS = 25_000
"""No history has more (Step Functions' quota, which the engine has too)."""


@click.command(epilog="Example: bems invoice INV/2026/000123 --history")
@click.argument("invoice_id", metavar="ID")
@click.option("--history", is_flag=True, help="Show each event in the history of its executions.")
@options.as_json
@connected
def invoice(client: Client, invoice_id: str, history: bool, as_json: bool) -> None:
    """Show all that is known of an invoice.

    Its status, what it waits for, what happened to it, and the states that its executions walked through.

    Needs a key of a viewer, operator or admin.
    """
    answer = client.ask("GET", f"/invoices/{escaped(invoice_id)}", LOOK)
    _read_on(client, answer)
    if as_json:
        print_json(answer)
        return
    details = shaped(answer, InvoiceDetails)
    console = screen()
    for label, text in _facts(details):
        console.print(Text(f"{label:<12}", style="bold"), Text(one_line(text)), sep="", soft_wrap=True)
    _print_part(
        console,
        "What happened (UTC)",
        ("Recorded", "What", "Status", "Event"),
        map(_happening, reversed(details.transitions)),
    )
    _print_part(
        console,
        "Alerts (UTC)",
        ("Alert", "Severity", "Due", "Raised", "Id"),
        ((name_of(one), one.severity, moment(one.due_at), moment(one.raised_at), one.id) for one in details.alerts),
    )
    _print_part(
        console,
        "Commands (UTC)",
        ("Accepted", "Command", "Operator", "Result", "Note", "Id"),
        map(_command, details.commands),
    )
    for execution in reversed(details.executions):
        console.print(Text(f"\nExecution {execution.name}: {execution.status}", style="bold"))
        steps = _events(execution) if history else _states(execution)
        columns = ("Entered", "State") if not history else ("At", "No.", "Event", "Details")
        console.print(table(columns, steps))


def _read_on(client: Client, answer: Any) -> None:
    """Add to the executions what of their histories the answer had no room for."""
    executions = answer.get("executions") if isinstance(answer, dict) else None
    for execution in executions if isinstance(executions, list) else ():
        if isinstance(execution, dict) and execution.get("next_cursor"):
            path = f"/executions/{escaped(str(execution.get('name')))}/history"
            rest = client.list(path, LOOK, {}, MOST_EVENTS, cursor=execution["next_cursor"])
            execution["history"] = [*execution.get("history", ()), *rest.items]
            execution["next_cursor"] = None


def _facts(details: InvoiceDetails) -> Iterator[tuple[str, str]]:
    yield "Invoice", details.invoice_id
    marks = ", ".join(filter(None, (details.mark, "stuck" if details.stuck else "")))
    yield "Status", f"{details.status}: {MEANING[details.status]}" + (f" ({marks})" if marks else "")
    yield "Amount", money(details.amount, details.currency)
    yield "Vendor", _vendor(details.vendor)
    if details.payment_terms is not None:
        yield "Terms", _terms(details.payment_terms)
    if details.source is not None:
        yield "Source", _source(details.source)
    for name, value in (details.attributes or {}).items():
        yield "Attribute", f"{name}: {value}"
    if details.waiting is not None:
        yield from _waiting(details.waiting)
    elif details.stage is not None:
        yield "Lacks", f"{details.stage}, which nobody waits for any more; bems act revive changes that"


def _waiting(wait: Waiting) -> Iterator[tuple[str, str]]:
    yield "Waits for", f"{wait.stage}, since {moment(wait.since)} UTC"
    yield "Deadline", f"{moment(wait.deadline)} UTC"
    yield "Next alert", f"{moment(wait.next_alert_at)} UTC"
    seen = f"; {wait.acknowledged} acknowledged" if wait.acknowledged else ""
    yield "Alerts out", (f"{wait.step}, the newest {wait.severity}{seen}" if wait.step else "none")


def _vendor(vendor: Vendor) -> str:
    more = ", ".join(filter(None, (vendor.id if vendor.name else "", vendor.country, vendor.tier)))
    return whose(vendor) + (f" ({more})" if more else "")


def _terms(terms: PaymentTerms) -> str:
    days = f"{terms.days} days" if terms.days is not None else None
    due = f"due {terms.due_date}" if terms.due_date is not None else None
    return ", ".join(filter(None, (days, due)))


def _source(source: Source) -> str:
    return ", ".join(filter(None, (source.system, source.region, source.account_id)))


def _print_part(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    several = list(rows)
    if several:
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table(columns, several))


def _happening(row: Transition) -> tuple[str, ...]:
    match row.kind:
        case "alert":
            what = f"alert {row.step} of {row.stage}, {row.severity}" if row.step else f"alert of {row.stage}"
        case "park" | "revive":
            what = {"park": "parked", "revive": "revived"}[row.kind]
        case _:
            what = " ".join(filter(None, (row.stage, row.outcome)))
    if row.kind == "command":
        what += " by command"
    if row.superseded:
        what += ", superseded by what was known"
    changed = row.from_status != row.to_status
    status = f"{row.from_status or 'new'} > {row.to_status}" if changed else row.to_status
    event = row.event_id or "-"
    if row.kind == "event":
        event += f", occurred {moment(row.occurred_at)}"
    return moment(row.recorded_at), what, status, event


def _command(command: Command) -> tuple[str, ...]:
    extra = command.stage or (f"until {moment(command.until)}" if command.until else "")
    result = f"{command.result}: {command.reason}" if command.reason else command.result
    verb = f"{command.verb} {extra}".strip()
    return moment(command.accepted_at), verb, command.operator, result, command.note, command.command_id


def _states(execution: Execution) -> Iterator[tuple[str, ...]]:
    for event in execution.history:
        if str(event.get("type", "")).endswith(ENTERED):
            name = event.get("stateEnteredEventDetails", {}).get("name", "-")
            yield _at(event), str(name)


def _events(execution: Execution) -> Iterator[tuple[str, ...]]:
    for event in execution.history:
        details = [value for name, value in event.items() if name.endswith("EventDetails")]
        told = msgspec.json.encode(details[0]).decode() if details else ""
        yield _at(event), str(event.get("id", "")), str(event.get("type", "")), told


def _at(event: dict[str, object]) -> str:
    return str(event.get("timestamp", "-"))[:19].replace("T", " ")

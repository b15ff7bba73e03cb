"""`bems invoice`: shows an invoice with its whole history."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.text import Text

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, decode_as, quote_path
from bems.cli.commands.alerts import KIND_TEXTS, describe_alert
from bems.cli.errors import UserError
from bems.cli.listing import ItemTable, Listing
from bems.cli.options import connected
from bems.cli.output import (
    format_amount,
    format_time,
    format_times,
    make_console,
    pluralize_count,
    print_json,
    vendor_label,
)
from bems.cli.replay_report import STATUS_MEANINGS
from bems.cli.row_folding import FoldedState, describe_cadence, fold_alerts, fold_states, fold_waits
from bems.cli.table_layout import Column, print_table
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.views import Alert, Command, CurrentWait, Event, Execution, InvoiceDetails, Outcome, Transition
from bems.tracker.contract import STAGES, Actor, PaymentBody, PaymentTerms, Reason, Source, Stage, Vendor

STATE_ENTERED = "StateEntered"

MAX_EVENTS_SHOWN = 25_000
"""Maximum number of events in an execution's history (the quota of AWS Step Functions, which the engine shares)."""

MAX_EVENTS = 1_000_000
"""Maximum number of events shown of an invoice, more than any has."""


class _SentEvent(msgspec.Struct):
    """The shown fields of an event as it was sent."""

    event_id: str
    status: str
    occurred_at: datetime
    amount: str
    currency: str
    vendor: Vendor
    source: Source
    attributes: dict[str, str] = {}
    imported: bool = False
    actor: Actor | None = None
    reason: Reason | None = None
    payment: PaymentBody | None = None


FACT_COLUMNS = (Column("Fact"), Column("Value", is_prose=True))
OUTCOME_COLUMNS = (
    Column("Stage"),
    Column("Outcome"),
    Column("Occurred", 2),
    Column("Stated by", 1, is_prose=True),
    Column("Details", 1, is_prose=True),
    Column("Event", 3, is_prose=True),
)
EVENT_COLUMNS = (
    Column("Occurred (UTC)"),
    Column("Outcome", is_prose=True),
    Column("Amount", 1, is_right=True),
    Column("Source", 2, is_prose=True),
    Column("Details", 3, is_prose=True),
    Column("Vendor", 5, is_prose=True),
    Column("Received (UTC)", 4),
    Column("Event", 6),
)
TRANSITION_COLUMNS = (
    Column("Recorded"),
    Column("What", is_prose=True),
    Column("Status", 1, is_prose=True),
    Column("Event", 2, is_prose=True),
)
INVOICE_ALERT_COLUMNS = (
    Column("Raised"),
    Column("Alert", is_prose=True),
    Column("Severity", 1),
    Column("Due", 2, is_prose=True),
    Column("Id", 3, is_prose=True),
)
COMMAND_COLUMNS = (
    Column("Accepted"),
    Column("Command", is_prose=True),
    Column("Operator", 2),
    Column("Result", 1, is_prose=True),
    Column("Note", 3, is_prose=True),
    Column("Id", 4),
)
STATE_COLUMNS = (Column("Entered"), Column("State", is_prose=True))
EXECUTION_EVENT_COLUMNS = (
    Column("At"),
    Column("No.", 2, is_right=True),
    Column("Event", 1),
    Column("Details", 3, is_prose=True),
)


@click.command(cls=CheckedCommand, epilog="Example: bems invoice INV/2026/000123 --history")
@click.argument("invoice_id", metavar="ID")
@click.option("--history", is_flag=True, help="Show each event in the history of the invoice's executions.")
@click.option("--events", is_flag=True, help="Show only the invoice's events, as they were sent.")
@options.wide
@options.as_json
@connected
def invoice(client: Client, invoice_id: str, history: bool, events: bool, wide: bool, as_json: bool) -> None:
    """Show an invoice and everything that happened to it.

    Prints its status, what it waits for, the author of the latest outcome of each stage, its transitions, alerts and
    commands, and the states of its executions, all with the newest first. The alerts of one wait share a line. With
    --events, prints every event as it was sent: first the dead letters, whose handling failed, then the newest first.

    Requires a viewer, operator or admin key.
    """
    if events:
        if history:
            raise UserError("--events and --history cannot be combined: use one of them")
        listing = Listing(client, MAX_EVENTS, wide, as_json)
        listing.print_items(listing.read(f"/invoices/{quote_path(invoice_id)}/events", VIEWERS, {}), EVENT_TABLE)
        return
    answer = client.request_json("GET", f"/invoices/{quote_path(invoice_id)}", VIEWERS)
    _read_full_histories(client, answer)
    if as_json:
        print_json(answer)
        return
    details = decode_as(answer, InvoiceDetails)
    console = make_console()
    print_table(console, FACT_COLUMNS, _facts(details), header=False)

    def print_section(title: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        table = list(rows)
        if table:
            console.print(Text(f"\n{title}", style="bold"))
            print_table(console, columns, table, wide=wide)

    outcomes = [_outcome(stage, details.outcomes[stage]) for stage in STAGES if stage in details.outcomes]
    print_section("Latest outcome of each stage (UTC)", OUTCOME_COLUMNS, outcomes)
    print_section(
        "Transitions (UTC), newest first", TRANSITION_COLUMNS, map(_transition, fold_alerts(details.transitions))
    )
    print_section("Alerts (UTC), newest first", INVOICE_ALERT_COLUMNS, map(_wait_alerts, fold_waits(details.alerts)))
    print_section("Commands (UTC), newest first", COMMAND_COLUMNS, map(_command, details.commands))
    for execution in details.executions:
        title = f"Execution {execution.name}: {execution.status}; newest first"
        if history:
            print_section(title, EXECUTION_EVENT_COLUMNS, reversed(list(_events(execution))))
        else:
            print_section(title, STATE_COLUMNS, map(_state, fold_states(list(_states(execution)))))


def _event(one: Event) -> tuple[str, ...]:
    event = decode_as(one.event, _SentEvent)
    outcome = f"{one.stage} {event.status}" + (", imported" if event.imported else "")
    if not one.applied:
        outcome += ", not applied: a dead letter"
    elif one.superseded:
        outcome += ", superseded"
    return (
        format_time(event.occurred_at),
        outcome,
        format_amount(event.amount, event.currency),
        _stated_by(event.source, event.actor),
        _details(event.reason, event.payment, event.attributes) or "-",
        vendor_label(event.vendor),
        format_time(one.received_at),
        event.event_id,
    )


EVENT_TABLE = ItemTable(list[Event], "event", EVENT_COLUMNS, _event)


def _outcome(stage: Stage, outcome: Outcome) -> tuple[str, ...]:
    stated_by = "-"
    if outcome.operator is not None:
        stated_by = f"by hand, {outcome.operator}"
    elif outcome.source is not None:
        stated_by = _stated_by(outcome.source, outcome.actor)
    note = outcome.note or _details(outcome.reason, outcome.payment, outcome.attributes) or "-"
    return stage, outcome.status, format_time(outcome.occurred_at), stated_by, note, outcome.event_id


def _stated_by(source: Source, actor: Actor | None) -> str:
    return f"{source.system}, {actor.id}" if actor else source.system


def _details(reason: Reason | None, payment: PaymentBody | None, attributes: dict[str, str]) -> str:
    """Return text such as `QUA: damaged; approver: jane; paid 1250.00 on 2026-03-02`."""
    texts = [": ".join(filter(None, (reason.code, reason.text)))] if reason else []
    if payment:
        discount = f", discount {payment.discount_taken}" if payment.discount_taken else ""
        texts.append(f"paid {payment.amount} on {payment.paid_on}{discount}")
    return "; ".join(filter(None, (*texts, _format_attributes(attributes))))


def _format_attributes(attributes: dict[str, str]) -> str:
    """Return text such as `approver: jane; reason: price`."""
    return "; ".join(f"{name}: {value}" for name, value in attributes.items())


def _read_full_histories(client: Client, answer: Any) -> None:
    """Add the remaining pages of each execution's history to the answer."""
    executions = answer.get("executions") if isinstance(answer, dict) else None
    for execution in executions if isinstance(executions, list) else ():
        if isinstance(execution, dict) and execution.get("next_cursor"):
            path = f"/executions/{quote_path(str(execution.get('name')))}/history"
            rest = client.list(path, VIEWERS, {}, MAX_EVENTS_SHOWN, cursor=execution["next_cursor"])
            execution["history"] = [*execution.get("history", ()), *rest.items]
            execution["next_cursor"] = None


def _facts(details: InvoiceDetails) -> Iterator[tuple[str, str]]:
    yield "Invoice", details.invoice_id
    marks = ", ".join(filter(None, (details.mark, "stuck" if details.stuck else "")))
    yield "Status", f"{details.status}: {STATUS_MEANINGS[details.status]}" + (f" ({marks})" if marks else "")
    yield "Amount", format_amount(details.amount, details.currency)
    yield "Vendor", _vendor(details.vendor)
    if details.number or details.issue_date:
        issued = f"issued {details.issue_date}" if details.issue_date else None
        yield "Number", ", ".join(filter(None, (details.number, issued)))
    if details.buyer is not None:
        yield "Buyer", " ".join(filter(None, (details.buyer.id, details.buyer.name)))
    if details.purchase_orders:
        yield "Orders", ", ".join(details.purchase_orders)
    elif not details.match_required:
        yield "Orders", "none: the policy requires no reconciliation"
    if details.payment_terms is not None:
        yield "Terms", _terms(details.payment_terms)
    if details.source is not None:
        yield "Source", _source(details.source)
    for name, value in (details.attributes or {}).items():
        yield "Attribute", f"{name}: {value}"
    if details.posted_on is not None:
        yield "Posted", f"{format_time(details.posted_on)} UTC"
    for stage, manual in details.recorded_by_hand.items():
        yield "By hand", f"{stage} {manual.status} by {manual.operator}, {format_time(manual.at)} UTC"
    if details.assignee is not None:
        yield "Assigned to", details.assignee
    if details.note is not None:
        yield "Note", f"{details.note.text} ({details.note.operator}, {format_time(details.note.at)} UTC)"
    if details.waiting is not None:
        yield from _waiting(details.waiting, is_stuck=details.stuck)
    if details.parked is not None:
        parked = details.parked
        by = f"by {parked.by}" if parked.by else "after its last alert"
        yield "Parked", f"since {format_time(parked.at)} UTC, {by}"
        yield (
            "Waited for",
            f"{parked.stage}, since {format_time(parked.since)} UTC; {pluralize_count(parked.step, 'alert')}",
        )
    if details.waiting is None and details.stage is not None:
        yield "Missing", f"{details.stage}, which is no longer monitored; bems act revive monitors it again"


def _waiting(wait: CurrentWait, *, is_stuck: bool) -> Iterator[tuple[str, str]]:
    yield "Waits for", f"{wait.stage}, since {format_time(wait.since)} UTC"
    yield "Deadline", f"{format_time(wait.deadline)} UTC"
    if wait.counted_from is not None:
        yield "Counted from", f"{format_time(wait.counted_from)} UTC, when its events occurred"
    if wait.extensions:
        until = "the deadline has passed" if is_stuck else "not stuck until then"
        by = f"by {wait.extended_by}, {format_times(wait.extensions)}"
        yield "Extended", f"to {format_time(wait.deadline)} UTC, {by}; {until}"
    snoozed = ", snoozed until then" if wait.snoozed_until else ""
    yield "Next alert", f"{format_time(wait.next_alert_at)} UTC{snoozed}"
    seen = f"; {wait.acknowledged} acknowledged" if wait.acknowledged else ""
    if wait.extensions and wait.step and not is_stuck:
        yield "Alerts", f"none since the extension, {wait.step} before{seen}"
    else:
        yield "Alerts", (f"{wait.step}, the latest {wait.severity}{seen}" if wait.step else "none")


def _vendor(vendor: Vendor) -> str:
    more = ", ".join(filter(None, (vendor.id if vendor.name else "", vendor.country, vendor.tier)))
    return vendor_label(vendor) + (f" ({more})" if more else "")


def _terms(terms: PaymentTerms) -> str:
    days = f"{terms.days} days" if terms.days is not None else None
    baseline = f"from {terms.baseline_date}" if terms.baseline_date is not None else None
    due = f"due {terms.due_date}" if terms.due_date is not None else None
    discounts = (f"{discount.percent}% within {discount.days} days" for discount in terms.cash_discounts)
    return ", ".join(filter(None, (days, baseline, due, *discounts)))


def _source(source: Source) -> str:
    return ", ".join(filter(None, (source.system, source.region, source.account_id)))


def _transition(rows: Sequence[Transition]) -> tuple[str, ...]:
    row, first = rows[0], rows[-1]
    match row.kind:
        case "alert" if len(rows) > 1:
            interval = describe_cadence([one.recorded_at for one in reversed(rows)])
            what = f"alerts {first.step} to {row.step} of {row.stage}, {interval}, last {row.severity}"
        case "alert":
            what = f"alert {row.step} of {row.stage}, {row.severity}"
            if not row.step:
                what = f"alert: {KIND_TEXTS.get(row.outcome or '', row.stage)}"
        case "park" | "revive" | "dormant":
            what = {"park": "parked", "revive": "revived", "dormant": "dormant: its executions fail"}[row.kind]
        case "command":
            stage = f" {row.stage}" if row.outcome == "complete" else ""
            what = f"{row.outcome}{stage} by {row.actor or 'command'}"
        case _:
            what = " ".join(filter(None, (row.stage, row.outcome)))
    if row.superseded:
        what += ", superseded by a later outcome"
    changed = row.from_status != row.to_status
    status = f"{row.from_status or 'new'} > {row.to_status}" if changed else row.to_status
    event = row.event_id or "-"
    if row.kind == "event":
        event += f", occurred {format_time(row.occurred_at)}"
    return format_time(row.recorded_at), what, status, event


def _command(command: Command) -> tuple[str, ...]:
    extra = command.stage or command.assignee or (f"until {format_time(command.until)}" if command.until else "")
    result = f"{command.result}: {command.reason}" if command.reason else command.result
    verb = f"{command.verb} {extra}".strip()
    return format_time(command.accepted_at), verb, command.operator, result, command.note, command.command_id


def _wait_alerts(alerts: Sequence[Alert]) -> tuple[str, ...]:
    newest, first = alerts[0], alerts[-1]
    if len(alerts) == 1:
        return (
            format_time(newest.raised_at),
            describe_alert(newest),
            newest.severity,
            "-" if newest.kind == "resolved" else format_time(newest.due_at),
            newest.id,
        )
    interval = describe_cadence([one.due_at for one in reversed(alerts)])
    last = ", the last" if newest.last else ""
    what = f"{newest.stage} stuck, {first.step} to {newest.step}{last}, {interval}"
    due = f"{format_time(first.due_at)} to {format_time(newest.due_at)}"
    return format_time(newest.raised_at), what, f"last {newest.severity}", due, f"{first.id} to {newest.id}"


def _state(entered: FoldedState) -> tuple[str, ...]:
    return entered.at, entered.state + (
        f", {entered.times} times since {entered.first_at}" if entered.times > 1 else ""
    )


def _states(execution: Execution) -> Iterator[tuple[str, str]]:
    for event in execution.history:
        if str(event.get("type", "")).endswith(STATE_ENTERED):
            name = event.get("stateEnteredEventDetails", {}).get("name", "-")
            yield _at(event), str(name)


def _events(execution: Execution) -> Iterator[tuple[str, ...]]:
    for event in execution.history:
        details = [value for name, value in event.items() if name.endswith("EventDetails")]
        text = msgspec.json.encode(details[0]).decode() if details else ""
        yield _at(event), str(event.get("id", "")), str(event.get("type", "")), text


def _at(event: dict[str, object]) -> str:
    return str(event.get("timestamp", "-"))[:19].replace("T", " ")

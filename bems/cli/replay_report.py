"""The report as a finance person reads it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from msgspec import to_builtins
from rich.console import Console
from rich.text import Text

from bems.cli.output import duration, format_amount, make_console, vendor_label
from bems.cli.table_layout import Column, Row, print_table
from bems.embedded.replay.report import ALERT_CATEGORIES, AlertCategory, InvoiceLine, Report
from bems.tracker.contract import STAGES
from bems.tracker.instants import DAY, Instant, render, to_datetime
from bems.tracker.status import WAITS_FOR, Status

MAX_ROWS = 10
MOST_REASONS = 12
LONG_JUMP = 30 * DAY

STATUSES = (
    Column("Status"),
    Column("Invoices", is_right=True),
    Column("Share", is_right=True),
    Column("Meaning", 1, is_prose=True),
)
TIMES = ("Stage", "Passed", "Half within", "90% within", "99% within")
ALERTS = (
    Column("Stage"),
    Column("Invoices", is_right=True),
    Column("Warnings", is_right=True),
    Column("Critical", is_right=True),
)
STUCK = (
    Column("Invoice"),
    Column("Status", 2),
    Column("Waits since", 3),
    Column("Alerts", 4, is_right=True),
    Column("Amount", 1, is_right=True),
    Column("Vendor", 5, is_prose=True),
)
IDENTITIES = (Column("Invoice"), Column("What two invoices may share the id", is_prose=True))

MEANING: dict[Status, str] = {
    "Orphan": "events came, but no ingestion yet",
    "Cancelled": "withdrawn by its source",
    "AwaitingAuthorization": "ingested, not yet approved",
    "Rejected": "authorization refused",
    "AwaitingReconciliation": "approved, not yet matched",
    "Disputed": "does not match its order or receipt",
    "AwaitingPosting": "matched, not yet posted",
    "PostingFailed": "the ledger refused it",
    "Posted": "through all four stages",
}


def as_document(report: Report, seconds: float) -> dict[str, Any]:
    """All that the printed report has, for programs; of what it shows only the first, everything."""
    lines = report.accepted + report.duplicate + report.refused
    alerted = alerted_invoices(report)
    period = None
    if report.first is not None:
        period = {"first": render(report.first), "last": render(report.last), "end": render(report.end)}
    jump = None
    if report.longest_jump is not None and is_long_jump(report):
        jump = {
            "line": report.longest_jump.line,
            "before": render(report.longest_jump.before),
            "after": render(report.longest_jump.after),
        }
    return {
        **report.summary(),
        "left_out": report.left_out,
        "period": period,
        "jump": jump,
        "reasons": dict(report.reasons.most_common()),
        "parked": report.parked,
        "alerted_invoices": {stage: count for stage, count in alerted.items() if count},
        "alerts_per_100_invoices": alerts_per_100_invoices(report),
        "passed": {stage: len(report.durations[stage]) for stage in STAGES},
        "stuck": [_stuck_document(invoice) for invoice in report.stuck()],
        "identity": [{"invoice_id": invoice_id, "detail": detail} for invoice_id, detail in _shared_ids(report)],
        "seconds": round(seconds, 3),
        "events_per_second": round(lines / seconds, 1),
    }


def _stuck_document(invoice: InvoiceLine) -> dict[str, Any]:
    return {
        "invoice_id": invoice.invoice_id,
        "status": invoice.status,
        "stage": invoice.stage,
        "waiting_since": render(invoice.waiting_since or 0),
        "alerts": alerts_out(invoice),
        "parked": invoice.parked,
        "amount": f"{invoice.amount:f}",
        "currency": invoice.currency,
        "vendor": to_builtins(invoice.vendor),
    }


def alerts_per_100_invoices(report: Report) -> float:
    """How loud a policy is, whatever the volume; 0 without invoices."""
    return round(100 * report.alerts.total() / len(report.invoices), 1) if report.invoices else 0.0


class Part(NamedTuple):
    """A table of a report, with its title."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def print_report(report: Report, seconds: float, *, wide: bool = False) -> None:
    """Print to standard output; plain text where it is not a terminal."""
    console = make_console()
    lines = report.accepted + report.duplicate + report.refused
    click.echo()
    heading(
        console,
        "Events",
        f"{report.accepted:,} accepted, {report.duplicate:,} duplicate, {report.refused:,} refused"
        + (f"; {report.left_out:,} later than --until were left out" if report.left_out else ""),
    )
    if report.first is not None:
        heading(console, "Period", f"{_day(report.first)} to {_day(report.last)}; time ran on to {_day(report.end)}")
    heading(console, "Replayed", f"{lines:,} events in {duration(seconds)} ({lines / seconds:,.0f} a second)")
    if is_long_jump(report):
        assert report.longest_jump is not None
        days = (report.longest_jump.after - report.longest_jump.before) // DAY
        heading(
            console,
            "Note",
            f"line {report.longest_jump.line:,} of the log is {days} days later than all before it, of "
            f"{_day(report.longest_jump.after)}; if that date is wrong, what waited then counts as stuck too soon",
        )
    for part in (
        _refusals(report),
        _statuses(report),
        _stages(report),
        _alerts(report),
        _stuck(report),
        _identities(report),
    ):
        if part:
            print_part(console, part, wide=wide)


def heading(console: Console, label: str, text: str) -> None:
    """A line with its label, wrapped between words where a terminal is narrow."""
    print_table(console, (Column("", 0), Column("", 0, is_prose=True)), [(f"{label:<8}", text)], header=False)


def print_part(console: Console, part: Part, *, wide: bool | None = None) -> None:
    """Print a table under its title."""
    console.print(Text(f"\n{part.title}\n", style="bold"))
    print_table(console, part.columns, part.rows, wide=wide)


def is_long_jump(report: Report) -> bool:
    """Whether two lines lie so far apart that a date may be wrong."""
    return report.longest_jump is not None and report.longest_jump.after - report.longest_jump.before > LONG_JUMP


def _refusals(report: Report) -> Part | None:
    if not report.reasons:
        return None
    rows: list[Row] = [(reason, f"{count:,}") for reason, count in report.reasons.most_common(MOST_REASONS)]
    if len(report.reasons) > MOST_REASONS:
        rows.append((f"{len(report.reasons) - MOST_REASONS} more reasons", ""))
    columns = Column("Reason", is_prose=True), Column("Events", is_right=True)
    return Part("Refused, by reason (an event may have several)", columns, rows)


def _statuses(report: Report) -> Part | None:
    total = len(report.invoices)
    if not total:
        return None
    rows: list[Row] = [
        (status, f"{count:,}", f"{count / total:.1%}", MEANING[status])
        for status in WAITS_FOR
        if (count := report.statuses[status])
    ]
    parked = f"{report.parked:,}", f"{report.parked / total:.1%}", "given up after the last alert"
    return Part(f"What became of {total:,} invoices", STATUSES, [*rows, None, ("of these parked", *parked)])


def _stages(report: Report) -> Part | None:
    if not any(report.durations.values()):
        return None
    rows: list[Row] = []
    for stage in STAGES:
        times = (report.percentile(stage, percent) for percent in (50, 90, 99))
        shown = ("-" if time is None else duration(time) for time in times)
        rows.append((stage, f"{len(report.durations[stage]):,}", *shown))
    columns = [Column(name, is_right=name != "Stage") for name in TIMES]
    return Part("Time in each stage", columns, rows)


def alerted_invoices(report: Report) -> dict[AlertCategory, int]:
    """Of how many invoices an alert was raised in each stage, and of their identity."""
    alerted: dict[AlertCategory, int] = dict.fromkeys(ALERT_CATEGORIES, 0)
    for invoice in report.invoices:
        for of in {alert.category for alert in invoice.alerts}:
            alerted[of] += 1
    return alerted


def _alerts(report: Report) -> Part | None:
    if not report.alerts:
        return None
    alerted = alerted_invoices(report)
    rows: list[Row] = []
    for of in ALERT_CATEGORIES:
        warnings, critical = report.alerts[of, "warning"], report.alerts[of, "critical"]
        if warnings or critical:
            rows.append((of, f"{alerted[of]:,}", f"{warnings:,}", f"{critical:,}"))
    return Part("Alerts", ALERTS, rows)


def _stuck(report: Report) -> Part | None:
    stuck = report.stuck()
    if not stuck:
        return None
    title = f"Stuck at the end: {len(stuck):,} invoices" + (
        f", the {MAX_ROWS} longest" if len(stuck) > MAX_ROWS else ""
    )
    rows: list[Row] = []
    for invoice in stuck[:MAX_ROWS]:
        alerts = alerts_out(invoice)
        rows.append(
            (
                invoice.invoice_id,
                invoice.status,
                _day(invoice.waiting_since or 0),
                f"{alerts}, parked" if invoice.parked else f"{alerts}",
                format_amount(f"{invoice.amount:f}", invoice.currency),
                vendor_label(invoice.vendor),
            )
        )
    return Part(title, STUCK, rows)


def _identities(report: Report) -> Part | None:
    """The ids that may stand for two invoices each."""
    shared = _shared_ids(report)
    if not shared:
        return None
    several = "1 id" if len(shared) == 1 else f"{len(shared):,} times an id"
    title = f"{several} may stand for two invoices" + (f", the first {MAX_ROWS}" if len(shared) > MAX_ROWS else "")
    return Part(title, IDENTITIES, shared[:MAX_ROWS])


def _shared_ids(report: Report) -> list[tuple[str, str]]:
    """The invoice and the detail of each identity alert."""
    return [
        (invoice.invoice_id, alert.detail or "")
        for invoice in report.invoices
        for alert in invoice.alerts
        if alert.kind == "identity"
    ]


def alerts_out(invoice: InvoiceLine) -> int:
    """How many alerts are out of the wait that an invoice is stuck in."""
    return sum(alert.kind == "stuck" and alert.waiting_since == invoice.waiting_since for alert in invoice.alerts)


def _day(instant: Instant) -> str:
    return to_datetime(instant).strftime("%Y-%m-%d")

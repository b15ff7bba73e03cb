"""The printed report of a replay, and its JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from msgspec import to_builtins
from rich.console import Console
from rich.text import Text

from bems.cli.output import format_amount, format_duration, make_console, vendor_label
from bems.cli.table_layout import Column, TableRow, print_table
from bems.embedded.replay.report import ALERT_CATEGORIES, AlertCategory, InvoiceLine, Report
from bems.tracker.contract import STAGES
from bems.tracker.instants import DAY, Instant, render, to_datetime
from bems.tracker.status import WAITS_FOR, Status

MAX_REPORT_ROWS = 10
MAX_REASONS = 12
LONG_JUMP = 30 * DAY
"""A line this much later than every line before it may have a wrong date, so the report notes it."""

STATUS_COLUMNS = (
    Column("Status"),
    Column("Invoices", is_right=True),
    Column("Share", is_right=True),
    Column("Meaning", 1, is_prose=True),
)
TIME_COLUMNS = ("Stage", "Passed", "Half within", "90% within", "99% within", "In time")
STAGE_ALERT_COLUMNS = (
    Column("Stage"),
    Column("Invoices", is_right=True),
    Column("Warnings", is_right=True),
    Column("Critical", is_right=True),
)
STUCK_INVOICE_COLUMNS = (
    Column("Invoice"),
    Column("Status", 2),
    Column("Waits since", 3),
    Column("Alerts", 4, is_right=True),
    Column("Amount", 1, is_right=True),
    Column("Vendor", 5, is_prose=True),
)
IDENTITY_COLUMNS = (Column("Invoice"), Column("Invoices that may share the id", is_prose=True))

STATUS_MEANINGS: dict[Status, str] = {
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
    """Return the report as printed by --json: all figures of the printed report, with complete lists."""
    lines = report.accepted + report.duplicate + report.refused
    alerted = count_alerted_invoices(report)
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
        "median_alerts_per_alerted_invoice": report.alerts_per_alerted_invoice(),
        "critical_share": round(report.critical_share(), 4),
        "useful_share": round(report.useful_share(), 4),
        "attainment": {
            stage: {**attainment._asdict(), "share": None if attainment.share is None else round(attainment.share, 4)}
            for stage, attainment in report.attainment.items()
        },
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
        "alerts": count_wait_alerts(invoice),
        "parked": invoice.parked,
        "amount": f"{invoice.amount:f}",
        "currency": invoice.currency,
        "vendor": to_builtins(invoice.vendor),
    }


def alerts_per_100_invoices(report: Report) -> float:
    """Return the number of alerts per 100 invoices, which compares policies at any volume; 0 without invoices."""
    return round(100 * report.alerts.total() / len(report.invoices), 1) if report.invoices else 0.0


class Section(NamedTuple):
    """A titled table of a report."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]


def print_report(report: Report, seconds: float, *, wide: bool = False) -> None:
    """Print the report to standard output, as plain text if it is not a terminal. `wide` shows every column."""
    console = make_console()
    lines = report.accepted + report.duplicate + report.refused
    click.echo()
    print_heading(
        console,
        "Events",
        f"{report.accepted:,} accepted, {report.duplicate:,} duplicate, {report.refused:,} refused"
        + (f"; {report.left_out:,} after --until left out" if report.left_out else ""),
    )
    if report.first is not None:
        print_heading(
            console, "Period", f"{_day(report.first)} to {_day(report.last)}; replayed until {_day(report.end)}"
        )
    print_heading(
        console, "Replayed", f"{lines:,} events in {format_duration(seconds)} ({lines / seconds:,.0f} a second)"
    )
    if is_long_jump(report):
        assert report.longest_jump is not None
        days = (report.longest_jump.after - report.longest_jump.before) // DAY
        print_heading(
            console,
            "Note",
            f"line {report.longest_jump.line:,}, dated {_day(report.longest_jump.after)}, is {days} days later "
            "than every line before it; if that date is wrong, invoices count as stuck too early",
        )
    for section in (
        _refusals(report),
        _statuses(report),
        _stages(report),
        _alerts(report),
        _stuck(report),
        _identities(report),
    ):
        if section:
            print_section(console, section, wide=wide)


def print_heading(console: Console, label: str, text: str) -> None:
    """Print a line with its label, wrapped between words on a narrow terminal."""
    print_table(console, (Column("", 0), Column("", 0, is_prose=True)), [(f"{label:<8}", text)], header=False)


def print_section(console: Console, section: Section, *, wide: bool | None = None) -> None:
    """Print a section's title and table."""
    console.print(Text(f"\n{section.title}\n", style="bold"))
    print_table(console, section.columns, section.rows, wide=wide)


def is_long_jump(report: Report) -> bool:
    """Return whether a line is so much later than every line before it that its date may be wrong."""
    return report.longest_jump is not None and report.longest_jump.after - report.longest_jump.before > LONG_JUMP


def _refusals(report: Report) -> Section | None:
    if not report.reasons:
        return None
    rows: list[TableRow] = [(reason, f"{count:,}") for reason, count in report.reasons.most_common(MAX_REASONS)]
    if len(report.reasons) > MAX_REASONS:
        rows.append((f"{len(report.reasons) - MAX_REASONS} more reasons", ""))
    columns = Column("Reason", is_prose=True), Column("Events", is_right=True)
    return Section("Refused, by reason (an event may have several reasons)", columns, rows)


def _statuses(report: Report) -> Section | None:
    total = len(report.invoices)
    if not total:
        return None
    rows: list[TableRow] = [
        (status, f"{count:,}", f"{count / total:.1%}", STATUS_MEANINGS[status])
        for status in WAITS_FOR
        if (count := report.statuses[status])
    ]
    parked = f"{report.parked:,}", f"{report.parked / total:.1%}", "given up after the last alert"
    return Section(f"What became of {total:,} invoices", STATUS_COLUMNS, [*rows, None, ("of these parked", *parked)])


def _stages(report: Report) -> Section | None:
    if not any(report.durations.values()):
        return None
    rows: list[TableRow] = []
    for stage in STAGES:
        times = (report.percentile(stage, percent) for percent in (50, 90, 99))
        shown = ("-" if time is None else format_duration(time) for time in times)
        share = report.attainment[stage].share
        in_time = "-" if share is None else f"{share:.1%}"
        rows.append((stage, f"{len(report.durations[stage]):,}", *shown, in_time))
    columns = [Column(name, is_right=name != "Stage") for name in TIME_COLUMNS]
    return Section("Time in each stage", columns, rows)


def count_alerted_invoices(report: Report) -> dict[AlertCategory, int]:
    """Count the invoices with an alert in each stage, and those with an identity alert."""
    alerted: dict[AlertCategory, int] = dict.fromkeys(ALERT_CATEGORIES, 0)
    for invoice in report.invoices:
        for category in {alert.category for alert in invoice.alerts}:
            alerted[category] += 1
    return alerted


def _alerts(report: Report) -> Section | None:
    if not report.alerts:
        return None
    alerted = count_alerted_invoices(report)
    rows: list[TableRow] = []
    for category in ALERT_CATEGORIES:
        warnings, critical = report.alerts[category, "warning"], report.alerts[category, "critical"]
        if warnings or critical:
            rows.append((category, f"{alerted[category]:,}", f"{warnings:,}", f"{critical:,}"))
    figures = (
        f"{alerts_per_100_invoices(report):,} per 100 invoices",
        f"{report.alerts_per_alerted_invoice()} per alerted invoice (median)",
        f"{report.critical_share():.1%} critical",
        f"{report.useful_share():.1%} useful",
    )
    title = f"Alerts: {', '.join(figures)}"
    return Section(title, STAGE_ALERT_COLUMNS, rows)


def _stuck(report: Report) -> Section | None:
    stuck = report.stuck()
    if not stuck:
        return None
    title = f"Stuck at the end: {len(stuck):,} invoices" + (
        f", the {MAX_REPORT_ROWS} longest" if len(stuck) > MAX_REPORT_ROWS else ""
    )
    rows: list[TableRow] = []
    for invoice in stuck[:MAX_REPORT_ROWS]:
        alerts = count_wait_alerts(invoice)
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
    return Section(title, STUCK_INVOICE_COLUMNS, rows)


def _identities(report: Report) -> Section | None:
    """Return the section of ids that may each stand for two invoices; None without any."""
    shared = _shared_ids(report)
    if not shared:
        return None
    count = "1 id" if len(shared) == 1 else f"{len(shared):,} alerts: an id"
    title = f"{count} may stand for two invoices" + (
        f", the first {MAX_REPORT_ROWS}" if len(shared) > MAX_REPORT_ROWS else ""
    )
    return Section(title, IDENTITY_COLUMNS, shared[:MAX_REPORT_ROWS])


def _shared_ids(report: Report) -> list[tuple[str, str]]:
    """Return the invoice id and the detail of each identity alert."""
    return [
        (invoice.invoice_id, alert.detail or "")
        for invoice in report.invoices
        for alert in invoice.alerts
        if alert.kind == "identity"
    ]


def count_wait_alerts(invoice: InvoiceLine) -> int:
    """Count the alerts of the wait in which an invoice is stuck."""
    return sum(alert.kind == "stuck" and alert.waiting_since == invoice.waiting_since for alert in invoice.alerts)


def _day(instant: Instant) -> str:
    return to_datetime(instant).strftime("%Y-%m-%d")

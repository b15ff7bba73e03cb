"""The report as a finance person reads it."""

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from bems.cli.show import money, whose
from bems.embedded.report import Report
from bems.tracker.contract import STAGES, Stage
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, Instant, to_datetime
from bems.tracker.projection import WAITS_FOR, Status

MOST = 10
LONG_JUMP = 30 * DAY
LEFT = ("Meaning", "Status", "Vendor", "Alerts")

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


def print_report(report: Report, seconds: float) -> None:
    """Print to standard output; plain text where it is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    lines = report.accepted + report.duplicate + report.refused
    console.print(
        f"\n[bold]Events[/]    {report.accepted:,} accepted, {report.duplicate:,} duplicate, {report.refused:,} refused"
    )
    if report.left_out:
        console.print(f"          {report.left_out:,} later than --until were left out")
    if report.first is not None:
        console.print(
            f"[bold]Period[/]    {_day(report.first)} to {_day(report.last)}; time ran on to {_day(report.end)}"
        )
    console.print(f"[bold]Replayed[/]  {lines:,} events in {seconds:.1f} s ({lines / seconds:,.0f} a second)")
    if report.jump and report.jump.after - report.jump.before > LONG_JUMP:
        days = (report.jump.after - report.jump.before) // DAY
        console.print(
            f"[bold]Note[/]      line {report.jump.line:,} of the log is {days} days later than all before it, of "
            f"{_day(report.jump.after)};\n          if that date is wrong, what waited then counts as stuck too soon"
        )
    for table in (_refusals(report), _statuses(report), _stages(report), _alerts(report), _stuck(report)):
        if table:
            console.print(f"\n[bold]{table.title}[/]")
            table.title = None
            console.print(table)


def new_table(title: str, *columns: str) -> Table:
    """A table whose numbers stand to the right."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        align: JustifyMethod = "right" if number and column not in LEFT else "left"
        table.add_column(
            column, justify=align, no_wrap=column == "Vendor", max_width=22 if column == "Vendor" else None
        )
    return table


def _refusals(report: Report) -> Table | None:
    if not report.reasons:
        return None
    table = new_table("Refused, by reason (an event may have several)", "Reason", "Events")
    for reason, count in report.reasons.most_common(12):
        table.add_row(reason, f"{count:,}")
    if len(report.reasons) > 12:
        table.add_row(f"{len(report.reasons) - 12} more reasons", "")
    return table


def _statuses(report: Report) -> Table | None:
    total = len(report.invoices)
    if not total:
        return None
    table = new_table(f"What became of {total:,} invoices", "Status", "Invoices", "Share", "Meaning")
    for status in WAITS_FOR:
        if count := report.statuses[status]:
            table.add_row(status, f"{count:,}", f"{count / total:.1%}", MEANING[status])
    table.add_section()
    table.add_row(
        "of these parked", f"{report.parked:,}", f"{report.parked / total:.1%}", "given up after the last alert"
    )
    return table


def _stages(report: Report) -> Table | None:
    if not any(report.durations.values()):
        return None
    table = new_table("Time in each stage", "Stage", "Passed", "Half within", "90% within", "99% within")
    for stage in STAGES:
        times = (_duration(report.percentile(stage, percent)) for percent in (50, 90, 99))
        table.add_row(stage, f"{len(report.durations[stage]):,}", *times)
    return table


def _alerts(report: Report) -> Table | None:
    if not report.alerts:
        return None
    stuck: dict[Stage, int] = dict.fromkeys(STAGES, 0)
    for invoice in report.invoices:
        for stage in {alert.stage for alert in invoice.alerts}:
            stuck[stage] += 1
    table = new_table("Alerts", "Stage", "Invoices", "Warnings", "Critical")
    for stage in STAGES:
        warnings, critical = report.alerts[stage, "warning"], report.alerts[stage, "critical"]
        if warnings or critical:
            table.add_row(stage, f"{stuck[stage]:,}", f"{warnings:,}", f"{critical:,}")
    return table


def _stuck(report: Report) -> Table | None:
    stuck = report.stuck()
    if not stuck:
        return None
    title = f"Stuck at the end: {len(stuck):,} invoices" + (f", the {MOST} longest" if len(stuck) > MOST else "")
    table = new_table(title, "Invoice", "Status", "Waits since", "Alerts", "Amount", "Vendor")
    for invoice in stuck[:MOST]:
        out = [alert for alert in invoice.alerts if alert.waiting_since == invoice.waiting_since]
        table.add_row(
            escape(invoice.invoice_id),
            invoice.status,
            _day(invoice.waiting_since or 0),
            f"{len(out)}, parked" if invoice.parked else f"{len(out)}",
            money(f"{invoice.amount:f}", invoice.currency),
            escape(whose(invoice.vendor)),
        )
    return table


def _day(instant: Instant) -> str:
    return to_datetime(instant).strftime("%Y-%m-%d")


def _duration(seconds: float | None) -> str:
    """Two figures are enough to see what is slow."""
    if seconds is None:
        return "-"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds * SECOND >= unit:
            return f"{seconds * SECOND / unit:.1f} {name}"
    return f"{seconds:.0f} s" if seconds else "0"

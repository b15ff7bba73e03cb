"""The report as a finance person reads it."""

from rich import box
from rich.console import Console
from rich.table import Table

from bems.embedded.report import Report
from bems.tracker.contract import STAGES, Stage
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND, Instant, to_datetime
from bems.tracker.projection import WAITS_FOR, Status

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
        console = Console(highlight=False, width=100)
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
    for table in (_refusals(report), _statuses(report), _stages(report), _alerts(report)):
        if table:
            console.print(f"\n[bold]{table.title}[/]")
            table.title = None
            console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number and column != "Meaning" else "left")
    return table


def _refusals(report: Report) -> Table | None:
    if not report.reasons:
        return None
    table = _table("Refused, by reason (an event may have several)", "Reason", "Events")
    for reason, count in report.reasons.most_common(12):
        table.add_row(reason, f"{count:,}")
    if len(report.reasons) > 12:
        table.add_row(f"{len(report.reasons) - 12} more reasons", "")
    return table


def _statuses(report: Report) -> Table | None:
    total = len(report.invoices)
    if not total:
        return None
    table = _table(f"What became of {total:,} invoices", "Status", "Invoices", "Share", "Meaning")
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
    table = _table("Time in each stage", "Stage", "Passed", "Half within", "90% within", "99% within")
    for stage in STAGES:
        times = (_duration(report.percentile(stage, percent)) for percent in (50, 90, 99))
        table.add_row(stage, f"{len(report.durations[stage]):,}", *times)
    return table


def _alerts(report: Report) -> Table | None:
    if not report.alerts:
        return None
    stuck: dict[Stage, int] = dict.fromkeys(STAGES, 0)
    for _, _, alerts in report.invoices:
        for stage in {alert.stage for alert in alerts}:
            stuck[stage] += 1
    table = _table("Alerts", "Stage", "Invoices", "Warnings", "Critical")
    for stage in STAGES:
        warnings, critical = report.alerts[stage, "warning"], report.alerts[stage, "critical"]
        if warnings or critical:
            table.add_row(stage, f"{stuck[stage]:,}", f"{warnings:,}", f"{critical:,}")
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

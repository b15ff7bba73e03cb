"""Side-by-side comparison of one log replayed under two policies."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from bems.cli.output import make_console
from bems.cli.replay_report import Section, alerts_per_100_invoices, as_document, print_heading, print_section
from bems.cli.table_layout import Column, TableRow
from bems.embedded.replay.report import ALERT_CATEGORIES, Report
from bems.tracker.actions import SEVERITIES

BUILT_IN = "built-in"


class ReplayResult(NamedTuple):
    """The report of a replay and its duration; `policy` is the name of the policy's file."""

    policy: str
    report: Report
    seconds: float


def compare(first: ReplayResult, second: ReplayResult) -> dict[str, Any]:
    """Return both reports in full, and the figures that depend on the policy with their differences."""
    return {
        "policies": [{"policy": one.policy, **as_document(one.report, one.seconds)} for one in (first, second)],
        "comparison": {
            name: {"first": a, "second": b, "difference": round(b - a, 2)} for name, a, b in _figures(first, second)
        },
    }


def print_comparison(first: ReplayResult, second: ReplayResult) -> None:
    """Print a row for each figure to standard output: both values and their difference, second minus first."""
    console = make_console()
    report = first.report
    click.echo()
    print_heading(
        console, "Events", f"{report.accepted:,} accepted of {len(report.invoices):,} invoices, under each policy"
    )
    print_heading(console, "First", first.policy)
    print_heading(console, "Second", second.policy)
    columns = (
        Column("Figure", is_prose=True),
        Column("First", is_right=True),
        Column("Second", is_right=True),
        Column("Difference", is_right=True),
    )
    rows: list[TableRow] = [
        (name, _format_number(a), _format_number(b), f"{'+' if b > a else ''}{_format_number(b - a)}")
        for name, a, b in _figures(first, second)
    ]
    print_section(console, Section("Two policies, side by side", columns, rows))


def _figures(first: ReplayResult, second: ReplayResult) -> Sequence[tuple[str, float, float]]:
    a, b = first.report, second.report
    figures: list[tuple[str, float, float]] = [
        (f"{stage}, {severity} alerts", a.alerts[stage, severity], b.alerts[stage, severity])
        for stage in ALERT_CATEGORIES
        for severity in SEVERITIES
        if a.alerts[stage, severity] or b.alerts[stage, severity]
    ]
    return [
        *figures,
        ("all alerts", a.alerts.total(), b.alerts.total()),
        ("alerts per 100 invoices", alerts_per_100_invoices(a), alerts_per_100_invoices(b)),
        ("alerts per alerted invoice, median", a.alerts_per_alerted_invoice(), b.alerts_per_alerted_invoice()),
        ("critical alerts, percent", round(100 * a.critical_share(), 1), round(100 * b.critical_share(), 1)),
        ("useful alerts, percent", round(100 * a.useful_share(), 1), round(100 * b.useful_share(), 1)),
        ("stuck at the end", len(a.stuck()), len(b.stuck())),
        ("of these parked", a.parked, b.parked),
    ]


def _format_number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"

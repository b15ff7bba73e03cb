"""Comparison: what two policies make of the same log, side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from bems.cli.output import make_console
from bems.cli.replay_report import Part, alerts_per_100_invoices, as_document, heading, print_part
from bems.cli.table_layout import Column, Row
from bems.embedded.replay.report import ALERT_CATEGORIES, Report
from bems.tracker.actions import SEVERITIES

BUILT_IN = "built-in"


class Replayed(NamedTuple):
    """What became of the log under a policy; `policy` is its file's name."""

    policy: str
    report: Report
    seconds: float


def compare(first: Replayed, second: Replayed) -> dict[str, Any]:
    """Both reports whole, and beside one another what a policy decides."""
    return {
        "policies": [{"policy": one.policy, **as_document(one.report, one.seconds)} for one in (first, second)],
        "comparison": {
            name: {"first": a, "second": b, "difference": round(b - a, 2)} for name, a, b in _figures(first, second)
        },
    }


def print_comparison(first: Replayed, second: Replayed) -> None:
    """Print to standard output: a row for each figure, and how much more of it the second policy has."""
    console = make_console()
    report = first.report
    click.echo()
    heading(console, "Events", f"{report.accepted:,} accepted of {len(report.invoices):,} invoices, under each policy")
    heading(console, "First", first.policy)
    heading(console, "Second", second.policy)
    columns = (
        Column("Figure", is_prose=True),
        Column("First", is_right=True),
        Column("Second", is_right=True),
        Column("Difference", is_right=True),
    )
    rows: list[Row] = [
        (name, _number(a), _number(b), f"{'+' if b > a else ''}{_number(b - a)}")
        for name, a, b in _figures(first, second)
    ]
    print_part(console, Part("Two policies, side by side", columns, rows))


def _figures(first: Replayed, second: Replayed) -> Sequence[tuple[str, float, float]]:
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
        ("stuck at the end", len(a.stuck()), len(b.stuck())),
        ("of these parked", a.parked, b.parked),
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"

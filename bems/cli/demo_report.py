"""The demo's report: what the cell did with the events sent to it, and whether every event is accounted for."""

import time
from typing import Any, NamedTuple, get_args

import click
from rich.console import Console
from rich.text import Text

from bems.cli.batches import Disposition
from bems.cli.client import Client
from bems.cli.output import format_duration, make_console
from bems.cli.replay_report import (
    STAGE_ALERT_COLUMNS,
    STATUS_COLUMNS,
    STATUS_MEANINGS,
    Section,
    print_heading,
    print_section,
)
from bems.cli.send_summary import SendSummary
from bems.cli.stuck_totals import StuckTotals, read_stuck_totals
from bems.cli.table_layout import Column, TableRow, print_prose, print_table
from bems.cli.worst_invoice import WorstInvoice, find_worst
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.api.access import VIEWERS
from bems.embedded.replay.report import ALERT_CATEGORIES
from bems.tracker.status import WAITS_FOR

TIMEOUT_SECONDS = 15.0
"""Maximum number of seconds to wait until the series in DuckDB has caught up with the store."""

# Read from DuckDB, so that the printed tables compare the store with its copy too.
_STATUSES = """SELECT to_status, count(*) FROM (
    SELECT arg_max(to_status, seq) AS to_status FROM transitions GROUP BY invoice_id
) GROUP BY to_status"""
_ALERTS = """SELECT CASE outcome WHEN 'identity' THEN outcome ELSE stage END, count(DISTINCT invoice_id),
    count(*) FILTER (severity = 'warning'), count(*) FILTER (severity = 'critical')
    FROM transitions WHERE kind = 'alert' GROUP BY 1"""


class DemoResult(NamedTuple):
    """What the cell did with the events.

    `statuses` counts invoices by status. `alerts` has (invoices, warnings, critical alerts) by stage or `identity`.
    `check` is the API's answer to GET /check.
    """

    statuses: dict[str, int]
    stuck: StuckTotals
    worst: WorstInvoice | None
    alerts: dict[str, tuple[int, int, int]]
    check: dict[str, Any]

    def is_consistent_with(self, sent: SendSummary) -> bool:
        """Return whether every event sent is accounted for and the series is the same in the store and in DuckDB."""
        return self.check["balanced"] is True and self.check["accepted"] == sent.dispositions["accepted"]


def collect(client: Client, analytics: AnalyticsFeeder) -> DemoResult:
    """Return the result once DuckDB has caught up with the store."""
    analytics.wake()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    check = client.request_json("GET", "/check", VIEWERS)
    while not check["balanced"] and time.monotonic() < deadline:
        time.sleep(0.05)
        check = client.request_json("GET", "/check", VIEWERS)
    alerts = {stage: (invoices, warnings, critical) for stage, invoices, warnings, critical in analytics.query(_ALERTS)}
    stuck = read_stuck_totals(client)
    return DemoResult(dict(analytics.query(_STATUSES)), stuck, find_worst(client, stuck), alerts, check)


def as_document(sent: SendSummary, result: DemoResult) -> dict[str, Any]:
    """Return the report as printed by --json."""
    return {
        "sent": {"events": sent.sent, "seconds": round(sent.seconds, 3), "events_per_second": round(sent.rate, 1)},
        "events": {disposition: sent.dispositions[disposition] for disposition in get_args(Disposition)},
        "answered_s": {f"p{percent}": sent.requests.percentile(percent) for percent in (50, 99)},
        "refused": dict(sent.refused_fields),
        "statuses": result.statuses,
        **result.stuck.as_document(),
        "worst": result.worst.as_document(result.stuck) if result.worst else None,
        "alerts": {
            stage: {"invoices": invoices, "warning": warnings, "critical": critical}
            for stage, (invoices, warnings, critical) in result.alerts.items()
        },
        "check": result.check,
        "balanced": result.is_consistent_with(sent),
    }


def print_result(sent: SendSummary, result: DemoResult) -> None:
    """Print the report to standard output, as plain text if it is not a terminal."""
    console = make_console()
    p50, p99 = (sent.requests.percentile(percent) or 0.0 for percent in (50, 99))
    click.echo()
    print_heading(
        console, "Sent", f"{sent.sent:,} events in {format_duration(sent.seconds)} ({sent.rate:,.0f} a second)"
    )
    print_heading(
        console, "Answered", f"durable and visible after {format_duration(p50)} (half), {format_duration(p99)} (99%)"
    )
    for section in (_refusals(sent), _statuses(result), _alerts(result)):
        if section:
            print_section(console, section)
    _print_check(console, sent, result)
    _print_stuck(console, result)


def _refusals(sent: SendSummary) -> Section | None:
    if not sent.refused_fields:
        return None
    rows = [(place, f"{count:,}") for place, count in sent.refused_fields.most_common()]
    columns = Column("Field", is_prose=True), Column("Events", is_right=True)
    return Section("Refused, by field (an event may have several errors)", columns, rows)


def _statuses(result: DemoResult) -> Section:
    total = sum(result.statuses.values())
    rows: list[TableRow] = [
        (status, f"{count:,}", f"{count / total:.1%}", STATUS_MEANINGS[status])
        for status in WAITS_FOR
        if (count := result.statuses.get(status))
    ]
    for name, count, meaning in (
        ("of these stuck", result.stuck.total, "late and alerted, or parked"),
        ("of these parked", result.stuck.parked, "given up after the last alert"),
    ):
        rows.append((name, f"{count:,}", f"{count / total:.1%}", meaning))
    return Section(f"What became of {total:,} invoices", STATUS_COLUMNS, [*rows[:-2], None, *rows[-2:]])


def _alerts(result: DemoResult) -> Section | None:
    if not result.alerts:
        return None
    rows = [(name, *(f"{n:,}" for n in result.alerts[name])) for name in ALERT_CATEGORIES if name in result.alerts]
    return Section("Alerts raised", STAGE_ALERT_COLUMNS, rows)


def _print_check(console: Console, sent: SendSummary, result: DemoResult) -> None:
    counts, check = sent.dispositions, result.check
    answered = f"{counts['accepted']:,} accepted + {counts['duplicate']:,} duplicate + "
    answered += f"{counts['refused']:,} refused + {counts['conflict']:,} conflicting"
    rows = (
        (f"{sent.sent:,} sent", answered, sent.sent == sent.dispositions.total() - counts["undelivered"]),
        (
            f"{counts['accepted']:,} accepted",
            f"{check['applied']:,} applied + {check['dead_letters']:,} dead letters",
            counts["accepted"] == check["accepted"] == check["applied"] + check["dead_letters"],
        ),
        (
            f"{check['transitions']:,} transitions in the store",
            f"{check['analytics']:,} in DuckDB",
            check["transitions"] == check["analytics"],
        ),
    )
    columns = Column("Left"), Column("Sign"), Column("Right", is_prose=True)
    console.print(Text("\nIs every event accounted for?", style="bold"))
    shown = [(left, "=" if even else "is not", right) for left, right, even in rows]
    print_table(console, columns, shown, header=False)


def _print_stuck(console: Console, result: DemoResult) -> None:
    console.print(Text("\nStuck", style="bold"))
    print_prose(console, f"{result.stuck}.")
    if result.worst:
        print_prose(console, f"Worst: {result.worst.describe()}")
        print_prose(console, result.worst.describe_completion(result.stuck))

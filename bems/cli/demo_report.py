"""Takings: what a cell made of what it was sent, and whether its books balance."""

import time
from typing import Any, NamedTuple, get_args

import click
from rich.console import Console
from rich.text import Text

from bems.cli.batches import Disposition
from bems.cli.client import Client
from bems.cli.output import duration, make_console
from bems.cli.replay_report import ALERTS, MEANING, STATUSES, Part, heading, print_part
from bems.cli.send_summary import Summary
from bems.cli.stuck_totals import StuckTotals, read_stuck_totals
from bems.cli.table_layout import Column, Row, print_prose, print_table
from bems.cli.worst_invoice import Worst, find_worst
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.api.access import VIEWERS
from bems.embedded.replay.report import ALERT_CATEGORIES
from bems.tracker.status import WAITS_FOR

TIMEOUT_SECONDS = 15.0
"""Seconds that the series has to follow the store."""

# What DuckDB knows, so that the store and its copy are compared in what people see too.
_STATUSES = """SELECT to_status, count(*) FROM (
    SELECT arg_max(to_status, seq) AS to_status FROM transitions GROUP BY invoice_id
) GROUP BY to_status"""
_ALERTS = """SELECT CASE outcome WHEN 'identity' THEN outcome ELSE stage END, count(DISTINCT invoice_id),
    count(*) FILTER (severity = 'warning'), count(*) FILTER (severity = 'critical')
    FROM transitions WHERE kind = 'alert' GROUP BY 1"""


class DemoResult(NamedTuple):
    """Invoices by status, what is stuck now and the worst of it, (invoices, warnings, critical alerts) by stage or
    `identity`, and the books as the API gives them."""

    statuses: dict[str, int]
    stuck: StuckTotals
    worst: Worst | None
    alerts: dict[str, tuple[int, int, int]]
    check: dict[str, Any]

    def is_consistent_with(self, sent: Summary) -> bool:
        """Whether every event that was sent is accounted for, and the series is the same in both places."""
        return self.check["balanced"] is True and self.check["accepted"] == sent.dispositions["accepted"]


def collect(client: Client, analytics: AnalyticsFeeder) -> DemoResult:
    """What the cell made of it, once DuckDB has followed."""
    analytics.wake()
    until = time.monotonic() + TIMEOUT_SECONDS
    check = client.request_json("GET", "/check", VIEWERS)
    while not check["balanced"] and time.monotonic() < until:
        time.sleep(0.05)
        check = client.request_json("GET", "/check", VIEWERS)
    alerts = {stage: (invoices, warnings, critical) for stage, invoices, warnings, critical in analytics.query(_ALERTS)}
    stuck = read_stuck_totals(client)
    return DemoResult(dict(analytics.query(_STATUSES)), stuck, find_worst(client, stuck), alerts, check)


def as_document(sent: Summary, takings: DemoResult) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "sent": {"events": sent.sent, "seconds": round(sent.seconds, 3), "events_per_second": round(sent.rate, 1)},
        "events": {fate: sent.dispositions[fate] for fate in get_args(Disposition)},
        "answered_s": {f"p{percent}": sent.requests.percentile(percent) for percent in (50, 99)},
        "refused": dict(sent.refused_fields),
        "statuses": takings.statuses,
        **takings.stuck.as_document(),
        "worst": takings.worst.as_document(takings.stuck) if takings.worst else None,
        "alerts": {
            stage: {"invoices": invoices, "warning": warnings, "critical": critical}
            for stage, (invoices, warnings, critical) in takings.alerts.items()
        },
        "check": takings.check,
        "balanced": takings.is_consistent_with(sent),
    }


def print_result(sent: Summary, takings: DemoResult) -> None:
    """Print to standard output; plain text where it is not a terminal."""
    console = make_console()
    p50, p99 = (sent.requests.percentile(percent) or 0.0 for percent in (50, 99))
    click.echo()
    heading(console, "Sent", f"{sent.sent:,} events in {duration(sent.seconds)} ({sent.rate:,.0f} a second)")
    heading(console, "Answered", f"durable and visible after {duration(p50)} (half), {duration(p99)} (99%)")
    for part in (_refusals(sent), _statuses(takings), _alerts(takings)):
        if part:
            print_part(console, part)
    _print_check(console, sent, takings)
    _print_stuck(console, takings)


def _refusals(sent: Summary) -> Part | None:
    if not sent.refused_fields:
        return None
    rows = [(place, f"{count:,}") for place, count in sent.refused_fields.most_common()]
    columns = Column("Field", is_prose=True), Column("Events", is_right=True)
    return Part("Refused, by where the fault is (an event may have several)", columns, rows)


def _statuses(takings: DemoResult) -> Part:
    total = sum(takings.statuses.values())
    rows: list[Row] = [
        (status, f"{count:,}", f"{count / total:.1%}", MEANING[status])
        for status in WAITS_FOR
        if (count := takings.statuses.get(status))
    ]
    for name, count, meaning in (
        ("of these stuck", takings.stuck.total, "late and alerted, or parked"),
        ("of these parked", takings.stuck.parked, "given up after the last alert"),
    ):
        rows.append((name, f"{count:,}", f"{count / total:.1%}", meaning))
    return Part(f"What became of {total:,} invoices", STATUSES, [*rows[:-2], None, *rows[-2:]])


def _alerts(takings: DemoResult) -> Part | None:
    if not takings.alerts:
        return None
    rows = [(name, *(f"{n:,}" for n in takings.alerts[name])) for name in ALERT_CATEGORIES if name in takings.alerts]
    return Part("Alerts that were raised meanwhile", ALERTS, rows)


def _print_check(console: Console, sent: Summary, takings: DemoResult) -> None:
    fates, check = sent.dispositions, takings.check
    answered = f"{fates['accepted']:,} accepted + {fates['duplicate']:,} duplicate + "
    answered += f"{fates['refused']:,} refused + {fates['conflict']:,} conflicting"
    rows = (
        (f"{sent.sent:,} sent", answered, sent.sent == sent.dispositions.total() - fates["undelivered"]),
        (
            f"{fates['accepted']:,} accepted",
            f"{check['applied']:,} applied + {check['dead_letters']:,} dead letters",
            fates["accepted"] == check["accepted"] == check["applied"] + check["dead_letters"],
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


def _print_stuck(console: Console, takings: DemoResult) -> None:
    console.print(Text("\nStuck", style="bold"))
    print_prose(console, f"{takings.stuck}.")
    if takings.worst:
        print_prose(console, f"The worst: {takings.worst.sentence()}")
        print_prose(console, takings.worst.effect(takings.stuck))

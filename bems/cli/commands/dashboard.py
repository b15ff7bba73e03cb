"""`bems dashboard`: figures for executives, operations and finance, read from the series of transitions."""

from datetime import UTC, date, datetime, time, timedelta

import click

from bems.cli import options
from bems.cli.checked_commands import CheckedCommand
from bems.cli.client import Client, decode_as
from bems.cli.errors import UserError
from bems.cli.files import TimeParam
from bems.cli.options import connected
from bems.cli.output import format_amount, format_duration, make_console, print_json
from bems.cli.table_layout import Column, print_table
from bems.embedded.analytics.dashboards import DASHBOARDS
from bems.embedded.api.access import VIEWERS
from bems.embedded.api.dashboards import DashboardRows
from bems.tracker.instants import Instant, from_datetime, render

TEXT_COLUMNS = frozenset({"time", "stage", "outcome", "status", "severity", "currency", "vendor_tier"})
TITLES = {"time": "Time (UTC)", "mean_ms": "Mean"}
RANKS = {
    "vendor_tier": 3,
    "invoices": 2,
    "superseded": 2,
    "within_1s": 4,
    "within_10s": 5,
    "within_2min": 1,
    "mean_ms": 1,
}
"""Ranks of columns: those with the greatest are left out first on a narrow terminal."""


@click.command(cls=CheckedCommand, epilog="Example: bems dashboard volume --since 2026-11-01 --by day")
@click.argument("name", type=click.Choice(list(DASHBOARDS)))
@click.option(
    "--since", type=TimeParam(), help="Start; a date means its beginning in UTC. Default: 30 days before the end."
)
@click.option("--until", type=TimeParam(), help="End; a date means the end of that day in UTC. Default: now.")
@click.option(
    "--by", type=click.Choice(["hour", "day"]), default="day", show_default=True, help="Length of a time step."
)
@options.wide
@options.as_json
@connected
def dashboard(
    client: Client,
    name: str,
    since: Instant | date | None,
    until: Instant | date | None,
    by: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Show a dashboard.

    The figures are read from DuckDB, which lags at most two seconds behind. Requires a viewer, operator or admin key.
    """
    if isinstance(until, date):
        until += timedelta(days=1)
    begin, end = _to_instant(since), _to_instant(until)
    if begin is not None and end is not None and begin >= end:
        raise UserError(f"--since {render(begin)} is not before --until {render(end)}: did you swap them?")
    query = {
        "since": None if begin is None else render(begin),
        "until": None if end is None else render(end),
        "by": by,
    }
    answer = client.request_json("GET", f"/dashboards/{name}", VIEWERS, query=query)
    if as_json:
        print_json(answer)
        return
    found = decode_as(answer, DashboardRows)
    if not found.rows:
        click.echo(f"nothing from {found.since} to {found.until}")
        return
    columns, rows = _format_table(found, by)
    click.echo()
    print_table(make_console(), columns, rows, wide=wide)
    if found.truncated:
        click.echo(f"only the last {len(found.rows):,} rows are shown: choose a shorter time, or --by day")


def _to_instant(when: Instant | date | None) -> Instant | None:
    return from_datetime(datetime.combine(when, time(), UTC)) if isinstance(when, date) else when


def _format_table(found: DashboardRows, by: str) -> tuple[list[Column], list[list[str]]]:
    """Return the columns and formatted rows: amounts with their currency, times as precise as the step."""
    names = list(found.columns)
    of_currency = names.index("currency") if {"currency", "amount"} <= set(names) else None
    shown = [number for number in range(len(names)) if number != of_currency]
    columns = [
        Column(
            TITLES.get(names[number]) or names[number].replace("_", " ").capitalize(),
            RANKS.get(names[number], 0),
            is_right=names[number] not in TEXT_COLUMNS,
        )
        for number in shown
    ]
    rows = []
    for row in found.rows:
        currency = "" if of_currency is None else str(row[of_currency] or "-")
        rows.append([_format_value(names[number], row[number], currency, by) for number in shown])
    return columns, rows


def _format_value(name: str, value: str | int | float | None, currency: str, by: str) -> str:
    match name, value:
        case _, None | "":
            return "-"
        case "time", str():
            return value[:10] if by == "day" else value[:16].replace("T", " ")
        case "amount", str() if currency:
            return format_amount(value, currency)
        case "mean_ms", int() | float():
            return format_duration(value / 1000)
        case _, int():
            return f"{value:,}"
        case _, float():
            # Shares of the invoices within a time limit.
            return f"{value:.1%}"
        case _:
            return str(value)

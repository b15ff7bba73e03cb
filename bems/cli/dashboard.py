"""`bems dashboard`: what executives, operations and finance ask of the series."""

from datetime import UTC, date, datetime, time, timedelta

import click

from bems.cli import options
from bems.cli.client import Client, shaped
from bems.cli.files import WhenParam
from bems.cli.options import connected
from bems.cli.show import print_json, screen, table
from bems.embedded.api.access import LOOK
from bems.embedded.api.dashboards import Rows
from bems.embedded.dashboards import DASHBOARDS
from bems.tracker.instants import Instant, from_datetime, render


@click.command(epilog="Example: bems dashboard volume --since 2026-11-01 --by day")
@click.argument("name", type=click.Choice(list(DASHBOARDS)))
@click.option("--since", type=WhenParam(), help="A date means its beginning, in UTC. Default: 30 days before the end.")
@click.option("--until", type=WhenParam(), help="A date means the end of that day, in UTC. Default: now.")
@click.option("--by", type=click.Choice(["hour", "day"]), default="day", show_default=True, help="In which steps.")
@options.as_json
@connected
def dashboard(
    client: Client, name: str, since: Instant | date | None, until: Instant | date | None, by: str, as_json: bool
) -> None:
    """Show a dashboard: volume, visibility, backlog, alerts or amounts.

    It is asked of DuckDB, which is at most two seconds behind. Needs a key of a viewer, operator or admin.
    """
    if isinstance(until, date):
        until += timedelta(days=1)
    query = {"since": _moment(since), "until": _moment(until), "by": by}
    answer = client.ask("GET", f"/dashboards/{name}", LOOK, query=query)
    if as_json:
        print_json(answer)
        return
    found = shaped(answer, Rows)
    if not found.rows:
        click.echo(f"nothing from {found.since} to {found.until}")
        return
    columns = [column.replace("_", " ").capitalize() for column in found.columns]
    screen().print(table(columns, ([_shown(value) for value in row] for row in found.rows)))
    if found.truncated:
        click.echo(f"earlier rows are left out; these are the last {len(found.rows):,}: ask for less time, or by day")


def _moment(when: Instant | date | None) -> str | None:
    if isinstance(when, date):
        when = from_datetime(datetime.combine(when, time(), UTC))
    return None if when is None else render(when)


def _shown(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else value or "-"

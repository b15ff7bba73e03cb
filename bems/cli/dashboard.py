"""`bems dashboard`: what executives, operations and finance ask of the series."""

from datetime import datetime

import click

from bems.cli import options
from bems.cli.client import Client, shaped
from bems.cli.options import connected
from bems.cli.show import print_json, screen, table
from bems.embedded.api.access import LOOK
from bems.embedded.api.dashboards import Rows
from bems.embedded.dashboards import DASHBOARDS

DATE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.command(epilog="Example: bems dashboard volume --since 2026-11-01 --by day")
@click.argument("name", type=click.Choice(list(DASHBOARDS)))
@click.option("--since", type=DATE, help="In UTC. Default: 30 days before the end.")
@click.option("--until", type=DATE, help="In UTC. Default: now.")
@click.option("--by", type=click.Choice(["hour", "day"]), default="day", show_default=True, help="In which steps.")
@options.as_json
@connected
def dashboard(
    client: Client, name: str, since: datetime | None, until: datetime | None, by: str, as_json: bool
) -> None:
    """Show a dashboard: volume, visibility, backlog, alerts or amounts.

    It is asked of DuckDB, which is at most two seconds behind. Needs a key of a viewer, operator or admin.
    """
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


def _moment(moment: datetime | None) -> str | None:
    return f"{moment.isoformat()}Z" if moment else None


def _shown(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else value or "-"

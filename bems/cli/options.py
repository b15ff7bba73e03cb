"""Options shared by the commands that call a running cell."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import click

from bems.cli.client import Client

P = ParamSpec("P")
R = TypeVar("R")

URL = "http://127.0.0.1:8080"

limit = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Maximum number of items."
)
wide = click.option("--wide", is_flag=True, help="Show every column, even on a narrow terminal.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the cell's answer as one JSON object.")


def connected(command: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """Add --url and --key to a command and pass it a client of that cell as the first argument."""

    @click.option("--url", envvar="BEMS_URL", show_envvar=True, default=URL, show_default=True, help="URL of the cell.")
    @click.option(
        "--key",
        envvar="BEMS_API_KEY",
        show_envvar=True,
        help="Your API key. Prefer the variable: other users of the machine can see the option in ps.",
    )
    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        url, key = str(options.pop("url")), options.pop("key")
        client = Client(url, None if key is None else str(key))
        try:
            return command(client, *arguments, **options)
        finally:
            client.close()

    return run

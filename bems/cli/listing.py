"""Commands that list items of a cell, page by page."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import click

from bems.cli import options
from bems.cli.client import Client, ListResult, decode_as
from bems.cli.options import connected
from bems.cli.output import make_console, pluralize_count, print_json
from bems.cli.table_layout import Column, print_table
from bems.tracker.requests import Role

P = ParamSpec("P")
T = TypeVar("T")


class ItemTable(NamedTuple):
    """How items are printed: the type of their list, their name in the singular, and the columns of a row."""

    items_type: Any
    item_name: str
    columns: Sequence[Column]
    row: Callable[[Any], Sequence[str]]


class Listing(NamedTuple):
    """What a command that lists items was given."""

    client: Client
    limit: int
    wide: bool
    as_json: bool

    def read(self, path: str, roles: AbstractSet[Role], query: Mapping[str, object]) -> ListResult:
        """Read at most `limit` items."""
        return self.client.list(path, roles, query, self.limit)

    def print_items(self, found: ListResult, table: ItemTable) -> None:
        """Print the items as JSON or as a table, and whether there are more.

        Raises Failure if they are not of the table's type.
        """
        items = decode_as(found.items, table.items_type)
        if self.as_json:
            print_json({"items": found.items, "more": found.more})
            return
        if items:
            click.echo()
            print_table(make_console(), table.columns, map(table.row, items), wide=self.wide)
            click.echo()
        more = "; there are more, see --limit" if found.more else ""
        click.echo(pluralize_count(len(items), table.item_name) + more)


def with_listing(command: Callable[Concatenate[Listing, P], T]) -> Callable[P, T]:
    """Add --limit, --wide, --json and those of `connected` to a command, and pass them as the first argument."""

    @options.limit
    @options.wide
    @options.as_json
    @connected
    @wraps(command)
    def run(client: Client, /, *arguments: P.args, **given: P.kwargs) -> T:
        limit, wide, as_json = cast(int, given.pop("limit")), bool(given.pop("wide")), bool(given.pop("as_json"))
        return command(Listing(client, limit, wide, as_json), *arguments, **given)

    return run

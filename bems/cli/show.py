"""Showing: what a cell answered, for people and for programs. Times are in UTC."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bems.cli.complaints import one_line
from bems.tracker.contract import Vendor

_find_unprintable = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

RIGHT = (
    "Amount", "Alerts", "Attempts", "Step",
    "Events", "Invoices", "Mean ms", "Superseded", "Within 1s", "Within 10s", "Within 2min",
)  # fmt: skip


def print_json(answer: object) -> None:
    """One line, for programs. What would move a terminal's cursor, or turn the direction of its text, is escaped, as
    JSON may be."""
    click.echo(_find_unprintable.sub(_escaped, msgspec.json.encode(answer).decode()))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def print_list(
    answer: Sequence[Any], more: bool, as_json: bool, columns: Sequence[str], rows: Iterable[Sequence[str]], what: str
) -> None:
    """A list, and whether it goes on. `what` names one of its items."""
    if as_json:
        print_json({"items": answer, "more": more})
        return
    if answer:
        screen().print(table(columns, rows))
    click.echo(counted(len(answer), what) + ("; there are more, see --limit" if more else ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table; the first column is never cut, because it names what other commands take."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        justify: Any = "right" if column in RIGHT else "left"
        made.add_column(Text(column), justify=justify, no_wrap=not number, overflow="fold")
    for row in rows:
        # As texts, because what senders wrote is no markup.
        made.add_row(*(Text(one_line(cell)) for cell in row))
    return made


def screen() -> Console:
    """Standard output; where it is not a terminal, plain text whose rows are one line each."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=2_000)


def counted(number: int, what: str) -> str:
    """`1 alert`, `2,000 alerts`, `no alerts`"""
    many = f"{number:,}" if number else "no"
    return f"{many} {what}" if number == 1 else f"{many} {what}s"


def moment(at: datetime | None) -> str:
    """To the second, in UTC, which the column or label says."""
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def money(amount: str, currency: str) -> str:
    """Digits in groups, as a person reads them."""
    whole, point, fraction = amount.partition(".")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-') or '0'):,}{point}{fraction} {currency}"


def whose(vendor: Vendor) -> str:
    """The name where there is one, on one line."""
    return one_line(vendor.name or vendor.id)

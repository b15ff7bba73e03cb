"""Showing: what a cell answered, for people and for programs. Times are in UTC."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Console

from bems.cli.http_errors import to_one_line
from bems.cli.table_layout import Column, print_table
from bems.tracker.contract import Vendor

_find_unprintable = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def print_json(answer: object) -> None:
    """One line, for programs. What would move a terminal's cursor, or turn the direction of its text, is escaped, as
    JSON may be."""
    click.echo(_find_unprintable.sub(_escaped, msgspec.json.encode(answer).decode()))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def print_list(
    answer: Sequence[Any],
    more: bool,
    as_json: bool,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    item_name: str,
    *,
    wide: bool = False,
) -> None:
    """A list, and whether it goes on. `what` names one of its items; `wide`: with every column, whatever the room."""
    if as_json:
        print_json({"items": answer, "more": more})
        return
    if answer:
        click.echo()
        print_table(make_console(), columns, rows, wide=wide)
        click.echo()
    click.echo(pluralize_count(len(answer), item_name) + ("; there are more, see --limit" if more else ""))


def make_console() -> Console:
    """Standard output, for tables and texts that are no markup."""
    return Console(highlight=False, markup=False)


def pluralize_count(number: int, noun: str) -> str:
    """`1 alert`, `2,000 alerts`, `no alerts`"""
    many = f"{number:,}" if number else "no"
    return f"{many} {noun}" if number == 1 else f"{many} {noun}s"


def format_time(at: datetime | None) -> str:
    """To the second, in UTC, which the column or label says."""
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def format_day(at: datetime) -> str:
    """`3 January 2026`, in UTC"""
    return f"{at.day} {at:%B %Y}"


def format_times(number: int) -> str:
    """`once`, `twice`, `3 times`"""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def format_amount(amount: str, currency: str) -> str:
    """Digits in groups, as a person reads them: `84,120.00 EUR`"""
    whole, point, fraction = amount.partition(".")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-') or '0'):,}{point}{fraction} {currency}"


def format_duration(seconds: float) -> str:
    """In its two largest units, with the letters that a policy has: `3d 4h`, `1h 30m`, `4.2s`, `12ms`"""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds else "0s"
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    minutes = round(seconds / 60)
    # Rounded to the smaller unit first, so that 1h 59m 40s is 2h and not 1h 60m.
    if minutes >= 24 * 60:
        return _format_two_units(round(seconds / 3_600), 24, "d", "h")
    return (
        _format_two_units(minutes, 60, "h", "m")
        if seconds >= 3_599.5
        else _format_two_units(round(seconds), 60, "m", "s")
    )


def _format_two_units(smaller: int, size: int, unit: str, smaller_unit: str) -> str:
    count, rest = divmod(smaller, size)
    parts = (f"{count:,}{unit}" if count else "", f"{rest}{smaller_unit}" if rest else "")
    return " ".join(filter(None, parts))


def vendor_label(vendor: Vendor) -> str:
    """The name where there is one, on one line."""
    return to_one_line(vendor.name or vendor.id)

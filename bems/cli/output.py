"""Prints a cell's answers as text or JSON. Times are in UTC."""

import re
from datetime import datetime

import click
import msgspec
from rich.console import Console

from bems.cli.http_errors import to_one_line
from bems.tracker.contract import Vendor

_UNPRINTABLE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def print_json(answer: object) -> None:
    """Print one line of JSON.

    Characters that move a terminal's cursor or change its text direction are written as JSON escapes.
    """
    click.echo(_UNPRINTABLE.sub(_escape, msgspec.json.encode(answer).decode()))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def make_console() -> Console:
    """Return a console on standard output that prints text literally, without rich's markup."""
    return Console(highlight=False, markup=False)


def pluralize_count(number: int, noun: str) -> str:
    """Return a count such as `1 alert`, `2,000 alerts` or `no alerts`."""
    many = f"{number:,}" if number else "no"
    return f"{many} {noun}" if number == 1 else f"{many} {noun}s"


def format_time(at: datetime | None) -> str:
    """Return the time to the second, `-` for None. The column or label says that it is UTC."""
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def format_day(at: datetime) -> str:
    """Return a date such as `3 January 2026`, in UTC."""
    return f"{at.day} {at:%B %Y}"


def format_times(number: int) -> str:
    """Return `once`, `twice`, `3 times` and so on."""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def format_amount(amount: str, currency: str) -> str:
    """Return an amount with grouped digits, such as `84,120.00 EUR`."""
    whole, point, fraction = amount.partition(".")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-') or '0'):,}{point}{fraction} {currency}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, with a policy's letters: `3d 4h`, `1h 30m`, `4.2s`, `12ms`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds else "0s"
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    minutes = round(seconds / 60)
    # Round to the smaller unit first, so that 1h 59m 40s becomes 2h and not 1h 60m.
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
    """Return the vendor's name, or its id without one, in one line."""
    return to_one_line(vendor.name or vendor.id)

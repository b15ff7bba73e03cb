"""Refusals: the first lines of a log that were refused, and why, for whoever cannot guess it from their number."""

from bisect import insort
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from bems.cli.http_errors import to_one_line
from bems.cli.table_layout import Column, print_table
from bems.tracker.responses import Error

MAX_LINES = 5
COLUMNS = (Column("Line", is_right=True), Column("What is wrong", is_prose=True))


class RefusedLine(NamedTuple):
    """A line that was refused: its number, from 1, its faults with pointers into the line, and what the line is
    instead of an event where that could be told."""

    line: int
    event_id: str | None
    errors: Sequence[Error]
    hint: str | None = None


class FirstRefusedLines:
    """Keeps the refused lines that come first in the log, in whatever order they are told of."""

    def __init__(self) -> None:
        self.lines: list[RefusedLine] = []
        self._count = 0

    def add(self, refused: RefusedLine) -> None:
        self._count += 1
        if len(self.lines) < MAX_LINES or refused.line < self.lines[-1].line:
            insort(self.lines, refused, key=lambda one: one.line)
            del self.lines[MAX_LINES:]

    def print(self, console: Console, refused_out: str | None) -> None:
        """Print them, and where all are to be had."""
        if not self.lines:
            return
        if refused_out is not None:
            where = f"all are in {to_one_line(refused_out)}" if refused_out != "-" else ""
        else:
            where = "--refused-out FILE writes all of them"
        which = (
            "the refused lines"
            if self._count <= MAX_LINES
            else f"the first {MAX_LINES} of {self._count:,} refused lines"
        )
        title = f"\n{which[0].upper()}{which[1:]}" + (f"; {where}" if where else "")
        console.print(Text(title, style="bold"), soft_wrap=True)
        print_table(console, COLUMNS, [row for one in self.lines for row in _rows(one)], header=False)

    def as_document(self) -> list[dict[str, Any]]:
        """For programs; each as in the file of --refused-out, and its hint."""
        return [
            {
                "line": one.line,
                "event_id": one.event_id,
                "errors": [{"pointer": error.pointer, "detail": error.detail} for error in one.errors],
                **({"hint": one.hint} if one.hint else {}),
            }
            for one in self.lines
        ]


def _rows(refused: RefusedLine) -> list[tuple[str, str]]:
    if refused.hint:
        # What the parser stumbled over says nothing beside it.
        return [(f"{refused.line:,}", refused.hint)]
    told = [f"{error.pointer}: {error.detail}" if error.pointer else error.detail for error in refused.errors]
    return [(f"{refused.line:,}" if not number else "", text) for number, text in enumerate(told or ["refused"])]

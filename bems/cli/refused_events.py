"""The first refused lines of a log, with the reasons."""

from bisect import insort
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from bems.cli.http_errors import to_one_line
from bems.cli.table_layout import Column, print_table
from bems.tracker.responses import Error

MAX_LINES = 5
"""Maximum number of refused lines that are kept."""
REFUSED_COLUMNS = (Column("Line", is_right=True), Column("Error", is_prose=True))


class RefusedLine(NamedTuple):
    """A refused line: its number, counted from 1, and its errors with pointers relative to the line.

    `hint` says what the line is, if it was recognized as something else than an event.
    """

    line: int
    event_id: str | None
    errors: Sequence[Error]
    hint: str | None = None


class FirstRefusedLines:
    """Keeps the refused lines with the lowest numbers, added in any order."""

    def __init__(self) -> None:
        self.lines: list[RefusedLine] = []
        self._count = 0

    def add(self, refused: RefusedLine) -> None:
        self._count += 1
        if len(self.lines) < MAX_LINES or refused.line < self.lines[-1].line:
            insort(self.lines, refused, key=lambda one: one.line)
            del self.lines[MAX_LINES:]

    def print(self, console: Console, refused_out: str | None) -> None:
        """Print the lines, and where to find all refused lines."""
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
        print_table(console, REFUSED_COLUMNS, [row for one in self.lines for row in _rows(one)], header=False)

    def as_document(self) -> list[dict[str, Any]]:
        """Return the lines as printed by --json: as in the file of --refused-out, with their hints."""
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
        # The hint explains the line better than the parser's error.
        return [(f"{refused.line:,}", refused.hint)]
    errors = [f"{error.pointer}: {error.detail}" if error.pointer else error.detail for error in refused.errors]
    return [(f"{refused.line:,}" if not number else "", text) for number, text in enumerate(errors or ["refused"])]

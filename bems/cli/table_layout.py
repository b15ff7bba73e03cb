"""Layout: tables for whatever room there is.

On a terminal columns leave, the least important first, until the others fit; none breaks a word. Everywhere else, in a
pipe or a file, a row is one line and nothing is left out.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bems.cli.http_errors import to_one_line

GAP_CELLS = 2
MAX_WORD_CELLS = 24
"""Longer words are ids, or of a script that has no blanks: they may go on in the next line of their cell."""

MIN_PROSE_CELLS = 12
"""Prose in fewer cells would be a word a line: rather its column leaves."""

MAX_PARAGRAPH_CELLS = 80

MAX_NAME_CELLS = 24
"""Where room is short, a longer name of a row has a line of its own above the row."""


class Column(NamedTuple):
    """`rank` 0 stays whatever the room; the greater it is, the sooner the column leaves. `is_prose` may be wrapped
    between its words."""

    name: str
    rank: int = 0
    is_right: bool = False
    is_prose: bool = False


class Layout(NamedTuple):
    """The numbers of the columns that are shown, their widths in cells, and the names of those that have left."""

    shown: list[int]
    widths: list[int]
    left_out: list[str]


Row = Sequence[str] | None
"""None is a rule between two rows."""


def print_table(
    console: Console, columns: Sequence[Column], rows: Iterable[Row], *, wide: bool | None = None, header: bool = True
) -> None:
    """Print a table. `wide`: whether to show every column all the same; None where there is no such option.

    The first column is never cut, because it names what other commands take.
    """
    several = [None if row is None else [to_one_line(cell) for cell in row] for row in rows]
    room = console.width if console.is_terminal and not wide else None
    layout = compute_layout(columns, several, room, header=header)
    if header:
        names = [columns[number].name for number in layout.shown]
        _print(console, _line(columns, layout, names), "bold")
        _print(console, _rule(console, layout))
    for row in several:
        if row is None:
            _print(console, _rule(console, layout))
            continue
        for line in _lines(console, columns, layout, [row[number] for number in layout.shown], room):
            _print(console, line)
    if layout.left_out:
        how = "; --wide shows all" if wide is not None else ""
        console.print(Text(f"Without room for: {', '.join(layout.left_out)}{how}", style="dim"))


def print_prose(console: Console, text: str) -> None:
    """Print a paragraph, wrapped between words; likewise where there is no terminal, and so no bound."""
    for line in Text(to_one_line(text)).wrap(console, min(console.width, MAX_PARAGRAPH_CELLS)):
        _print(console, line.plain.rstrip())


def compute_layout(columns: Sequence[Column], rows: Sequence[Row], room: int | None, *, header: bool = True) -> Layout:
    """Which columns there is room for, in cells, and how wide they are. Without a bound all are as wide as they are."""
    cells = [[row[number] for row in rows if row is not None] for number in range(len(columns))]
    names = [column.name if header else "" for column in columns]
    widths = [max(map(cell_len, [name, *own])) for name, own in zip(names, cells, strict=True)]
    everything = list(range(len(columns)))
    if room is None or sum(widths) + GAP_CELLS * (len(columns) - 1) <= room:
        return Layout(everything, widths, [])
    if widths[0] > MAX_NAME_CELLS:
        widths[0] = max([cell_len(names[0]), *(size for one in cells[0] if (size := cell_len(one)) <= MAX_NAME_CELLS)])
    least = [
        min(width, max(MIN_PROSE_CELLS, _longest_word([name, *own]))) if column.is_prose else width
        for column, name, own, width in zip(columns, names, cells, widths, strict=True)
    ]
    shown, left = [0], room - least[0]
    for number in sorted(everything[1:], key=lambda number: columns[number].rank):
        needed = GAP_CELLS + least[number]
        if needed <= left or columns[number].rank == 0:
            shown.append(number)
            left -= needed
    shown.sort()
    # What is left goes to prose, so that it is wrapped as little as need be.
    for number in shown:
        more = max(0, min(widths[number] - least[number], left))
        least[number] += more
        left -= more
    left_out = [columns[number].name for number in everything if number not in shown]
    return Layout(shown, [least[number] for number in shown], left_out)


def _longest_word(cells: Iterable[str]) -> int:
    words = [min(cell_len(word), MAX_WORD_CELLS) for cell in cells for word in cell.split()]
    return max(words, default=1)


def _lines(
    console: Console, columns: Sequence[Column], layout: Layout, cells: list[str], room: int | None
) -> Iterator[str]:
    """A row: one line, more where prose is wrapped, and its name above it where that is too long to stand in it."""
    if room is not None and cell_len(cells[0]) > layout.widths[0] and not columns[0].is_prose:
        yield cells[0]
        if len(cells) == 1:
            return
        cells = ["", *cells[1:]]
    wrapped = [
        _wrap(console, cell, width) if columns[number].is_prose and cell_len(cell) > width else [cell]
        for number, cell, width in zip(layout.shown, cells, layout.widths, strict=True)
    ]
    for index in range(max(map(len, wrapped))):
        yield _line(columns, layout, [lines[index] if index < len(lines) else "" for lines in wrapped])


def _wrap(console: Console, cell: str, width: int) -> list[str]:
    return [line.plain.rstrip() for line in Text(cell).wrap(console, width)]


def _line(columns: Sequence[Column], layout: Layout, cells: Sequence[str]) -> str:
    parts = []
    for number, cell, width in zip(layout.shown, cells, layout.widths, strict=True):
        blanks = " " * (width - cell_len(cell))
        parts.append(blanks + cell if columns[number].is_right else cell + blanks)
    return (" " * GAP_CELLS).join(parts).rstrip()


def _rule(console: Console, layout: Layout) -> str:
    return ("─" if console.encoding.startswith("utf") else "-") * (
        sum(layout.widths) + GAP_CELLS * (len(layout.widths) - 1)
    )


def _print(console: Console, line: str, style: str = "") -> None:
    # Text, because what senders wrote is no markup; the terminal itself wraps what is too long, so nothing is cut.
    console.print(Text(line, style=style), soft_wrap=True)

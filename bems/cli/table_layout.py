"""Tables that fit the width of the terminal.

On a terminal, the least important columns are left out until the others fit without breaking a word. In a pipe or a
file, every column is printed and a row is one line.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bems.cli.http_errors import to_one_line

GAP_CELLS = 2
MAX_WORD_CELLS = 24
"""Longest word that is never broken. Longer ones are ids, or text in a script without spaces."""

MIN_PROSE_CELLS = 12
"""Minimum width of a prose column; a narrower one, with a word per line, is left out instead."""

MAX_PARAGRAPH_CELLS = 80
"""Maximum width of a paragraph."""

MAX_NAME_CELLS = 24
"""Longest row name that stays in its row on a narrow terminal; a longer one gets its own line above the row."""


class Column(NamedTuple):
    """A column of a table.

    Columns with the greatest `rank` are left out first; rank 0 always stays. `is_right` aligns to the right;
    `is_prose` allows wrapping between words.
    """

    name: str
    rank: int = 0
    is_right: bool = False
    is_prose: bool = False


class Layout(NamedTuple):
    """The indices of the shown columns, their widths in cells, and the names of the columns left out."""

    shown: list[int]
    widths: list[int]
    left_out: list[str]


TableRow = Sequence[str] | None
"""The cells of a row; None prints a horizontal rule."""


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Iterable[TableRow],
    *,
    wide: bool | None = None,
    header: bool = True,
) -> None:
    """Print a table. `wide` shows every column; None means that the command has no --wide option.

    The first column is never cut, because it holds the ids that other commands take.
    """
    escaped = [None if row is None else [to_one_line(cell) for cell in row] for row in rows]
    max_cells = console.width if console.is_terminal and not wide else None
    layout = compute_layout(columns, escaped, max_cells, header=header)
    if header:
        names = [columns[number].name for number in layout.shown]
        _print(console, _render_line(columns, layout, names), "bold")
        _print(console, _rule(console, layout))
    for row in escaped:
        if row is None:
            _print(console, _rule(console, layout))
            continue
        for line in _render_row(console, columns, layout, [row[number] for number in layout.shown], max_cells):
            _print(console, line)
    if layout.left_out:
        how = "; --wide shows all" if wide is not None else ""
        console.print(Text(f"Columns left out: {', '.join(layout.left_out)}{how}", style="dim"))


def print_prose(console: Console, text: str) -> None:
    """Print a paragraph wrapped between words, in a pipe too."""
    for line in Text(to_one_line(text)).wrap(console, min(console.width, MAX_PARAGRAPH_CELLS)):
        _print(console, line.plain.rstrip())


def compute_layout(
    columns: Sequence[Column], rows: Sequence[TableRow], max_cells: int | None, *, header: bool = True
) -> Layout:
    """Return the columns that fit into `max_cells` and their widths; None shows all columns at full width."""
    cells = [[row[number] for row in rows if row is not None] for number in range(len(columns))]
    names = [column.name if header else "" for column in columns]
    widths = [max(map(cell_len, [name, *own])) for name, own in zip(names, cells, strict=True)]
    everything = list(range(len(columns)))
    if max_cells is None or sum(widths) + GAP_CELLS * (len(columns) - 1) <= max_cells:
        return Layout(everything, widths, [])
    if widths[0] > MAX_NAME_CELLS:
        widths[0] = max([cell_len(names[0]), *(size for one in cells[0] if (size := cell_len(one)) <= MAX_NAME_CELLS)])
    minimum = [
        min(width, max(MIN_PROSE_CELLS, _longest_word([name, *own]))) if column.is_prose else width
        for column, name, own, width in zip(columns, names, cells, widths, strict=True)
    ]
    shown, left = [0], max_cells - minimum[0]
    for number in sorted(everything[1:], key=lambda number: columns[number].rank):
        needed = GAP_CELLS + minimum[number]
        if needed <= left or columns[number].rank == 0:
            shown.append(number)
            left -= needed
    shown.sort()
    # Give the remaining cells to prose, so that it wraps as little as possible.
    for number in shown:
        more = max(0, min(widths[number] - minimum[number], left))
        minimum[number] += more
        left -= more
    left_out = [columns[number].name for number in everything if number not in shown]
    return Layout(shown, [minimum[number] for number in shown], left_out)


def _longest_word(cells: Iterable[str]) -> int:
    words = [min(cell_len(word), MAX_WORD_CELLS) for cell in cells for word in cell.split()]
    return max(words, default=1)


def _render_row(
    console: Console, columns: Sequence[Column], layout: Layout, cells: list[str], max_cells: int | None
) -> Iterator[str]:
    """Yield the lines of a row: one, or more if prose wraps, with a name that is too long on a line above."""
    if max_cells is not None and cell_len(cells[0]) > layout.widths[0] and not columns[0].is_prose:
        yield cells[0]
        if len(cells) == 1:
            return
        cells = ["", *cells[1:]]
    wrapped = [
        _wrap(console, cell, width) if columns[number].is_prose and cell_len(cell) > width else [cell]
        for number, cell, width in zip(layout.shown, cells, layout.widths, strict=True)
    ]
    for index in range(max(map(len, wrapped))):
        yield _render_line(columns, layout, [lines[index] if index < len(lines) else "" for lines in wrapped])


def _wrap(console: Console, cell: str, width: int) -> list[str]:
    return [line.plain.rstrip() for line in Text(cell).wrap(console, width)]


def _render_line(columns: Sequence[Column], layout: Layout, cells: Sequence[str]) -> str:
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
    # Text, because senders' values are not markup. The terminal wraps long lines, so nothing is cut.
    console.print(Text(line, style=style), soft_wrap=True)

"""Tables on narrow terminals: which columns are left out, and that no word is cut."""

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from bems.cli.commands.alerts import ALERT_COLUMNS, DELIVERY_COLUMNS
from bems.cli.commands.dlq import DEAD_LETTER_COLUMNS as DEAD_LETTERS
from bems.cli.commands.invoice import COMMAND_COLUMNS, TRANSITION_COLUMNS
from bems.cli.commands.invoice import INVOICE_ALERT_COLUMNS as INVOICE_ALERTS
from bems.cli.commands.keys import KEY_COLUMNS as KEYS
from bems.cli.commands.stuck import STUCK_COLUMNS as STUCK
from bems.cli.output import format_amount, format_duration
from bems.cli.table_layout import Column, print_table

COLUMNS = (
    Column("Invoice"),
    Column("Status", 2),
    Column("Since", 3),
    Column("Amount", 1, is_right=True),
    Column("Vendor", 4, is_prose=True),
)
ROWS = [
    ("INV/2026/000352", "AwaitingReconciliation", "2026-01-03 10:15:00", "84,120.00 EUR", "Acme GmbH & Co. KG"),
    (
        "INV/2026/000353",
        "Posted",
        "2026-01-04 10:15:00",
        "999,999,999,999,999,999 JPY",
        "日本電気株式会社東京本社経理部",
    ),
    (
        "X" * 128,
        "Disputed",
        "2026-01-05 10:15:00",
        "-1.00 EUR",
        "Donaudampfschifffahrtsgesellschaft International " * 3,
    ),
]


def shown(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None, *, wide: bool = False
) -> list[str]:
    """Return the lines printed on a terminal of a width, or in a pipe if it is None."""
    out = StringIO()
    console = Console(file=out, width=width or 20, force_terminal=width is not None, color_system=None)
    print_table(console, columns, rows, wide=wide)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_table_fits_the_terminal_and_breaks_no_word(width: int) -> None:
    lines = shown(COLUMNS, ROWS, width)
    # A long id has its own line, which only the terminal wraps, so that it can be copied.
    assert [line for line in lines if cell_len(line) > width] in ([], ["X" * 128])
    words = {word for row in ROWS for cell in row for word in cell.split()}
    # Text in a script without spaces, and very long words, may be broken.
    breakable = {word for word in words if cell_len(word) > 24}
    end = next((number for number, line in enumerate(lines) if line.startswith("Columns left out: ")), len(lines))
    for line in lines[2:end]:
        assert all(word in words or any(word in one for one in breakable) for word in line.split()), line


def test_the_least_important_columns_are_left_out_first_and_named() -> None:
    few = [ROWS[0]]
    assert shown(COLUMNS, few, 200)[0].split() == ["Invoice", "Status", "Since", "Amount", "Vendor"]
    assert shown(COLUMNS, few, 80)[0].split() == ["Invoice", "Status", "Since", "Amount"]
    assert shown(COLUMNS, few, 80)[-1] == "Columns left out: Vendor; --wide shows all"
    assert shown(COLUMNS, few, 40)[0].split() == ["Invoice", "Amount"]
    assert " ".join(shown(COLUMNS, few, 40)[-2:]) == "Columns left out: Status, Since, Vendor; --wide shows all"
    assert len(shown(COLUMNS, few, 40, wide=True)[2]) > 80


def test_nothing_is_cut_in_a_pipe() -> None:
    lines = shown(COLUMNS, ROWS, None)
    assert len(lines) == 2 + len(ROWS)
    for line, row in zip(lines[2:], ROWS, strict=True):
        assert all(cell.strip() in line for cell in row)


def test_prose_wraps_between_words_before_a_column_is_left_out() -> None:
    columns = Column("Id"), Column("Error", 1, is_prose=True)
    lines = shown(columns, [("e-1", "KeyError: the tariff of this vendor is not known")], 30)
    assert lines[2:] == ["e-1  KeyError: the tariff of", "     this vendor is not known"]


@pytest.mark.parametrize(
    "columns",
    [
        *(ALERT_COLUMNS, DELIVERY_COLUMNS, DEAD_LETTERS, KEYS, STUCK),
        *(TRANSITION_COLUMNS, INVOICE_ALERTS, COMMAND_COLUMNS),
    ],
)
def test_every_table_of_a_command_fits(columns: Sequence[Column]) -> None:
    row = ["2026-01-05 10:15:00 AwaitingReconciliation" if one.is_prose else "2026-01-05 10:15:00" for one in columns]
    for width in (80, 120):
        assert max(map(len, shown(columns, [row], width))) <= width


def test_the_stuck_invoices_show_who_takes_care_on_a_narrow_terminal() -> None:
    row = (
        "INV/2026/000123", "authorization", "2026-03-02", "2", "warning", "18,497.07 EUR", "-", "Acme GmbH",
        "jane@example.com", "asked for a credit note over the missing items",
    )  # fmt: skip
    narrow = shown(STUCK, [row], 80)
    assert [name for name in ("Amount", "Mark", "Waits for", "Assigned to") if name not in narrow[0]] == []
    assert "jane@example.com" in narrow[2]
    wide = shown(STUCK, [row], 120)
    assert "Note" in wide[0] and "Since" in wide[0]
    assert narrow[-1].startswith("Columns left out: ") and "Note" in narrow[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0049, "5ms"),
        (0.9996, "1s"),
        (1.25, "1.2s"),
        (59.6, "1m"),
        (90 * 60, "1h 30m"),
        (3_599.6, "1h"),
        (7_180, "2h"),
        (84_600, "23h 30m"),
        (86_399, "1d"),
        (3 * 86_400 + 4 * 3_600, "3d 4h"),
        (1_234 * 86_400, "1,234d"),
        (-90, "-1m 30s"),
    ],
)
def test_durations_are_written_as_in_a_policy(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_amounts_are_grouped() -> None:
    assert format_amount("84120.00", "EUR") == "84,120.00 EUR"
    assert format_amount("-999999999999999999", "JPY") == "-999,999,999,999,999,999 JPY"

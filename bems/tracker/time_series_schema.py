"""Columns of the time series: those of a transition, and those that a store adds.

In Timestream, `stage` is the measure name, `recorded_at` the time, and `invoice_id` and `cell` are dimensions. In
Iceberg, all are columns of one table.
"""

from datetime import date
from decimal import Decimal

from msgspec import json

from bems.tracker.columns import BOOLEAN, STRING, Column, columns_of
from bems.tracker.transitions import Transition

Value = str | int | bool

CELL = Column(1, STRING, "the cell of the row", "dimension", name="cell", required=True)

ATTRIBUTES_CUT = Column(
    31,
    BOOLEAN,
    "true if Timestream had no space for all attributes (2 kB a row). `GET /invoices/{id}/events` returns all of them",
    name="attributes_cut",
)

FIELD_COLUMNS = tuple(columns_of(Transition))
"""Columns of a transition's fields, in the order of the fields."""

SERIES_COLUMNS: tuple[Column, ...] = tuple(
    sorted((CELL, *FIELD_COLUMNS, ATTRIBUTES_CUT), key=lambda column: column.number)
)
"""Columns in the order of the table."""


def to_row(transition: Transition, cell: str) -> dict[str, Value]:
    """Return the transition's values by column name, without empty ones."""
    values: dict[str, Value] = {"cell": cell}
    for column in SERIES_COLUMNS[1:]:
        value = getattr(transition, column.name, None)
        if isinstance(value, Decimal):
            value = format(value, "f")
        elif isinstance(value, date):
            value = value.isoformat()
        elif isinstance(value, dict):
            value = json.encode(value).decode() if value else None
        if value is not None:
            values[column.name] = value
    return values

"""Columns of the time series: names and types of a transition's fields, the same in every store.

In Timestream, `stage` is the measure name, `recorded_at` the time, and `invoice_id` and `cell` are dimensions. In
Iceberg, all are columns of one table. Amounts are text in every store, because Timestream has no decimals and floats
are inexact: queries cast them.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct, json

from bems.tracker.transitions import Transition

ColumnType = Literal["string", "int", "long", "boolean", "timestamp"]
"""Iceberg's names. A timestamp is an `Instant`: microseconds since 1970, UTC."""

Value = str | int | bool


class Column(Struct, frozen=True):
    """Column. If it is not required, rows without a value leave it out."""

    name: str
    type: ColumnType
    required: bool = False


SERIES_COLUMNS: tuple[Column, ...] = (
    Column("cell", "string", True),
    Column("invoice_id", "string", True),
    Column("stage", "string", True),
    Column("recorded_at", "timestamp", True),
    Column("transition_id", "string", True),
    Column("kind", "string", True),
    Column("from_status", "string"),
    Column("to_status", "string", True),
    Column("outcome", "string"),
    Column("event_id", "string"),
    Column("superseded", "boolean", True),
    Column("amount", "string", True),
    Column("currency", "string", True),
    Column("vendor_id", "string", True),
    Column("vendor_tier", "string"),
    Column("terms_days", "int"),
    Column("due_date", "string"),
    Column("occurred_at", "timestamp"),
    Column("received_at", "timestamp"),
    Column("lag_ms", "long"),
    Column("step", "int"),
    Column("severity", "string"),
    Column("decided_at", "timestamp"),
    Column("policy_digest", "string"),
    Column("from_amount", "string"),
    Column("from_currency", "string"),
    Column("to_amount", "string"),
    Column("to_currency", "string"),
    Column("source", "string"),
    Column("attributes", "string"),
    Column("attributes_cut", "boolean"),
)
"""Columns in the order of the table; new ones are appended. An amount is a plain decimal such as `-1250.00`, `due_date`
is YYYY-MM-DD, and `attributes` a JSON object. If `attributes_cut`, the store's size limit left some attributes out."""


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

"""The time series' columns: what a transition is called and typed where dashboards read it, the same in every series.

`stage` is the measure name and `recorded_at` the time of Timestream; `invoice_id` and `cell` are its dimensions. In
Iceberg all are columns of one table. Timestream has no decimals and amounts are no floats, so an amount is text there
and here: queries cast it.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

from msgspec import Struct, json

from bems.tracker.transitions import Transition

ColumnType = Literal["string", "int", "long", "boolean", "timestamp"]
"""As Iceberg names them. A timestamp is an `Instant`: microseconds since 1970, UTC."""

Value = str | int | bool


class Column(Struct, frozen=True):
    """A column; one that is not required is left out of rows that have nothing to say in it."""

    name: str
    type: ColumnType
    required: bool = False


COLUMNS: tuple[Column, ...] = (
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
"""In the order of a table made for them; new ones come last. An amount is a plain decimal such as `-1250.00`,
`due_date` YYYY-MM-DD, `attributes` a JSON object; where `attributes_cut`, the series had no room for all of them."""


def to_row(transition: Transition, cell: str) -> dict[str, Value]:
    """The transition's row by column, without those in which it says nothing."""
    values: dict[str, Value] = {"cell": cell}
    for column in COLUMNS[1:]:
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

"""Columns of the time series: where a column is stored, and what it means.

A field of `Transition` is annotated with its `Column`, from which every store of the time series takes its own.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args, get_type_hints

from msgspec import Struct, structs

TimestreamRole = Literal["dimension", "measure name", "time", "measure"]


class ColumnType(NamedTuple):
    """Type of a column, as each store names it."""

    iceberg: str
    timestream: str
    duckdb: str


STRING = ColumnType("string", "VARCHAR", "VARCHAR")
INT = ColumnType("int", "BIGINT", "INTEGER")
LONG = ColumnType("long", "BIGINT", "BIGINT")
BOOLEAN = ColumnType("boolean", "BOOLEAN", "BOOLEAN")
TIMESTAMP = ColumnType("timestamp", "VARCHAR", "TIMESTAMP")
"""An `Instant`: microseconds since 1970, UTC. In Timestream, RFC 3339 text, which has no ambiguous unit."""
AMOUNT = ColumnType("string", "VARCHAR", "DECIMAL(22, 4)")
"""A plain decimal such as `-1250.00`: up to 18 digits, of which up to 4 are decimals. It is text on AWS, because
Timestream has no decimals and floats are inexact: queries cast it."""
DATE = ColumnType("string", "VARCHAR", "DATE")
"""YYYY-MM-DD."""
OBJECT = ColumnType("string", "VARCHAR", "JSON")
"""A JSON object."""


class Column(Struct, frozen=True):
    """Column of the time series.

    `number` is its place in the table and its id in Iceberg: it never changes, and new columns take the next ones.
    Rows without a value for a column that is not required leave it out.
    """

    number: int
    type: ColumnType
    meaning: str
    timestream_role: TimestreamRole = "measure"
    name: str = ""
    required: bool = False


def columns_of(row: type[Struct]) -> Iterator[Column]:
    """Yield the columns with which a struct's fields are annotated. A field that may be None or empty is optional."""
    for name, hint in get_type_hints(row, include_extras=True).items():
        kind, column = get_args(hint)
        required = column.type is not OBJECT and type(None) not in get_args(kind)
        yield structs.replace(column, name=name, required=required)

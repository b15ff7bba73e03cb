"""Rows of the time series as text, the same for each store of it."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from bems.tracker.instants import parse


def to_text_row(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a row as text, the same for each store of the time series: times in RFC 3339, amounts without trailing
    zeros. Leaves out empty columns."""
    return {name: _to_text(name, value) for name, value in values.items() if value is not None}


def _to_text(name: str, value: Any) -> str:
    if name.endswith("amount"):
        return f"{Decimal(value).normalize():f}"
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, date):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


def assert_chain(rows: Iterable[Mapping[str, str]]) -> None:
    """Assert that each row of an invoice begins where the one before it ended, and that times ascend."""
    before: Mapping[str, str] = {}
    for row in rows:
        for name in ("status", "amount", "currency"):
            assert row.get(f"from_{name}") == before.get(f"to_{name}"), row["transition_id"]
            is_moving = row["kind"] in ("event", "command")
            assert is_moving or row[f"to_{name}"] == row[f"from_{name}"], row["transition_id"]
        assert not before or parse(before["recorded_at"]) < parse(row["recorded_at"]), row["transition_id"]
        before = row

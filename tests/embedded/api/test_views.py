"""Tests of the API's views."""

from datetime import date
from decimal import Decimal

import msgspec

from bems.embedded.api import views
from bems.tracker.columns import TIMESTAMP
from bems.tracker.instants import render
from bems.tracker.time_series_schema import FIELD_COLUMNS
from tests.tracker.samples import FULL

OF_THE_INVOICE = {"invoice_id", "vendor_id", "vendor_tier"}
ONLY_IN_THE_SERIES = {"decided_at", "from_amount", "from_currency", "to_amount", "to_currency"}


def test_a_transition_is_shown_with_its_columns() -> None:
    shown = msgspec.to_builtins(views.view_transition(FULL))
    omitted = OF_THE_INVOICE | ONLY_IN_THE_SERIES
    for column in FIELD_COLUMNS:
        value = getattr(FULL, column.name)
        if column.type is TIMESTAMP:
            value = render(value)
        elif isinstance(value, Decimal | date):
            value = str(value)
        assert shown.get(column.name) == (None if column.name in omitted else value), column.name

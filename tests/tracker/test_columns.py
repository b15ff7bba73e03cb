"""Tests of the columns of the time series."""

from bems.tracker.time_series_schema import ATTRIBUTES_CUT, CELL, FIELD_COLUMNS, SERIES_COLUMNS
from bems.tracker.transitions import Transition
from tests.tracker.samples import FULL


def test_every_field_of_a_transition_is_a_column() -> None:
    assert [column.name for column in FIELD_COLUMNS] == list(Transition.__struct_fields__)
    assert {*SERIES_COLUMNS} == {CELL, *FIELD_COLUMNS, ATTRIBUTES_CUT}


def test_numbers_are_consecutive() -> None:
    assert [column.number for column in SERIES_COLUMNS] == list(range(1, len(SERIES_COLUMNS) + 1))


def test_the_sample_has_a_value_in_every_column() -> None:
    """Tests of the stores and of the API rely on it."""
    assert not [name for name in Transition.__struct_fields__ if getattr(FULL, name) in (None, {}, False)]

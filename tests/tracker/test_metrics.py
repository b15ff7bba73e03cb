"""Tests of the metrics' definitions, which alarms and functions share."""

import pytest

from bems.tracker import metrics
from bems.tracker.metrics import DIMENSION_VALUES, EVENTS_ACCEPTED, EVENTS_PROCESSED, METRICS, SWEEP_COMPLETED, Metric


def test_metrics_contains_every_metric_of_the_module() -> None:
    declared = {value.name: value for value in vars(metrics).values() if isinstance(value, Metric)}
    assert declared == METRICS


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_has_the_dimension_cell_and_bounded_dimensions(metric: Metric) -> None:
    assert metric.dimensions[0] == "cell"
    assert len(set(metric.dimensions)) == len(metric.dimensions)
    assert all(DIMENSION_VALUES[dimension] for dimension in metric.dimensions[1:])
    assert metric.emitters


def test_dimension_values_are_in_the_order_of_the_dimensions() -> None:
    given = EVENTS_PROCESSED.dimension_values(outcome="accepted", stage="posting", cell="eu")
    assert list(given.items()) == [("cell", "eu"), ("stage", "posting"), ("outcome", "accepted")]
    assert SWEEP_COMPLETED.dimension_values(cell="eu") == {"cell": "eu"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"cell": "eu"}, "EventsAccepted has the dimensions cell, stage, not cell"),
        ({"cell": "eu", "stage": "posting", "outcome": "accepted"}, "has the dimensions cell, stage, not"),
        ({"cell": "eu", "stage": "payment"}, "'payment' is not one of stage: ingestion, authorization"),
    ],
)
def test_other_dimensions_are_refused(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        EVENTS_ACCEPTED.dimension_values(**values)

"""The vocabulary of metrics: what an alarm watches must be what a function emits."""

import pytest

from bems.tracker import metrics
from bems.tracker.metrics import DIMENSION_VALUES, EVENTS_ACCEPTED, EVENTS_PROCESSED, METRICS, SWEEP_COMPLETED, Metric


def test_every_metric_of_the_module_is_known_by_its_name() -> None:
    declared = {value.name: value for value in vars(metrics).values() if isinstance(value, Metric)}
    assert declared == METRICS


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_of_a_cell_and_has_few_series(metric: Metric) -> None:
    assert metric.dimensions[0] == "cell"
    assert len(set(metric.dimensions)) == len(metric.dimensions)
    assert all(DIMENSION_VALUES[dimension] for dimension in metric.dimensions[1:])
    assert metric.emitters


def test_dimensions_come_in_their_order() -> None:
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

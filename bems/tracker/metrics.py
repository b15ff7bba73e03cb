"""CloudWatch metrics of a cell's functions, shared by the code that emits them and the alarms that watch them.

CloudWatch keeps one metric per name and set of dimensions, and an alarm on a set that is never emitted stays green
forever. Therefore each metric has exactly one set of dimensions. No dimension is an invoice id, because each new value
of a dimension is a new metric and is billed as one.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from msgspec import Struct

from bems.tracker.actions import Severity
from bems.tracker.contract import STAGES

NAMESPACE = "BEMS"

MetricUnit = Literal["Count", "Milliseconds"]
Dimension = Literal["cell", "stage", "outcome", "severity"]
MetricOutcome = Literal["accepted", "duplicate", "conflict", "refused"]
"""Result of a message: a new event, a repeated event, a known event_id with other content, or an unreadable message."""
Emitter = Literal["producer", "processor", "register_wait", "escalate", "sweeper", "recorder"]

DIMENSION_VALUES: Mapping[Dimension, tuple[str, ...]] = {
    "stage": STAGES,
    "outcome": get_args(MetricOutcome),
    "severity": get_args(Severity),
}
"""Possible values of each dimension except `cell`."""


class Metric(Struct, frozen=True):
    """Metric: its name, unit, dimensions, and the functions (modules of `handlers`) that emit it."""

    name: str
    unit: MetricUnit
    dimensions: tuple[Dimension, ...]
    emitters: tuple[Emitter, ...]

    def dimension_values(self, **values: str) -> dict[str, str]:
        """Return the values in the order of the dimensions.

        Raise ValueError if a dimension is missing or unknown, or has an unknown value.
        """
        if set(values) != set(self.dimensions):
            raise ValueError(f"{self.name} has the dimensions {', '.join(self.dimensions)}, not {', '.join(values)}")
        for dimension in self.dimensions:
            known = DIMENSION_VALUES.get(dimension)
            if known is not None and values[dimension] not in known:
                raise ValueError(f"{self.name}: {values[dimension]!r} is not one of {dimension}: {', '.join(known)}")
        return {dimension: values[dimension] for dimension in self.dimensions}


ALERTING_FUNCTIONS: tuple[Emitter, ...] = ("processor", "register_wait", "escalate", "sweeper")
"""Functions that apply decisions, and so can raise alerts."""

EVENTS_ACCEPTED = Metric("EventsAccepted", "Count", ("cell", "stage"), ("producer", "sweeper"))
"""Events published to the bus and answered 202. The sweeper adds 0 each minute, so that "no events" has data points."""

EVENTS_REFUSED = Metric("EventsRefused", "Count", ("cell", "stage"), ("producer",))
"""Refused events, counted as `responses.REFUSED_STATUSES` says: each refused event of a readable batch, and one for a
request that is refused as a whole. Requests that API Gateway refuses are not included: its metric `4XXError` counts
them."""

EVENTS_UNPUBLISHED = Metric("EventsUnpublished", "Count", ("cell", "stage"), ("producer",))
"""Valid events that the bus did not accept: answered 503, for the sender to send again."""

EVENTS_PROCESSED = Metric("EventsProcessed", "Count", ("cell", "stage", "outcome"), ("processor",))
"""Messages that were processed. `conflict` and `refused` (unreadable) messages go to the dead-letter queue."""

CONFLICTS = Metric("Conflicts", "Count", ("cell", "stage"), ("processor",))
"""Messages of EventsProcessed with the outcome `conflict`: two contents under one event_id."""

PROCESSING_FAILED = Metric("ProcessingFailed", "Count", ("cell", "stage"), ("processor",))
"""Attempts that raised an exception; the message is delivered again after a pause."""

ALERTS_RAISED = Metric("AlertsRaised", "Count", ("cell", "stage", "severity"), ALERTING_FUNCTIONS)
"""Alerts published to their severity's topic. An alert published twice, after a crash, counts twice."""

SWEEP_COMPLETED = Metric("SweepCompleted", "Count", ("cell",), ("sweeper",))
"""1 per scheduled sweep that ended, even if it ran out of time. Missing data means that no sweep runs."""

SWEEP_BACKLOG = Metric("SweepBacklog", "Count", ("cell",), ("sweeper",))
"""Due invoices that the sweep had no time for; 0 if there were none. Counts at most one page of each shard."""

SWEEP_FAILED = Metric("SweepFailed", "Count", ("cell",), ("sweeper",))
"""Invoices whose sweep raised an exception; 0 if there were none. They are swept again a minute later."""

OPEN_EXECUTIONS = Metric("OpenExecutions", "Count", ("cell",), ("sweeper",))
"""Estimated number of open executions of the cell, from a sample of the index of checks; see `handlers.sweeper`."""

VISIBILITY_LATENCY = Metric("VisibilityLatency", "Milliseconds", ("cell", "stage"), ("recorder",))
"""Time from an event's received_at until its row is in the time series."""

TRANSITIONS_RECORDED = Metric("TransitionsRecorded", "Count", ("cell",), ("recorder",))
"""Rows written to the time series. A row written twice counts twice."""

RECORDS_REJECTED = Metric("RecordsRejected", "Count", ("cell",), ("recorder",))
"""Rows that the time series rejected permanently. The recorder logs each in full."""

RECORDS_UNREADABLE = Metric("RecordsUnreadable", "Count", ("cell",), ("recorder",))
"""Records of the table's stream that the recorder cannot read. The queue of unrecorded records gets each in full."""

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        EVENTS_ACCEPTED,
        EVENTS_REFUSED,
        EVENTS_UNPUBLISHED,
        EVENTS_PROCESSED,
        CONFLICTS,
        PROCESSING_FAILED,
        ALERTS_RAISED,
        SWEEP_COMPLETED,
        SWEEP_BACKLOG,
        SWEEP_FAILED,
        OPEN_EXECUTIONS,
        VISIBILITY_LATENCY,
        TRANSITIONS_RECORDED,
        RECORDS_REJECTED,
        RECORDS_UNREADABLE,
    )
}
"""All metrics by name."""

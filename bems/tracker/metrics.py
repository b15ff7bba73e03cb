"""Metrics: the names under which a cell's functions count what they do, for those who emit them and those who watch.

CloudWatch keeps a metric per name and set of dimensions, and an alarm on a set that nobody emits stays green for ever:
so each metric has exactly one set. None has an invoice's id: every new value of a dimension is a new metric, and is
billed as one.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from msgspec import Struct

from bems.tracker.actions import Severity
from bems.tracker.contract import STAGES

NAMESPACE = "BEMS"

Unit = Literal["Count", "Milliseconds"]
Dimension = Literal["cell", "stage", "outcome", "severity"]
Outcome = Literal["accepted", "duplicate", "conflict", "refused"]
"""What became of a message: a new event, a known one, another one under a known id, or nothing that can be read."""
Emitter = Literal["producer", "processor", "register_wait", "escalate", "sweeper", "recorder"]

DIMENSION_VALUES: Mapping[Dimension, tuple[str, ...]] = {
    "stage": STAGES,
    "outcome": get_args(Outcome),
    "severity": get_args(Severity),
}
"""What each dimension but `cell` may say."""


class Metric(Struct, frozen=True):
    """A metric's name, unit and dimensions, and the functions (modules of `handlers`) that emit it."""

    name: str
    unit: Unit
    dimensions: tuple[Dimension, ...]
    emitters: tuple[Emitter, ...]

    def dimension_values(self, **values: str) -> dict[str, str]:
        """The values in the order of the dimensions. ValueError where one is missing, unknown or too many."""
        if set(values) != set(self.dimensions):
            raise ValueError(f"{self.name} has the dimensions {', '.join(self.dimensions)}, not {', '.join(values)}")
        for dimension in self.dimensions:
            known = DIMENSION_VALUES.get(dimension)
            if known is not None and values[dimension] not in known:
                raise ValueError(f"{self.name}: {values[dimension]!r} is not one of {dimension}: {', '.join(known)}")
        return {dimension: values[dimension] for dimension in self.dimensions}


ALERTING_FUNCTIONS: tuple[Emitter, ...] = ("processor", "register_wait", "escalate", "sweeper")
"""The functions that bring decisions into the world, and so may raise alerts."""

EVENTS_ACCEPTED = Metric("EventsAccepted", "Count", ("cell", "stage"), ("producer", "sweeper"))
"""Published to the bus: the sender was told 202. The sweeper adds 0 each minute, so that silence is a number too."""

EVENTS_REFUSED = Metric("EventsRefused", "Count", ("cell", "stage"), ("producer",))
"""Refused events, by the rule of `responses.REFUSED_STATUSES`: each of a batch that can be read, and one for a
request that is refused as a whole. What API Gateway refuses by itself does not come here: its own
metric `4XXError` has that."""

EVENTS_UNPUBLISHED = Metric("EventsUnpublished", "Count", ("cell", "stage"), ("producer",))
"""Valid, but the bus did not take it: the sender was told 503, and sends it again."""

EVENTS_PROCESSED = Metric("EventsProcessed", "Count", ("cell", "stage", "outcome"), ("processor",))
"""Messages that came to an end. `conflict` and `refused` (nothing that can be read) go to the dead-letter queue."""

CONFLICTS = Metric("Conflicts", "Count", ("cell", "stage"), ("processor",))
"""Those of EventsProcessed whose outcome is `conflict`, by themselves: two contents under one event_id."""

PROCESSING_FAILED = Metric("ProcessingFailed", "Count", ("cell", "stage"), ("processor",))
"""Attempts that raised, for any other reason; the message comes again after a pause."""

ALERTS_RAISED = Metric("AlertsRaised", "Count", ("cell", "stage", "severity"), ALERTING_FUNCTIONS)
"""Alerts handed to their severity's topic. One that is handed on twice, after a crash, counts twice."""

SWEEP_COMPLETED = Metric("SweepCompleted", "Count", ("cell",), ("sweeper",))
"""1 per scheduled sweep that came to its end, even if for lack of time. Its absence means that nobody sweeps."""

SWEEP_BACKLOG = Metric("SweepBacklog", "Count", ("cell",), ("sweeper",))
"""Invoices known to be due that the sweep had no time for; 0 where it had. It counts at most one page of each shard."""

SWEEP_FAILED = Metric("SweepFailed", "Count", ("cell",), ("sweeper",))
"""Invoices whose sweeping raised; 0 where none did. They are swept again a minute later."""

OPEN_EXECUTIONS = Metric("OpenExecutions", "Count", ("cell",), ("sweeper",))
"""About how many executions the cell has open: a sample of the index of checks, as `handlers.sweeper` says."""

VISIBILITY_LATENCY = Metric("VisibilityLatency", "Milliseconds", ("cell", "stage"), ("recorder",))
"""For every event: from received_at until the time series had its row."""

TRANSITIONS_RECORDED = Metric("TransitionsRecorded", "Count", ("cell",), ("recorder",))
"""Rows that the time series took. One that is written twice counts twice."""

RECORDS_REJECTED = Metric("RecordsRejected", "Count", ("cell",), ("recorder",))
"""Rows that the time series refused for good; each is in the recorder's log, whole."""

RECORDS_UNREADABLE = Metric("RecordsUnreadable", "Count", ("cell",), ("recorder",))
"""Records of the table's stream that the recorder cannot read; each is in the queue of what is unrecorded, whole."""

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
"""Every metric by its name."""

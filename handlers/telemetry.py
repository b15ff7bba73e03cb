"""Telemetry: what the functions log, trace and count. Never a key, and no whole payload below the level of an error."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from bems.tracker.actions import Alert
from bems.tracker.metrics import ALERTS_RAISED, NAMESPACE, Metric
from bems.tracker.ports import Alerts

T = TypeVar("T")

logger = Logger(utc=True)

tracer = Tracer(patch_modules=["botocore"])
"""Off outside Lambda, and wherever POWERTOOLS_TRACE_DISABLED says so."""


class MetricsBuffer:
    """Adds up an invocation's metrics, and writes each set of dimensions once (CloudWatch's embedded metric format)."""

    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._values: dict[tuple[tuple[str, str], ...], dict[Metric, list[float]]] = {}

    def add(self, metric: Metric, value: float = 1, **dimensions: str) -> None:
        """One more. ValueError for dimensions that the metric has not; `cell` is known."""
        values = metric.dimension_values(cell=self._cell, **dimensions)
        self._values.setdefault(tuple(values.items()), {}).setdefault(metric, []).append(value)

    def flush(self) -> None:
        """Write what was added since the last time. A count is one number, of durations each is kept."""
        for dimensions, metrics in self._values.items():
            # Without `service=""` Powertools would add a dimension of its own, which no alarm here knows.
            emf = AmazonCloudWatchEMFProvider(dimension_set=dict(dimensions), namespace=NAMESPACE, service="")
            for metric, values in metrics.items():
                for value in values if metric.unit == "Milliseconds" else [sum(values)]:
                    emf.add_metric(metric.name, metric.unit, value)
            if emf.metric_set:
                emf.flush_metrics()
        self._values.clear()

    @contextmanager
    def flushed(self) -> Iterator["MetricsBuffer"]:
        """What was counted is written, however the invocation ends."""
        try:
            yield self
        finally:
            self.flush()


class CountedAlerts:
    """The Alerts port, logging and counting. A cell that sends its alerts to `log` has them here, and nowhere else."""

    def __init__(self, alerts: Alerts, meter: MetricsBuffer) -> None:
        self._alerts = alerts
        self._meter = meter

    def raise_alert(self, alert: Alert) -> None:
        """Raise it, then log and count it: one that was raised twice is logged twice, with the same id."""
        self._alerts.raise_alert(alert)
        logger.info(
            "alert raised",
            extra={
                "alert_id": alert.id,
                "invoice_id": alert.invoice_id,
                "kind": alert.kind,
                "stage": alert.stage,
                "severity": alert.severity,
                "step": alert.step,
            },
        )
        self._meter.add(ALERTS_RAISED, stage=alert.stage, severity=alert.severity)


def entry_point(function: Callable[[dict[str, Any], Any], T]) -> Callable[[dict[str, Any], Any], T]:
    """A function that is traced, and logs with its request's id. `log_event` is off whatever the environment says,
    because an API Gateway event holds the caller's key."""
    traced = tracer.capture_lambda_handler(function, capture_response=False)
    entry: Callable[[dict[str, Any], Any], T] = logger.inject_lambda_context(traced, log_event=False, clear_state=True)
    return entry


def init_on_cold_start(build: Callable[[], object]) -> None:
    """In Lambda, build now, while the function starts: that is when it has the most processor, and when an instance of
    provisioned concurrency is made ready. A setting that is wrong then says so in the log of the start."""
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        build()

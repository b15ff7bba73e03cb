"""Logging, tracing and metrics of the functions. Logs never contain keys, and whole payloads only at level ERROR."""

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
"""Disabled outside Lambda and by POWERTOOLS_TRACE_DISABLED."""


class MetricsBuffer:
    """Buffer of an invocation's metrics, written once per set of dimensions in CloudWatch's embedded metric format."""

    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._values: dict[tuple[tuple[str, str], ...], dict[Metric, list[float]]] = {}

    def add(self, metric: Metric, value: float = 1, **dimensions: str) -> None:
        """Add a value. The dimension `cell` is added. Raises ValueError for dimensions that the metric does not
        have."""
        values = metric.dimension_values(cell=self._cell, **dimensions)
        self._values.setdefault(tuple(values.items()), {}).setdefault(metric, []).append(value)

    def flush(self) -> None:
        """Write and clear the buffer. Counts are summed; each duration is kept."""
        for dimensions, metrics in self._values.items():
            # Without `service=""` Powertools adds a dimension `service`, which our alarms do not have.
            emf = AmazonCloudWatchEMFProvider(dimension_set=dict(dimensions), namespace=NAMESPACE, service="")
            for metric, values in metrics.items():
                for value in values if metric.unit == "Milliseconds" else [sum(values)]:
                    emf.add_metric(metric.name, metric.unit, value)
            if emf.metric_set:
                emf.flush_metrics()
        self._values.clear()

    @contextmanager
    def flushed(self) -> Iterator["MetricsBuffer"]:
        """Write the buffer at the end of the block, even if it raises."""
        try:
            yield self
        finally:
            self.flush()


class CountedAlerts:
    """Wrapper of the Alerts port that logs and counts. Implements the destination `log`.

    A message of kind `resolved` is logged, but not counted.
    """

    def __init__(self, alerts: Alerts, meter: MetricsBuffer) -> None:
        self._alerts = alerts
        self._meter = meter

    def raise_alert(self, alert: Alert) -> None:
        """Send the alert, then log and count it. A repeated alert is logged again with the same id."""
        self._alerts.raise_alert(alert)
        logger.info(
            "alerts resolved" if alert.kind == "resolved" else "alert raised",
            extra={
                "alert_id": alert.id,
                "invoice_id": alert.invoice_id,
                "kind": alert.kind,
                "stage": alert.stage,
                "severity": alert.severity,
                "step": alert.step,
            },
        )
        if alert.kind != "resolved":
            self._meter.add(ALERTS_RAISED, stage=alert.stage, severity=alert.severity)


def entry_point(function: Callable[[dict[str, Any], Any], T]) -> Callable[[dict[str, Any], Any], T]:
    """Decorate a handler with tracing, and with logging of the request id.

    `log_event` is always off, also if the environment sets it, because an API Gateway event contains the caller's key.
    """
    traced = tracer.capture_lambda_handler(function, capture_response=False)
    entry: Callable[[dict[str, Any], Any], T] = logger.inject_lambda_context(traced, log_event=False, clear_state=True)
    return entry


def init_on_cold_start(build: Callable[[], object]) -> None:
    """In Lambda, call `build` during initialization.

    Initialization has the full CPU, and provisioned concurrency runs it ahead of time. An invalid setting fails it with
    an entry in the log.
    """
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        build()

"""Metrics that alarms and the dashboard may use.

References to other metrics raise ValueError, because an alarm on a metric that is never published never goes off. There
are three kinds:

- the cell's own metrics, defined in `bems.tracker.metrics`;
- AWS's metrics, listed here with the dimensions under which AWS publishes them;
- metrics that the stack's log filters publish.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from bems.tracker import metrics as tracker
from bems.tracker.metrics import Metric

AWS_METRICS: Mapping[str, Mapping[str, tuple[tuple[str, ...], ...]]] = {
    # API Gateway developer guide, "Amazon API Gateway dimensions and metrics".
    "AWS/ApiGateway": {
        "Count": (("ApiName", "Stage"),),
        "4XXError": (("ApiName", "Stage"),),
        "5XXError": (("ApiName", "Stage"),),
        "Latency": (("ApiName", "Stage"),),
    },
    # Lambda developer guide, "Types of metrics for Lambda functions".
    "AWS/Lambda": {
        "ConcurrentExecutions": (("FunctionName",),),
        "Duration": (("FunctionName",),),
        "Errors": (("FunctionName",),),
        "IteratorAge": (("FunctionName",),),
        "Throttles": (("FunctionName",),),
    },
    # SQS developer guide, "Available CloudWatch metrics for Amazon SQS".
    "AWS/SQS": {
        "ApproximateAgeOfOldestMessage": (("QueueName",),),
        "ApproximateNumberOfMessagesVisible": (("QueueName",),),
    },
    # Step Functions developer guide, "Monitoring Step Functions metrics using Amazon CloudWatch".
    "AWS/States": {
        "ExecutionsAborted": (("StateMachineArn",),),
        "ExecutionsFailed": (("StateMachineArn",),),
        "ExecutionsStarted": (("StateMachineArn",),),
        "ExecutionsSucceeded": (("StateMachineArn",),),
        "ExecutionsTimedOut": (("StateMachineArn",),),
        "ExecutionThrottled": (("StateMachineArn",),),
        "OpenExecutionCount": ((),),
        "ThrottledEvents": (("APIName",), ("ServiceMetric",)),
    },
    # Data Firehose developer guide, "Monitoring with CloudWatch metrics", delivery to Iceberg.
    "AWS/Firehose": {
        "DeliveryToIceberg.DataFreshness": (("DeliveryStreamName",),),
        "DeliveryToIceberg.FailedRowCount": (("DeliveryStreamName",),),
    },
}
"""Sets of dimensions under which AWS publishes each metric, by namespace and name."""

LOG_METRICS = ("RequestsThrottled", "DeliveriesFailed")
"""Names of the metrics that a cell's log filters publish. Their namespace is `BEMS/<cell>`. They have no dimensions,
because a filter cannot set a constant one."""

_MINUTE = Duration.minutes(1)


@dataclass(frozen=True)
class MetricRef:
    """Reference to a metric with one set of dimensions."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    def metric(self, statistic: str = "Sum", period: Duration = _MINUTE) -> cloudwatch.Metric:
        """Return the metric for an alarm."""
        return cloudwatch.Metric(
            namespace=self.namespace,
            metric_name=self.name,
            dimensions_map=dict(self.dimensions) or None,
            statistic=statistic,
            period=period,
        )

    def dashboard_entry(self, statistic: str = "Sum", label: str | None = None, **options: Any) -> list[Any]:
        """Return the metric for a dashboard's graph; `options` are further rendering properties.

        Source: CloudWatch API reference, "Dashboard body structure and syntax".
        """
        dimensions = [text for pair in self.dimensions for text in pair]
        rendering = {"stat": statistic, **({"label": label} if label else {}), **options}
        return [self.namespace, self.name, *dimensions, rendering]


def cell_metric(metric: Metric, **dimensions: str) -> MetricRef:
    """Return a reference to a metric of the cell's functions. Raises ValueError for dimensions that it lacks."""
    return MetricRef(tracker.NAMESPACE, metric.name, tuple(metric.dimension_values(**dimensions).items()))


def aws_metric(namespace: str, name: str, **dimensions: str) -> MetricRef:
    """Return a reference to a metric of AWS.

    Raises ValueError for a metric that AWS_METRICS does not list, or lists with other dimensions.
    """
    known = AWS_METRICS.get(namespace, {}).get(name)
    if known is None:
        raise ValueError(f"{namespace} {name} is not on the list of known metrics")
    if not any(set(names) == set(dimensions) for names in known):
        expected = " or ".join(", ".join(names) for names in known)
        raise ValueError(f"{namespace} {name} has the dimensions {expected}, not {', '.join(dimensions)}")
    return MetricRef(namespace, name, tuple(dimensions.items()))


def log_metric(cell: str, name: str) -> MetricRef:
    """Return a reference to a metric of a cell's log filter. Raises ValueError for a name that no filter publishes."""
    if name not in LOG_METRICS:
        raise ValueError(f"no log filter publishes {name}")
    return MetricRef(logs_namespace(cell), name, ())


def logs_namespace(cell: str) -> str:
    """Return the namespace of the metrics that a cell's log filters publish."""
    return f"{tracker.NAMESPACE}/{cell}"

"""Metrics: what alarms and the dashboard watch. Nothing can be watched that is not here, because an alarm on a
metric that nobody emits stays green for ever.

The cell's own are `bems.tracker.metrics`. Of AWS's there is a list of those that the cell watches, each with the
dimensions under which AWS publishes it. Two are made of logs, by filters of this stack.
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
"""By namespace and name, the sets of dimensions."""

LOG_METRICS = ("RequestsThrottled", "DeliveriesFailed")
"""Names of metrics that filters of a cell make, in the namespace `BEMS/<cell>`, without dimensions: a filter cannot
give a constant one."""

_MINUTE = Duration.minutes(1)


@dataclass(frozen=True)
class MetricRef:
    """One metric under one set of dimensions."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    def metric(self, statistic: str = "Sum", period: Duration = _MINUTE) -> cloudwatch.Metric:
        """For an alarm."""
        return cloudwatch.Metric(
            namespace=self.namespace,
            metric_name=self.name,
            dimensions_map=dict(self.dimensions) or None,
            statistic=statistic,
            period=period,
        )

    def dashboard_entry(self, statistic: str = "Sum", label: str | None = None, **more: Any) -> list[Any]:
        """For a dashboard's graph (CloudWatch API reference, "Dashboard body structure and syntax")."""
        flat = [text for pair in self.dimensions for text in pair]
        return [self.namespace, self.name, *flat, {"stat": statistic, **({"label": label} if label else {}), **more}]


def cell_metric(metric: Metric, **dimensions: str) -> MetricRef:
    """A metric of the cell's functions. ValueError for dimensions that it has not."""
    return MetricRef(tracker.NAMESPACE, metric.name, tuple(metric.dimensioned(**dimensions).items()))


def aws_metric(namespace: str, name: str, **dimensions: str) -> MetricRef:
    """A metric of AWS's. ValueError for one that is not on the list, or has other dimensions there."""
    known = AWS_METRICS.get(namespace, {}).get(name)
    if known is None:
        raise ValueError(f"{namespace} {name} is not on the list of known metrics")
    if not any(set(each) == set(dimensions) for each in known):
        right = " or ".join(", ".join(each) for each in known)
        raise ValueError(f"{namespace} {name} has the dimensions {right}, not {', '.join(dimensions)}")
    return MetricRef(namespace, name, tuple(dimensions.items()))


def log_metric(cell: str, name: str) -> MetricRef:
    """A metric that a filter makes. ValueError for a name that no filter has."""
    if name not in LOG_METRICS:
        raise ValueError(f"{name} is not made by any filter")
    return MetricRef(logs_namespace(cell), name, ())


def logs_namespace(cell: str) -> str:
    """Where the filters of a cell put what they count."""
    return f"{tracker.NAMESPACE}/{cell}"

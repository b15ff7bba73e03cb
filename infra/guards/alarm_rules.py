"""Rules for alarms: each metric is published under the alarm's dimensions, and each alarm has an action."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bems.tracker import metrics as tracker
from infra.guards.resources import TemplateResource, as_list, to_text
from infra.monitoring.metrics import AWS_METRICS

RESOURCE_DIMENSIONS: Mapping[str, tuple[str, str]] = {
    "ApiName": ("AWS::ApiGateway::RestApi", "name"),
    "DeliveryStreamName": ("AWS::KinesisFirehose::DeliveryStream", "deliverystreamname"),
    "FunctionName": ("AWS::Lambda::Function", "functionname"),
    "QueueName": ("AWS::SQS::Queue", "queuename"),
}
"""Dimensions whose value is a resource's name, with the resource type and the property that holds the name."""


def check_alarms(resources: Sequence[TemplateResource]) -> Iterator[tuple[str, str]]:
    """Yield the path of each faulty alarm, with the fault."""
    log_metrics = set(_log_metrics(resources))
    names = {
        (type, str(resource.properties.get(property)))
        for type, property in RESOURCE_DIMENSIONS.values()
        for resource in resources
        if resource.type == type
    }
    for resource in resources:
        if resource.type not in ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"):
            continue
        if not resource.properties.get("alarmactions"):
            yield resource.path, "an alarm without an action: add one"
        for namespace, name, dimensions in _metrics(resource.properties):
            fault = _fault(namespace, name, dimensions, log_metrics, names)
            if fault is not None:
                yield resource.path, fault


def _metrics(properties: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield namespace, name and dimensions of each metric that an alarm uses."""
    if "metricname" in properties:
        yield str(properties.get("namespace")), str(properties["metricname"]), _dimensions(properties)
    for query in as_list(properties.get("metrics")):
        metric = query.get("metricstat", {}).get("metric")
        if metric is not None:
            yield str(metric.get("namespace")), str(metric["metricname"]), _dimensions(metric)


def _dimensions(metric: Mapping[str, Any]) -> dict[str, str]:
    return {dimension["name"]: to_text(dimension["value"]) for dimension in as_list(metric.get("dimensions"))}


def _fault(
    namespace: str,
    name: str,
    dimensions: dict[str, str],
    log_metrics: set[tuple[str, str]],
    names: set[tuple[str, str]],
) -> str | None:
    """Return why no data is ever published for this metric and these dimensions; None if it is published.

    `names` are the names of the stack's resources, each after its type.
    """
    if namespace == tracker.NAMESPACE:
        metric = tracker.METRICS.get(name)
        if metric is None:
            return f"{namespace} {name} is never published: see bems/tracker/metrics.py"
        try:
            metric.dimension_values(**dimensions)
        except ValueError as error:
            return f"never published: {namespace} {error}"
        return None
    if (namespace, name) in log_metrics:
        return f"{namespace} {name} is published without dimensions" if dimensions else None
    known = AWS_METRICS.get(namespace, {}).get(name)
    if known is None:
        return f"{namespace} {name} is not a known metric: see infra/monitoring/metrics.py"
    if not any(set(each) == set(dimensions) for each in known):
        return f"{namespace} {name} is not published with {', '.join(dimensions) or 'no dimension'}"
    for dimension, value in dimensions.items():
        if dimension in RESOURCE_DIMENSIONS and (RESOURCE_DIMENSIONS[dimension][0], value) not in names:
            return f"{namespace} {name} has the {dimension} {value}, which is not in this stack"
    return None


def _log_metrics(resources: Sequence[TemplateResource]) -> Iterator[tuple[str, str]]:
    """Yield namespace and name of each metric that the stack's log filters publish."""
    for resource in resources:
        if resource.type == "AWS::Logs::MetricFilter":
            for transformation in as_list(resource.properties.get("metrictransformations")):
                yield str(transformation["metricnamespace"]), str(transformation["metricname"])

"""Watching: whether what an alarm watches is ever published, and whether the alarm tells anybody."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bems.tracker import metrics as tracker
from infra.guards.resources import Resource, as_list, to_text
from infra.monitoring.metrics import AWS_METRICS

RESOURCE_DIMENSIONS: Mapping[str, tuple[str, str]] = {
    "ApiName": ("AWS::ApiGateway::RestApi", "name"),
    "DeliveryStreamName": ("AWS::KinesisFirehose::DeliveryStream", "deliverystreamname"),
    "FunctionName": ("AWS::Lambda::Function", "functionname"),
    "QueueName": ("AWS::SQS::Queue", "queuename"),
}
"""Dimensions that name a resource: its type, and the property that has its name."""


def check_alarms(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    """The path of every alarm that is of no use, and why."""
    counted = set(_counted(resources))
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
            yield resource.path, "an alarm that tells nobody: give it an action"
        for namespace, name, dimensions in _watched(resource.properties):
            fault = _fault(namespace, name, dimensions, counted, names)
            if fault is not None:
                yield resource.path, fault


def _watched(properties: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    if "metricname" in properties:
        yield str(properties.get("namespace")), str(properties["metricname"]), _dimensions(properties)
    for query in as_list(properties.get("metrics")):
        metric = query.get("metricstat", {}).get("metric")
        if metric is not None:
            yield str(metric.get("namespace")), str(metric["metricname"]), _dimensions(metric)


def _dimensions(metric: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: to_text(one["value"]) for one in as_list(metric.get("dimensions"))}


def _fault(
    namespace: str, name: str, dimensions: dict[str, str], counted: set[tuple[str, str]], names: set[tuple[str, str]]
) -> str | None:
    if namespace == tracker.NAMESPACE:
        metric = tracker.METRICS.get(name)
        if metric is None:
            return f"nobody emits {namespace} {name}: see bems/tracker/metrics.py"
        try:
            metric.dimension_values(**dimensions)
        except ValueError as fault:
            return f"nobody emits {namespace} {fault}"
        return None
    if (namespace, name) in counted:
        return f"{namespace} {name} is published without dimensions" if dimensions else None
    known = AWS_METRICS.get(namespace, {}).get(name)
    if known is None:
        return f"nobody emits {namespace} {name}: see infra/monitoring/metrics.py"
    if not any(set(each) == set(dimensions) for each in known):
        return f"{namespace} {name} is not published under {', '.join(dimensions) or 'no dimension'}"
    for dimension, value in dimensions.items():
        if dimension in RESOURCE_DIMENSIONS and (RESOURCE_DIMENSIONS[dimension][0], value) not in names:
            return f"{namespace} {name} is watched for {dimension} {value}, which is not in this stack"
    return None


def _counted(resources: Sequence[Resource]) -> Iterator[tuple[str, str]]:
    for resource in resources:
        if resource.type == "AWS::Logs::MetricFilter":
            for made in as_list(resource.properties.get("metrictransformations")):
                yield str(made["metricnamespace"]), str(made["metricname"])

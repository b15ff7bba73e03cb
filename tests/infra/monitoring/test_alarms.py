"""Tests of each alarm's metric, dimensions and action. An alarm on a wrong metric never goes off."""

import json
import re
from typing import Any

from bems.tracker import metrics as tracker
from bems.tracker.contract import STAGES
from infra.guards.alarm_rules import check_alarms
from infra.guards.resources import template_resources
from infra.monitoring.metrics import AWS_METRICS
from tests.infra.function_ids import FUNCTIONS
from tests.infra.template import Template

Expected = tuple[str, str, dict[str, str], str]
"""Namespace, metric name, dimensions, severity."""


def expected(cell: Template) -> dict[str, Expected]:
    """Return the expected alarms with a single metric, by construct id."""
    own, prefix, suffix = {"cell": cell.cell}, cell.name, ".fifo" if cell.cell == "eu-west" else ""
    machine = {"StateMachineArn": f"arn:aws:states:{cell.region}:<AccountId>:stateMachine:{prefix}-invoice-lifecycle"}
    alarms: dict[str, Expected] = {}
    for stage in STAGES:
        title, dimensions = stage.capitalize(), {**own, "stage": stage}
        queue, dead_letters = f"{prefix}-{stage}{suffix}", f"{prefix}-{stage}-dead-letters{suffix}"
        visible, age = "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"
        alarms |= {
            f"{title}Latency": ("BEMS", "VisibilityLatency", dimensions, "Critical"),
            f"{title}Unpublished": ("BEMS", "EventsUnpublished", dimensions, "Critical"),
            f"{title}Conflicts": ("BEMS", "Conflicts", dimensions, "Warning"),
            f"{title}QueueAge": ("AWS/SQS", age, {"QueueName": queue}, "Critical"),
            f"{title}QueueDepth": ("AWS/SQS", visible, {"QueueName": queue}, "Warning"),
            f"{title}DeadLetters": ("AWS/SQS", visible, {"QueueName": dead_letters}, "Critical"),
        }
    for id, queue in (("Undelivered", f"{prefix}-undelivered"), ("Unrecorded", f"{prefix}-unrecorded")):
        alarms[id] = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": queue}, "Critical")
    for function in FUNCTIONS:
        dimensions = {"FunctionName": f"{prefix}-{function}"}
        alarms[f"{function}Throttles"] = ("AWS/Lambda", "Throttles", dimensions, "Warning")
        alarms[f"{function}Errors"] = ("AWS/Lambda", "Errors", dimensions, "Warning")
    states = "AWS/States"
    alarms |= {
        "ExecutionsFailed": (states, "ExecutionsFailed", machine, "Warning"),
        "ExecutionsTimedOut": (states, "ExecutionsTimedOut", machine, "Warning"),
        "ExecutionsAborted": (states, "ExecutionsAborted", machine, "Warning"),
        "ExecutionsThrottled": (states, "ExecutionThrottled", machine, "Warning"),
        "TransitionsThrottled": (states, "ThrottledEvents", {"ServiceMetric": "StateTransition"}, "Warning"),
        "StartsThrottled": (states, "ThrottledEvents", {"APIName": "StartExecution"}, "Warning"),
        "AnswersThrottled": (states, "ThrottledEvents", {"APIName": "SendTaskSuccess"}, "Warning"),
        "OpenExecutions": ("BEMS", "OpenExecutions", own, "Warning"),
        "AccountOpenExecutions": (states, "OpenExecutionCount", {}, "Warning"),
        "ApiThrottling": (f"BEMS/{cell.cell}", "RequestsThrottled", {}, "Warning"),
        "SweeperSilent": ("BEMS", "SweepCompleted", own, "Critical"),
        "SweepBacklog": ("BEMS", "SweepBacklog", own, "Warning"),
        "SweepFailed": ("BEMS", "SweepFailed", own, "Warning"),
        "RecorderBehind": ("AWS/Lambda", "IteratorAge", {"FunctionName": f"{prefix}-Recorder"}, "Critical"),
        "RecordsRejected": ("BEMS", "RecordsRejected", own, "Critical"),
    }
    if cell.cell == "eu-west":
        alarms["DeliveriesFailed"] = ("BEMS/eu-west", "DeliveriesFailed", {}, "Warning")
    else:
        stream = {"DeliveryStreamName": "bems-us-east-transitions"}
        alarms["SeriesBehind"] = ("AWS/Firehose", "DeliveryToIceberg.DataFreshness", stream, "Critical")
        alarms["SeriesRefused"] = ("AWS/Firehose", "DeliveryToIceberg.FailedRowCount", stream, "Critical")
    return alarms


def alarms_of(cell: Template) -> dict[str, dict[str, Any]]:
    """Return the properties of a cell's alarms, by construct id."""
    return {path.removeprefix("Alarms/"): alarm for path, alarm in cell.by_type("AWS::CloudWatch::Alarm").items()}


def dimensions(metric: dict[str, Any]) -> dict[str, str]:
    return {one["Name"]: one["Value"] for one in metric.get("Dimensions", ())}


def metrics(alarm: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """Return namespace, name and dimensions of each metric of an alarm."""
    if "MetricName" in alarm:
        stats = [alarm]
    else:
        stats = [one["MetricStat"]["Metric"] for one in alarm["Metrics"] if "MetricStat" in one]
    return [(one["Namespace"], one["MetricName"], dimensions(one)) for one in stats]


def test_every_alarm_has_its_metric_action_and_description(cell: Template) -> None:
    alarms = {id: alarm for id, alarm in alarms_of(cell).items() if "MetricName" in alarm}
    actual = {
        id: (alarm["Namespace"], alarm["MetricName"], dimensions(alarm), alarm["AlarmActions"])
        for id, alarm in alarms.items()
    }
    assert actual == {id: (*metric, [f"<Alerts/{severity}>"]) for id, (*metric, severity) in expected(cell).items()}
    for alarm in alarms.values():
        assert alarm["AlarmDescription"]


def test_alarms_on_expressions_have_their_metrics_and_actions(cell: Template) -> None:
    alarms = {id: alarm for id, alarm in alarms_of(cell).items() if "Metrics" in alarm}
    titles = [stage.capitalize() for stage in STAGES]
    assert set(alarms) == {f"{title}{kind}" for title in titles for kind in ("Failures", "Volume")} | {"ApiErrors"}
    for stage in STAGES:
        own = {"cell": cell.cell, "stage": stage}
        failures = alarms[f"{stage.capitalize()}Failures"]
        outcomes = [
            ("BEMS", "EventsProcessed", {"cell": cell.cell, "outcome": outcome, "stage": stage})
            for outcome in ("accepted", "duplicate", "conflict", "refused")
        ]
        assert sorted(map(str, metrics(failures))) == sorted(map(str, [*outcomes, ("BEMS", "ProcessingFailed", own)]))
        assert failures["AlarmActions"] == ["<Alerts/Critical>"]
        volume = alarms[f"{stage.capitalize()}Volume"]
        assert metrics(volume) == [("BEMS", "EventsAccepted", own)]
        assert "ANOMALY_DETECTION_BAND" in json.dumps(volume["Metrics"])
        assert volume["ComparisonOperator"] == "LessThanLowerOrGreaterThanUpperThreshold"
        assert volume["AlarmActions"] == ["<Alerts/Warning>"]
    errors = alarms["ApiErrors"]
    assert metrics(errors) == [("AWS/ApiGateway", "5XXError", {"ApiName": cell.name, "Stage": "v1"})]


def test_thresholds_match_the_service_targets(cell: Template) -> None:
    alarms = alarms_of(cell)
    for stage in STAGES:
        latency = alarms[f"{stage.capitalize()}Latency"]
        # Two minutes up to Timestream, where a row is visible at once; 30 seconds up to Firehose, which has 90 seconds.
        milliseconds = 120_000 if cell.cell == "eu-west" else 30_000
        assert (latency["Threshold"], latency["ExtendedStatistic"]) == (milliseconds, "p99")
        assert latency["ComparisonOperator"] == "GreaterThanThreshold"
        assert alarms[f"{stage.capitalize()}DeadLetters"]["Threshold"] == 0
    if cell.cell == "us-east":
        behind = alarms["SeriesBehind"]
        assert (behind["Threshold"], behind["Statistic"], behind["ComparisonOperator"]) == (
            90,
            "Maximum",
            "GreaterThanThreshold",
        )
    assert alarms["OpenExecutions"]["Threshold"] == 800_000
    silent = alarms["SweeperSilent"]
    # The only alarm for which missing data is the fault.
    assert (silent["TreatMissingData"], silent["ComparisonOperator"]) == ("breaching", "LessThanThreshold")
    others = {one["TreatMissingData"] for id, one in alarms.items() if id != "SweeperSilent"}
    assert others == {"notBreaching", "ignore"}


def test_log_filters_publish_the_metrics_of_the_alarms(cell: Template) -> None:
    filters = {
        one["MetricTransformations"][0]["MetricName"]: (one["LogGroupName"], one["FilterPattern"])
        for one in cell.by_type("AWS::Logs::MetricFilter").values()
    }
    assert filters.pop("RequestsThrottled") == ("<Api/AccessLog>", '{ $.status = "429" }')
    if cell.cell == "eu-west":
        assert filters.pop("DeliveriesFailed") == ("<DeliveryLog>", '{ $.log_level = "ERROR" }')
    assert filters == {}


def test_the_dashboard_shows_only_published_metrics(cell: Template) -> None:
    body = json.loads(cell.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
    entries = [entry for widget in body["widgets"] for entry in widget["properties"]["metrics"]]
    assert len(entries) > 60
    for namespace, name, *rest in entries:
        pairs = [text for text in rest if isinstance(text, str)]
        dimensions = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if namespace == "BEMS":
            tracker.METRICS[name].dimension_values(**dimensions)
        elif namespace.startswith("BEMS/"):
            assert (namespace, dimensions) == (f"BEMS/{cell.cell}", {})
        else:
            assert set(dimensions) in [set(known) for known in AWS_METRICS[namespace][name]]
    # In the order of processing, from the request to the recorded transition.
    numbered = [
        widget["properties"]["title"] for widget in body["widgets"] if widget["properties"]["title"][0].isdigit()
    ]
    assert [title[0] for title in numbered] == ["1", "2", "3", "4", "5"]
    assert {widget["properties"]["region"] for widget in body["widgets"]} == {cell.region}


def test_every_listed_metric_is_used_by_an_alarm_or_dashboard(fifo: Template, standard: Template) -> None:
    used = {
        (namespace, name, frozenset(dimensions))
        for cell in (fifo, standard)
        for alarm in alarms_of(cell).values()
        for namespace, name, dimensions in metrics(alarm)
    }
    for cell in (fifo, standard):
        body = json.loads(cell.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
        entries = (entry for widget in body["widgets"] for entry in widget["properties"]["metrics"])
        for namespace, name, *rest in entries:
            used.add((namespace, name, frozenset(text for text in rest[::2] if isinstance(text, str))))
    listed = {
        (namespace, name, frozenset(dimensions))
        for namespace, names in AWS_METRICS.items()
        for name, sets in names.items()
        for dimensions in sets
    }
    assert listed <= used


def test_the_alarms_in_the_template_follow_the_rules(cell: Template) -> None:
    assert list(check_alarms(template_resources(cell.raw))) == []


def test_severity_topics_have_the_configured_subscriptions(fifo: Template, standard: Template) -> None:
    def subscriptions(cell: Template) -> set[tuple[str, str, str]]:
        return {
            (path.split("/")[1][:7], subscription["Protocol"], subscription["Endpoint"])
            for path, subscription in cell.by_type("AWS::SNS::Subscription").items()
            if path.startswith("Alerts/")
        }

    assert subscriptions(fifo) == {
        ("Warning", "email", "accounts-payable@example.com"),
        ("Critica", "https", "https://example.com/hooks/bems"),
        ("Critica", "email", "accounts-payable@example.com"),
        ("Critica", "email", "finance-oncall@example.com"),
    }
    # A secret URL is a parameter of the stack.
    assert subscriptions(standard) == {
        ("Warning", "email", "accounts-payable-us@example.com"),
        ("Critica", "https", "<BemsUsChatUrl>"),
    }
    assert standard.raw["Parameters"]["BemsUsChatUrl"]["NoEcho"] is True
    assert "Default" not in standard.raw["Parameters"]["BemsUsChatUrl"]


def test_few_failures_are_no_rate(cell: Template) -> None:
    """Fewer than 20 attempts in five minutes raise no alarm, whatever part of them fails."""
    for stage in STAGES:
        alarm = alarms_of(cell)[f"{stage.capitalize()}Failures"]
        (expression,) = [metric["Expression"] for metric in alarm["Metrics"] if "Expression" in metric]
        assert re.fullmatch(r"IF\(\((.+)\)>=20, 100\*FILL\(failed,0\)/\(\1\), 0\)", expression), expression

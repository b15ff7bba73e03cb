"""Each alarm's metric and dimensions, word for word, and whom it tells. A wrong one stays green for ever."""

import json
from typing import Any

from bems.tracker import metrics as tracker
from bems.tracker.contract import STAGES
from infra.guards.alarm_rules import check_alarms
from infra.guards.resources import template_resources
from infra.monitoring.metrics import AWS_METRICS
from tests.infra.template import Template

Watched = tuple[str, str, dict[str, str], str]

FUNCTIONS = (
    "Producer",
    *(f"Invoice{stage.capitalize()}Processor" for stage in STAGES),
    "RegisterWait",
    "Escalate",
    "Sweeper",
    "Recorder",
)


def expected(cell: Template) -> dict[str, Watched]:
    """By alarm: namespace, metric, dimensions and severity, of those with one metric."""
    own, prefix, suffix = {"cell": cell.cell}, cell.name, ".fifo" if cell.cell == "eu-west" else ""
    machine = {"StateMachineArn": f"arn:aws:states:{cell.region}:<AccountId>:stateMachine:{prefix}-invoice-lifecycle"}
    alarms: dict[str, Watched] = {}
    for stage in STAGES:
        title, dimensions = stage.capitalize(), {**own, "stage": stage}
        queue, aside = f"{prefix}-{stage}{suffix}", f"{prefix}-{stage}-dead-letters{suffix}"
        visible, age = "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"
        alarms |= {
            f"{title}Latency": ("BEMS", "VisibilityLatency", dimensions, "Critical"),
            f"{title}Unpublished": ("BEMS", "EventsUnpublished", dimensions, "Critical"),
            f"{title}Conflicts": ("BEMS", "Conflicts", dimensions, "Warning"),
            f"{title}QueueAge": ("AWS/SQS", age, {"QueueName": queue}, "Critical"),
            f"{title}QueueDepth": ("AWS/SQS", visible, {"QueueName": queue}, "Warning"),
            f"{title}DeadLetters": ("AWS/SQS", visible, {"QueueName": aside}, "Critical"),
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


def found(cell: Template) -> dict[str, dict[str, Any]]:
    return {path.removeprefix("Alarms/"): alarm for path, alarm in cell.by_type("AWS::CloudWatch::Alarm").items()}


def dimensions(metric: dict[str, Any]) -> dict[str, str]:
    return {one["Name"]: one["Value"] for one in metric.get("Dimensions", ())}


def metrics(alarm: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    if "MetricName" in alarm:
        stats = [alarm]
    else:
        stats = [one["MetricStat"]["Metric"] for one in alarm["Metrics"] if "MetricStat" in one]
    return [(one["Namespace"], one["MetricName"], dimensions(one)) for one in stats]


def test_every_alarm_watches_what_it_says_and_tells_somebody(cell: Template) -> None:
    alarms = {id: alarm for id, alarm in found(cell).items() if "MetricName" in alarm}
    seen = {
        id: (alarm["Namespace"], alarm["MetricName"], dimensions(alarm), alarm["AlarmActions"])
        for id, alarm in alarms.items()
    }
    assert seen == {id: (*watched[:3], [f"<Alerts/{watched[3]}>"]) for id, watched in expected(cell).items()}
    for alarm in alarms.values():
        assert alarm["AlarmDescription"]


def test_alarms_with_arithmetic(cell: Template) -> None:
    several = {id: alarm for id, alarm in found(cell).items() if "Metrics" in alarm}
    titles = [stage.capitalize() for stage in STAGES]
    assert set(several) == {f"{title}{kind}" for title in titles for kind in ("Failures", "Volume")} | {"ApiErrors"}
    for stage in STAGES:
        own = {"cell": cell.cell, "stage": stage}
        failures = several[f"{stage.capitalize()}Failures"]
        outcomes = [
            ("BEMS", "EventsProcessed", {"cell": cell.cell, "outcome": outcome, "stage": stage})
            for outcome in ("accepted", "duplicate", "conflict", "refused")
        ]
        assert sorted(map(str, metrics(failures))) == sorted(map(str, [*outcomes, ("BEMS", "ProcessingFailed", own)]))
        assert failures["AlarmActions"] == ["<Alerts/Critical>"]
        volume = several[f"{stage.capitalize()}Volume"]
        assert metrics(volume) == [("BEMS", "EventsAccepted", own)]
        assert "ANOMALY_DETECTION_BAND" in json.dumps(volume["Metrics"])
        assert volume["ComparisonOperator"] == "LessThanLowerOrGreaterThanUpperThreshold"
        assert volume["AlarmActions"] == ["<Alerts/Warning>"]
    errors = several["ApiErrors"]
    assert metrics(errors) == [("AWS/ApiGateway", "5XXError", {"ApiName": cell.name, "Stage": "v1"})]


def test_thresholds_are_the_promises(cell: Template) -> None:
    alarms = found(cell)
    for stage in STAGES:
        latency = alarms[f"{stage.capitalize()}Latency"]
        # To Timestream, where a row is visible at once; or to Firehose, which has the rest of the two minutes.
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
    # The one whose silence is the fault.
    assert (silent["TreatMissingData"], silent["ComparisonOperator"]) == ("breaching", "LessThanThreshold")
    others = {one["TreatMissingData"] for id, one in alarms.items() if id != "SweeperSilent"}
    assert others == {"notBreaching", "ignore"}


def test_what_filters_count_is_what_alarms_watch(cell: Template) -> None:
    filters = {
        one["MetricTransformations"][0]["MetricName"]: (one["LogGroupName"], one["FilterPattern"])
        for one in cell.by_type("AWS::Logs::MetricFilter").values()
    }
    assert filters.pop("RequestsThrottled") == ("<Api/AccessLog>", '{ $.status = "429" }')
    if cell.cell == "eu-west":
        assert filters.pop("DeliveriesFailed") == ("<DeliveryLog>", '{ $.log_level = "ERROR" }')
    assert filters == {}


def test_nothing_on_the_dashboard_is_a_metric_that_nobody_emits(cell: Template) -> None:
    body = json.loads(cell.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
    rows = [row for widget in body["widgets"] for row in widget["properties"]["metrics"]]
    assert len(rows) > 60
    for namespace, name, *rest in rows:
        pairs = [one for one in rest if isinstance(one, str)]
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if namespace == "BEMS":
            tracker.METRICS[name].dimensioned(**given)
        elif namespace.startswith("BEMS/"):
            assert (namespace, given) == (f"BEMS/{cell.cell}", {})
        else:
            assert set(given) in [set(known) for known in AWS_METRICS[namespace][name]]
    # From the request to the recorded transition, in this order.
    numbered = [
        widget["properties"]["title"] for widget in body["widgets"] if widget["properties"]["title"][0].isdigit()
    ]
    assert [title[0] for title in numbered] == ["1", "2", "3", "4", "5"]
    assert {widget["properties"]["region"] for widget in body["widgets"]} == {cell.region}


def test_every_metric_on_the_list_is_watched_by_a_cell(fifo: Template, standard: Template) -> None:
    watched = {
        (namespace, name, frozenset(given))
        for cell in (fifo, standard)
        for alarm in found(cell).values()
        for namespace, name, given in metrics(alarm)
    }
    for cell in (fifo, standard):
        body = json.loads(cell.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
        for namespace, name, *rest in (row for one in body["widgets"] for row in one["properties"]["metrics"]):
            watched.add((namespace, name, frozenset(text for text in rest[::2] if isinstance(text, str))))
    listed = {
        (namespace, name, frozenset(given))
        for namespace, names in AWS_METRICS.items()
        for name, sets in names.items()
        for given in sets
    }
    assert listed <= watched


def test_the_guard_finds_nothing_in_the_template_itself(cell: Template) -> None:
    assert list(check_alarms(template_resources(cell.raw))) == []


def test_people_hear_of_alerts(fifo: Template, standard: Template) -> None:
    def subscribed(cell: Template) -> set[tuple[str, str, str]]:
        found = cell.by_type("AWS::SNS::Subscription")
        return {
            (path.split("/")[1][:7], one["Protocol"], one["Endpoint"])
            for path, one in found.items()
            if path.startswith("Alerts/")
        }

    assert subscribed(fifo) == {
        ("Warning", "email", "accounts-payable@example.com"),
        ("Critica", "https", "https://example.com/hooks/bems"),
        ("Critica", "email", "accounts-payable@example.com"),
        ("Critica", "email", "finance-oncall@example.com"),
    }
    # A URL that is a secret is a parameter of the deployment.
    assert subscribed(standard) == {
        ("Warning", "email", "accounts-payable-us@example.com"),
        ("Critica", "https", "<BemsUsChatUrl>"),
    }
    assert standard.raw["Parameters"]["BemsUsChatUrl"]["NoEcho"] is True
    assert "Default" not in standard.raw["Parameters"]["BemsUsChatUrl"]

"""CloudWatch dashboard of a cell, from requests at the top to recorded transitions at the bottom."""

from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from bems.tracker import metrics as tracker
from bems.tracker.cells import CellConfig
from bems.tracker.contract import STAGES
from infra.common.names import Names
from infra.monitoring.alarms import FUNCTIONS
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from infra.monitoring.stage_alarms import max_recording_seconds

WIDTH = 24
"""Width of a dashboard, in grid units of CloudWatch."""

HEIGHT = 6
"""Height of a row of widgets, in grid units."""


class Dashboard(Construct):
    """CloudWatch dashboard with six rows of graphs."""

    def __init__(
        self, scope: Construct, id: str, names: Names, cell: CellConfig, machine_arn: str, stream: str | None
    ) -> None:
        super().__init__(scope, id)
        self._names = names
        self._cell = cell.name
        self._latency_target_ms = max_recording_seconds(cell) * 1000
        self._region = Stack.of(self).region
        rows = [
            self._requests(),
            self._intake(),
            self._processing(),
            self._executions(machine_arn, cell.limits.open_executions),
            self._recording(stream),
            self._functions(),
        ]
        widgets = [
            {
                "type": "metric",
                "x": column * WIDTH // len(row),
                "y": number * HEIGHT,
                "width": WIDTH // len(row),
                "height": HEIGHT,
                "properties": properties,
            }
            for number, row in enumerate(rows)
            for column, properties in enumerate(row)
        ]
        cloudwatch.CfnDashboard(
            self,
            "Dashboard",
            dashboard_name=names.prefix,
            dashboard_body=Stack.of(self).to_json_string({"start": "-PT3H", "widgets": widgets}),
        )

    def _requests(self) -> list[dict[str, Any]]:
        dimensions = {"ApiName": self._names.prefix, "Stage": "v1"}
        return [
            self._graph(
                "1. Requests",
                [
                    aws_metric("AWS/ApiGateway", "Count", **dimensions).dashboard_entry(label="requests"),
                    aws_metric("AWS/ApiGateway", "4XXError", **dimensions).dashboard_entry(label="4xx"),
                    aws_metric("AWS/ApiGateway", "5XXError", **dimensions).dashboard_entry(label="5xx"),
                    log_metric(self._cell, "RequestsThrottled").dashboard_entry(label="429"),
                ],
            ),
            self._graph(
                "Response time, ms",
                [
                    aws_metric("AWS/ApiGateway", "Latency", **dimensions).dashboard_entry("p50", "p50"),
                    aws_metric("AWS/ApiGateway", "Latency", **dimensions).dashboard_entry("p99", "p99"),
                ],
            ),
        ]

    def _intake(self) -> list[dict[str, Any]]:
        cell = self._cell
        return [
            self._graph(
                "2. Accepted",
                [
                    cell_metric(tracker.EVENTS_ACCEPTED, cell=cell, stage=stage).dashboard_entry(label=stage)
                    for stage in STAGES
                ],
            ),
            self._graph(
                "Refused or unpublished",
                [
                    row
                    for stage in STAGES
                    for row in (
                        cell_metric(tracker.EVENTS_REFUSED, cell=cell, stage=stage).dashboard_entry(
                            label=f"{stage} refused"
                        ),
                        cell_metric(tracker.EVENTS_UNPUBLISHED, cell=cell, stage=stage).dashboard_entry(
                            label=f"{stage} unpublished"
                        ),
                    )
                ],
            ),
        ]

    def _processing(self) -> list[dict[str, Any]]:
        cell = self._cell
        return [
            self._graph(
                "3. Oldest event in a queue, s",
                [
                    aws_metric(
                        "AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName=self._names.stage(stage)
                    ).dashboard_entry("Maximum", stage)
                    for stage in STAGES
                ],
            ),
            self._graph(
                "Processed",
                [
                    cell_metric(tracker.EVENTS_PROCESSED, cell=cell, stage=stage, outcome="accepted").dashboard_entry(
                        label=stage
                    )
                    for stage in STAGES
                ]
                + [
                    cell_metric(tracker.PROCESSING_FAILED, cell=cell, stage=stage).dashboard_entry(
                        label=f"{stage} failed"
                    )
                    for stage in STAGES
                ],
            ),
            self._graph(
                "Dead letters and undelivered messages",
                [
                    aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).dashboard_entry(
                        "Maximum", label
                    )
                    for label, queue in (
                        *((f"{stage} dead letters", self._names.dead_letters(stage)) for stage in STAGES),
                        ("undelivered", self._names.undelivered),
                        ("unrecorded", self._names.unrecorded),
                    )
                ],
            ),
        ]

    def _executions(self, machine_arn: str, quota: int) -> list[dict[str, Any]]:
        cell = self._cell
        ended = ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut")
        return [
            self._graph(
                "4. Executions",
                [aws_metric("AWS/States", name, StateMachineArn=machine_arn).dashboard_entry() for name in ended],
            ),
            self._graph(
                "Open executions",
                [cell_metric(tracker.OPEN_EXECUTIONS, cell=cell).dashboard_entry("Maximum", "open")],
                line=quota,
            ),
            self._graph(
                "Alerts",
                [
                    cell_metric(tracker.ALERTS_RAISED, cell=cell, stage=stage, severity=severity).dashboard_entry(
                        label=f"{stage} {severity}"
                    )
                    for stage in STAGES
                    for severity in ("warning", "critical")
                ],
            ),
        ]

    def _recording(self, stream: str | None) -> list[dict[str, Any]]:
        cell, recorder = self._cell, self._names.function("Recorder")
        delays = [
            aws_metric("AWS/Lambda", "IteratorAge", FunctionName=recorder).dashboard_entry("Maximum", "recorder, ms")
        ]
        if stream is not None:
            age = aws_metric("AWS/Firehose", "DeliveryToIceberg.DataFreshness", DeliveryStreamName=stream)
            delays.append(age.dashboard_entry("Maximum", "stream, s", yAxis="right"))
        return [
            self._graph(
                "5. Time from receipt to time series, p99, ms",
                [
                    cell_metric(tracker.VISIBILITY_LATENCY, cell=cell, stage=stage).dashboard_entry("p99", stage)
                    for stage in STAGES
                ],
                line=self._latency_target_ms,
            ),
            self._graph("Time series delay", delays),
            self._graph(
                "Transitions",
                [
                    cell_metric(tracker.TRANSITIONS_RECORDED, cell=cell).dashboard_entry(label="recorded"),
                    cell_metric(tracker.RECORDS_REJECTED, cell=cell).dashboard_entry(label="rejected"),
                    cell_metric(tracker.RECORDS_UNREADABLE, cell=cell).dashboard_entry(label="unreadable records"),
                    cell_metric(tracker.SWEEP_BACKLOG, cell=cell).dashboard_entry("Maximum", "sweep backlog"),
                ],
            ),
        ]

    def _functions(self) -> list[dict[str, Any]]:
        named = [(id, self._names.function(id)) for id in FUNCTIONS]
        return [
            self._graph(
                "Concurrent function executions",
                [
                    aws_metric("AWS/Lambda", "ConcurrentExecutions", FunctionName=name).dashboard_entry("Maximum", id)
                    for id, name in named
                ],
            ),
            self._graph(
                "Function errors",
                [aws_metric("AWS/Lambda", "Errors", FunctionName=name).dashboard_entry(label=id) for id, name in named],
            ),
            self._graph(
                "Function duration, p99, ms",
                [
                    aws_metric("AWS/Lambda", "Duration", FunctionName=name).dashboard_entry("p99", id)
                    for id, name in named
                ],
            ),
        ]

    def _graph(self, title: str, metrics: list[Any], line: float | None = None) -> dict[str, Any]:
        """Return the properties of a graph widget; `line` is the value of a horizontal annotation."""
        properties: dict[str, Any] = {
            "title": title,
            "region": self._region,
            "view": "timeSeries",
            "period": 60,
            "metrics": metrics,
            "yAxis": {"left": {"min": 0}},
        }
        if line is not None:
            properties["annotations"] = {"horizontal": [{"value": line}]}
        return properties

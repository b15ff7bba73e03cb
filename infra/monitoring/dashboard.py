"""The dashboard: one page a cell, from the request at the top to the recorded transition at the bottom."""

from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from bems.tracker import metrics as tracker
from bems.tracker.cells import Cell
from bems.tracker.contract import STAGES
from infra.common.names import Names
from infra.monitoring.alarms import FUNCTIONS
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from infra.monitoring.stage_alarms import max_recording_seconds

WIDTH = 24
HEIGHT = 6


class Dashboard(Construct):
    """A CloudWatch dashboard."""

    def __init__(
        self, scope: Construct, id: str, names: Names, cell: Cell, machine_arn: str, stream: str | None
    ) -> None:
        super().__init__(scope, id)
        self._names = names
        self._cell = cell.name
        self._promised = max_recording_seconds(cell) * 1000
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
                "y": line * HEIGHT,
                "width": WIDTH // len(row),
                "height": HEIGHT,
                "properties": properties,
            }
            for line, row in enumerate(rows)
            for column, properties in enumerate(row)
        ]
        cloudwatch.CfnDashboard(
            self,
            "Dashboard",
            dashboard_name=names.prefix,
            dashboard_body=Stack.of(self).to_json_string({"start": "-PT3H", "widgets": widgets}),
        )

    def _requests(self) -> list[dict[str, Any]]:
        of = {"ApiName": self._names.prefix, "Stage": "v1"}
        return [
            self._graph(
                "1. Requests",
                [
                    aws_metric("AWS/ApiGateway", "Count", **of).dashboard_entry(label="requests"),
                    aws_metric("AWS/ApiGateway", "4XXError", **of).dashboard_entry(label="4xx"),
                    aws_metric("AWS/ApiGateway", "5XXError", **of).dashboard_entry(label="5xx"),
                    log_metric(self._cell, "RequestsThrottled").dashboard_entry(label="429"),
                ],
            ),
            self._graph(
                "Answer time, ms",
                [
                    aws_metric("AWS/ApiGateway", "Latency", **of).dashboard_entry("p50", "p50"),
                    aws_metric("AWS/ApiGateway", "Latency", **of).dashboard_entry("p99", "p99"),
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
                "Refused, or not taken by the bus",
                [
                    row
                    for stage in STAGES
                    for row in (
                        cell_metric(tracker.EVENTS_REFUSED, cell=cell, stage=stage).dashboard_entry(
                            label=f"{stage} refused"
                        ),
                        cell_metric(tracker.EVENTS_UNPUBLISHED, cell=cell, stage=stage).dashboard_entry(
                            label=f"{stage} not taken"
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
                "Set aside",
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
        behind = [
            aws_metric("AWS/Lambda", "IteratorAge", FunctionName=recorder).dashboard_entry("Maximum", "recorder, ms")
        ]
        if stream is not None:
            age = aws_metric("AWS/Firehose", "DeliveryToIceberg.DataFreshness", DeliveryStreamName=stream)
            behind.append(age.dashboard_entry("Maximum", "stream, s", yAxis="right"))
        return [
            self._graph(
                "5. From received to recorded, p99, ms",
                [
                    cell_metric(tracker.VISIBILITY_LATENCY, cell=cell, stage=stage).dashboard_entry("p99", stage)
                    for stage in STAGES
                ],
                line=self._promised,
            ),
            self._graph("Time series behind by", behind),
            self._graph(
                "Transitions",
                [
                    cell_metric(tracker.TRANSITIONS_RECORDED, cell=cell).dashboard_entry(label="recorded"),
                    cell_metric(tracker.RECORDS_REJECTED, cell=cell).dashboard_entry(label="refused"),
                    cell_metric(tracker.RECORDS_UNREADABLE, cell=cell).dashboard_entry(
                        label="records that cannot be read"
                    ),
                    cell_metric(tracker.SWEEP_BACKLOG, cell=cell).dashboard_entry("Maximum", "waiting for the sweep"),
                ],
            ),
        ]

    def _functions(self) -> list[dict[str, Any]]:
        named = [(noun, self._names.function(noun)) for noun in FUNCTIONS]
        return [
            self._graph(
                "Functions at once",
                [
                    aws_metric("AWS/Lambda", "ConcurrentExecutions", FunctionName=name).dashboard_entry("Maximum", noun)
                    for noun, name in named
                ],
            ),
            self._graph(
                "Function errors",
                [
                    aws_metric("AWS/Lambda", "Errors", FunctionName=name).dashboard_entry(label=noun)
                    for noun, name in named
                ],
            ),
            self._graph(
                "Function time, p99, ms",
                [
                    aws_metric("AWS/Lambda", "Duration", FunctionName=name).dashboard_entry("p99", noun)
                    for noun, name in named
                ],
            ),
        ]

    def _graph(self, title: str, metrics: list[Any], line: float | None = None) -> dict[str, Any]:
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

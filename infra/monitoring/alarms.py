"""Alarms: what somebody must hear of, each with the severity topic that tells them.

Critical is what loses time or events now; a warning is what will, if nobody looks.
"""

from collections.abc import Mapping

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from bems.tracker import metrics as tracker
from bems.tracker.actions import Severity
from bems.tracker.cells import Cell
from bems.tracker.contract import STAGES
from infra.common.names import Names, processor_function
from infra.common.profile import Profile
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from infra.monitoring.stage_alarms import MAX_STREAM_DELAY_SECONDS, StageAlarms

MAX_FUNCTION_ERRORS = 5
"""Of one function within five minutes, that are no more than bad luck."""

MAX_SERVER_ERROR_PERCENT = 1
MAX_ITERATOR_AGE_MS = 60_000
QUOTA_ALARM_RATIO = 0.8

FUNCTIONS = (
    "Producer",
    *(processor_function(stage) for stage in STAGES),
    "RegisterWait",
    "Escalate",
    "Sweeper",
    "Recorder",
)
"""Every function of a cell, by its noun. Processors report their failures themselves, the rest by raising."""

_FIVE = Duration.minutes(5)


class Alarms(StageAlarms):
    """Every alarm of a cell."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        cell: Cell,
        profile: Profile,
        topics: Mapping[Severity, sns.Topic],
        machine_arn: str,
        access_log: logs.ILogGroup,
        delivery_log: logs.ILogGroup | None,
        stream: str | None,
    ) -> None:
        """`delivery_log` is the custom bus's, `stream` the Firehose stream's name, in cells that have one."""
        super().__init__(scope, id, names, cell, profile, topics)
        for stage in STAGES:
            self._add_event_alarms(stage)
            if profile.anomaly_bands:
                self._add_volume_alarm(stage)
        self._add_queue_alarms()
        self._add_execution_alarms(machine_arn)
        self._add_api_alarms(access_log)
        self._add_function_alarms()
        self._add_sweeper_alarms()
        self._add_recorder_alarms()
        if delivery_log is not None:
            self._add_delivery_alarm(delivery_log)
        if stream is not None:
            self._add_stream_alarms(stream)

    def _add_execution_alarms(self, machine_arn: str) -> None:
        for name, word in (
            ("ExecutionsFailed", "failed"),
            ("ExecutionsTimedOut", "timed out"),
            ("ExecutionsAborted", "were aborted"),
        ):
            self._add_alarm(
                name,
                f"Executions {word}; the sweeper replaces them",
                "warning",
                aws_metric("AWS/States", name, StateMachineArn=machine_arn).metric(period=_FIVE),
            )
        throttled = {
            "ExecutionsThrottled": aws_metric("AWS/States", "ExecutionThrottled", StateMachineArn=machine_arn),
            "TransitionsThrottled": aws_metric("AWS/States", "ThrottledEvents", ServiceMetric="StateTransition"),
            "StartsThrottled": aws_metric("AWS/States", "ThrottledEvents", APIName="StartExecution"),
            "AnswersThrottled": aws_metric("AWS/States", "ThrottledEvents", APIName="SendTaskSuccess"),
        }
        for id, watched in throttled.items():
            self._add_alarm(
                id,
                "Step Functions throttles this account: see the quotas of the deployment guide",
                "warning",
                watched.metric(period=_FIVE),
            )
        # The quota is the account's: this cell's own count says who is near it, the account's whether anybody is.
        quota = self._cell.limits.open_executions
        for id, watched in (
            ("OpenExecutions", cell_metric(tracker.OPEN_EXECUTIONS, cell=self._cell.name)),
            ("AccountOpenExecutions", aws_metric("AWS/States", "OpenExecutionCount")),
        ):
            self._add_alarm(
                id,
                f"More than {QUOTA_ALARM_RATIO:.0%} of the {quota} executions that may be open are",
                "warning",
                watched.metric("Maximum", _FIVE),
                above=int(QUOTA_ALARM_RATIO * quota),
            )

    def _add_api_alarms(self, access_log: logs.ILogGroup) -> None:
        of = {"ApiName": self._names.prefix, "Stage": "v1"}
        self._add_alarm(
            "ApiErrors",
            f"More than {MAX_SERVER_ERROR_PERCENT} % of the requests are answered 5xx",
            "critical",
            # The average of a metric that is 0 or 1 per request.
            cloudwatch.MathExpression(
                expression="100*FILL(errors,0)",
                using_metrics={"errors": aws_metric("AWS/ApiGateway", "5XXError", **of).metric("Average", _FIVE)},
                label="5xx %",
                period=_FIVE,
            ),
            above=MAX_SERVER_ERROR_PERCENT,
        )
        # API Gateway has no metric of what it throttles.
        self._add_metric_filter(
            access_log, "RequestsThrottled", logs.FilterPattern.string_value("$.status", "=", "429")
        )
        self._add_alarm(
            "ApiThrottling",
            "Senders are told 429: raise their limits, or ask them why",
            "warning",
            log_metric(self._cell.name, "RequestsThrottled").metric(period=_FIVE),
        )

    def _add_function_alarms(self) -> None:
        for function in FUNCTIONS:
            name = self._names.function(function)
            self._add_alarm(
                f"{function}Throttles",
                f"{name} is called more often at once than it may run",
                "warning",
                aws_metric("AWS/Lambda", "Throttles", FunctionName=name).metric(period=_FIVE),
            )
            self._add_alarm(
                f"{function}Errors",
                f"{name} raises, or runs out of time or memory",
                "warning",
                aws_metric("AWS/Lambda", "Errors", FunctionName=name).metric(period=_FIVE),
                above=MAX_FUNCTION_ERRORS,
            )

    def _add_sweeper_alarms(self) -> None:
        cell = self._cell.name
        self._add_alarm(
            "SweeperSilent",
            "Nobody has looked after the invoices that are due for five minutes",
            "critical",
            cell_metric(tracker.SWEEP_COMPLETED, cell=cell).metric(period=_FIVE),
            below=1,
        )
        for id, metric, words in (
            ("SweepBacklog", tracker.SWEEP_BACKLOG, "The sweep does not get through what is due"),
            ("SweepFailed", tracker.SWEEP_FAILED, "Invoices cannot be swept"),
        ):
            self._add_alarm(id, words, "warning", cell_metric(metric, cell=cell).metric("Maximum", _FIVE), periods=3)

    def _add_recorder_alarms(self) -> None:
        self._add_alarm(
            "RecorderBehind",
            "The time series is more than a minute behind the records",
            "critical",
            aws_metric("AWS/Lambda", "IteratorAge", FunctionName=self._names.function("Recorder")).metric("Maximum"),
            above=MAX_ITERATOR_AGE_MS,
            periods=3,
        )
        self._add_alarm(
            "RecordsRejected",
            "The time series refused rows for good; the recorder's log has them",
            "critical",
            cell_metric(tracker.RECORDS_REJECTED, cell=self._cell.name).metric(period=_FIVE),
        )

    def _add_delivery_alarm(self, delivery_log: logs.ILogGroup) -> None:
        # The bus's own metrics are published under a name that only AWS knows before it exists; its log is the cell's.
        self._add_metric_filter(
            delivery_log, "DeliveriesFailed", logs.FilterPattern.string_value("$.log_level", "=", "ERROR")
        )
        self._add_alarm(
            "DeliveriesFailed",
            "The bus cannot deliver to a topic, and tries again for a day",
            "warning",
            log_metric(self._cell.name, "DeliveriesFailed").metric(period=_FIVE),
        )

    def _add_stream_alarms(self, stream: str) -> None:
        # What the recorder measures ends at Firehose; its way to the table is the rest of the promise.
        self._add_alarm(
            "SeriesBehind",
            f"Rows wait for more than {MAX_STREAM_DELAY_SECONDS} seconds on their way to their table",
            "critical",
            aws_metric("AWS/Firehose", "DeliveryToIceberg.DataFreshness", DeliveryStreamName=stream).metric("Maximum"),
            above=MAX_STREAM_DELAY_SECONDS,
            periods=3,
        )
        self._add_alarm(
            "SeriesRefused",
            "Rows do not fit their table; they are in the bucket of the stream's errors",
            "critical",
            aws_metric("AWS/Firehose", "DeliveryToIceberg.FailedRowCount", DeliveryStreamName=stream).metric(
                period=_FIVE
            ),
        )

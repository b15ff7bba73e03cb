"""Alarms of a cell, each with the severity topic that it notifies.

A critical alarm means that events are being lost or delayed now; a warning means that they will be if nobody acts.
"""

from collections.abc import Mapping

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from bems.tracker import metrics as tracker
from bems.tracker.actions import Severity
from bems.tracker.cells import CellConfig
from bems.tracker.contract import STAGES
from infra.common.names import Names, processor_function
from infra.common.profile import Profile
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from infra.monitoring.stage_alarms import MAX_STREAM_DELAY_SECONDS, StageAlarms

MAX_FUNCTION_ERRORS = 5
"""Maximum number of errors of one function within five minutes that count as transient."""

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
"""Construct ids of a cell's functions. Processors report failed messages themselves (`ProcessingFailed`); the other
functions raise."""

_FIVE = Duration.minutes(5)


class Alarms(StageAlarms):
    """All alarms of a cell."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        cell: CellConfig,
        profile: Profile,
        topics: Mapping[Severity, sns.Topic],
        machine_arn: str,
        access_log: logs.ILogGroup,
        delivery_log: logs.ILogGroup | None,
        stream: str | None,
    ) -> None:
        """Add the alarms.

        `delivery_log` is the log group of the custom bus and `stream` the name of the Firehose stream; each is None in
        a cell without one.
        """
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
        for name, words in (
            ("ExecutionsFailed", "failed"),
            ("ExecutionsTimedOut", "timed out"),
            ("ExecutionsAborted", "were aborted"),
        ):
            self._add_alarm(
                name,
                f"Step Functions executions {words}. The sweeper replaces them.",
                "warning",
                aws_metric("AWS/States", name, StateMachineArn=machine_arn).metric(period=_FIVE),
            )
        throttled = {
            "ExecutionsThrottled": aws_metric("AWS/States", "ExecutionThrottled", StateMachineArn=machine_arn),
            "TransitionsThrottled": aws_metric("AWS/States", "ThrottledEvents", ServiceMetric="StateTransition"),
            "StartsThrottled": aws_metric("AWS/States", "ThrottledEvents", APIName="StartExecution"),
            "AnswersThrottled": aws_metric("AWS/States", "ThrottledEvents", APIName="SendTaskSuccess"),
        }
        for id, metric in throttled.items():
            self._add_alarm(
                id,
                "Step Functions throttles this account. See the quotas in the deployment guide.",
                "warning",
                metric.metric(period=_FIVE),
            )
        # All cells of an account and Region share the quota: the account's metric shows whether it is nearly used up,
        # and the cell's own metric whether this cell uses it.
        quota = self._cell.limits.open_executions
        for id, metric in (
            ("OpenExecutions", cell_metric(tracker.OPEN_EXECUTIONS, cell=self._cell.name)),
            ("AccountOpenExecutions", aws_metric("AWS/States", "OpenExecutionCount")),
        ):
            self._add_alarm(
                id,
                f"Open executions exceed {QUOTA_ALARM_RATIO:.0%} of the quota of {quota}",
                "warning",
                metric.metric("Maximum", _FIVE),
                above=int(QUOTA_ALARM_RATIO * quota),
            )

    def _add_api_alarms(self, access_log: logs.ILogGroup) -> None:
        dimensions = {"ApiName": self._names.prefix, "Stage": "v1"}
        self._add_alarm(
            "ApiErrors",
            f"More than {MAX_SERVER_ERROR_PERCENT} % of API requests are answered 5xx",
            "critical",
            # The metric is 0 or 1 for each request, so its average is the rate of errors.
            cloudwatch.MathExpression(
                expression="100*FILL(errors,0)",
                using_metrics={
                    "errors": aws_metric("AWS/ApiGateway", "5XXError", **dimensions).metric("Average", _FIVE)
                },
                label="5xx %",
                period=_FIVE,
            ),
            above=MAX_SERVER_ERROR_PERCENT,
        )
        # API Gateway publishes no metric of throttled requests.
        self._add_metric_filter(
            access_log, "RequestsThrottled", logs.FilterPattern.string_value("$.status", "=", "429")
        )
        self._add_alarm(
            "ApiThrottling",
            "Senders receive 429: raise their limits, or ask why they send so much",
            "warning",
            log_metric(self._cell.name, "RequestsThrottled").metric(period=_FIVE),
        )

    def _add_function_alarms(self) -> None:
        for function in FUNCTIONS:
            name = self._names.function(function)
            self._add_alarm(
                f"{function}Throttles",
                f"{name} is throttled: it has more concurrent invocations than its concurrency limit",
                "warning",
                aws_metric("AWS/Lambda", "Throttles", FunctionName=name).metric(period=_FIVE),
            )
            self._add_alarm(
                f"{function}Errors",
                f"{name} fails: it raises errors, times out or runs out of memory",
                "warning",
                aws_metric("AWS/Lambda", "Errors", FunctionName=name).metric(period=_FIVE),
                above=MAX_FUNCTION_ERRORS,
            )

    def _add_sweeper_alarms(self) -> None:
        cell = self._cell.name
        self._add_alarm(
            "SweeperSilent",
            "No sweep has completed for five minutes: due invoices are not checked",
            "critical",
            cell_metric(tracker.SWEEP_COMPLETED, cell=cell).metric(period=_FIVE),
            below=1,
        )
        for id, metric, description in (
            ("SweepBacklog", tracker.SWEEP_BACKLOG, "More invoices are due than the sweep has time to check"),
            ("SweepFailed", tracker.SWEEP_FAILED, "The sweep of some invoices fails"),
        ):
            self._add_alarm(
                id, description, "warning", cell_metric(metric, cell=cell).metric("Maximum", _FIVE), periods=3
            )

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
            "The time series rejected rows permanently; the recorder's log contains them",
            "critical",
            cell_metric(tracker.RECORDS_REJECTED, cell=self._cell.name).metric(period=_FIVE),
        )

    def _add_delivery_alarm(self, delivery_log: logs.ILogGroup) -> None:
        # AWS generates the name under which it publishes the bus's metrics, so that no alarm can name it; the log group
        # has a known name.
        self._add_metric_filter(
            delivery_log, "DeliveriesFailed", logs.FilterPattern.string_value("$.log_level", "=", "ERROR")
        )
        self._add_alarm(
            "DeliveriesFailed",
            "The bus fails to deliver events to a topic; it retries for a day",
            "warning",
            log_metric(self._cell.name, "DeliveriesFailed").metric(period=_FIVE),
        )

    def _add_stream_alarms(self, stream: str) -> None:
        # The recorder measures latency up to Firehose. This alarm covers the rest of the target, up to the table.
        self._add_alarm(
            "SeriesBehind",
            f"Firehose takes more than {MAX_STREAM_DELAY_SECONDS} seconds to write rows to the time series",
            "critical",
            aws_metric("AWS/Firehose", "DeliveryToIceberg.DataFreshness", DeliveryStreamName=stream).metric("Maximum"),
            above=MAX_STREAM_DELAY_SECONDS,
            periods=3,
        )
        self._add_alarm(
            "SeriesRefused",
            "Firehose rejected rows that do not match the table; they are in the stream's error bucket",
            "critical",
            aws_metric("AWS/Firehose", "DeliveryToIceberg.FailedRowCount", DeliveryStreamName=stream).metric(
                period=_FIVE
            ),
        )

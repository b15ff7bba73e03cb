"""Alarms of a cell, each with the severity topic that it notifies.

A critical alarm means that events are being lost or delayed now; a warning means that they will be if nobody acts.
"""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs

from bems.tracker import metrics as tracker
from bems.tracker.contract import STAGES
from infra.common.names import processor_function
from infra.monitoring.alarm_factory import AlarmFactory
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from infra.monitoring.stage_alarms import MAX_STREAM_DELAY_SECONDS, add_stage_alarms

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


def add_alarms(
    alarms: AlarmFactory,
    machine_arn: str,
    access_log: logs.ILogGroup,
    delivery_log: logs.ILogGroup | None,
    stream: str | None,
) -> None:
    """Add all alarms of a cell.

    `delivery_log` is the log group of the custom bus and `stream` the name of the Firehose stream; each is None in a
    cell without one.
    """
    add_stage_alarms(alarms)
    _add_execution_alarms(alarms, machine_arn)
    _add_api_alarms(alarms, access_log)
    _add_function_alarms(alarms)
    _add_sweeper_alarms(alarms)
    _add_recorder_alarms(alarms)
    if delivery_log is not None:
        _add_delivery_alarm(alarms, delivery_log)
    if stream is not None:
        _add_stream_alarms(alarms, stream)


def _add_execution_alarms(alarms: AlarmFactory, machine_arn: str) -> None:
    for name, words in (
        ("ExecutionsFailed", "failed"),
        ("ExecutionsTimedOut", "timed out"),
        ("ExecutionsAborted", "were aborted"),
    ):
        alarms.add(
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
        alarms.add(
            id,
            "Step Functions throttles this account. See the quotas in the deployment guide.",
            "warning",
            metric.metric(period=_FIVE),
        )
    # All cells of an account and Region share the quota: the account's metric shows whether it is nearly used up,
    # and the cell's own metric whether this cell uses it.
    quota = alarms.cell.limits.open_executions
    for id, metric in (
        ("OpenExecutions", cell_metric(tracker.OPEN_EXECUTIONS, cell=alarms.cell.name)),
        ("AccountOpenExecutions", aws_metric("AWS/States", "OpenExecutionCount")),
    ):
        alarms.add(
            id,
            f"Open executions exceed {QUOTA_ALARM_RATIO:.0%} of the quota of {quota}",
            "warning",
            metric.metric("Maximum", _FIVE),
            above=int(QUOTA_ALARM_RATIO * quota),
        )


def _add_api_alarms(alarms: AlarmFactory, access_log: logs.ILogGroup) -> None:
    dimensions = {"ApiName": alarms.names.prefix, "Stage": "v1"}
    alarms.add(
        "ApiErrors",
        f"More than {MAX_SERVER_ERROR_PERCENT} % of API requests are answered 5xx",
        "critical",
        # The metric is 0 or 1 for each request, so its average is the rate of errors.
        cloudwatch.MathExpression(
            expression="100*FILL(errors,0)",
            using_metrics={"errors": aws_metric("AWS/ApiGateway", "5XXError", **dimensions).metric("Average", _FIVE)},
            label="5xx %",
            period=_FIVE,
        ),
        above=MAX_SERVER_ERROR_PERCENT,
    )
    # API Gateway publishes no metric of throttled requests.
    alarms.add_metric_filter(access_log, "RequestsThrottled", logs.FilterPattern.string_value("$.status", "=", "429"))
    alarms.add(
        "ApiThrottling",
        "Senders receive 429: raise their limits, or ask why they send so much",
        "warning",
        log_metric(alarms.cell.name, "RequestsThrottled").metric(period=_FIVE),
    )


def _add_function_alarms(alarms: AlarmFactory) -> None:
    for function in FUNCTIONS:
        name = alarms.names.function(function)
        alarms.add(
            f"{function}Throttles",
            f"{name} is throttled: it has more concurrent invocations than its concurrency limit",
            "warning",
            aws_metric("AWS/Lambda", "Throttles", FunctionName=name).metric(period=_FIVE),
        )
        alarms.add(
            f"{function}Errors",
            f"{name} fails: it raises errors, times out or runs out of memory",
            "warning",
            aws_metric("AWS/Lambda", "Errors", FunctionName=name).metric(period=_FIVE),
            above=MAX_FUNCTION_ERRORS,
        )


def _add_sweeper_alarms(alarms: AlarmFactory) -> None:
    cell = alarms.cell.name
    alarms.add(
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
        alarms.add(id, description, "warning", cell_metric(metric, cell=cell).metric("Maximum", _FIVE), periods=3)


def _add_recorder_alarms(alarms: AlarmFactory) -> None:
    alarms.add(
        "RecorderBehind",
        "The time series is more than a minute behind the records",
        "critical",
        aws_metric("AWS/Lambda", "IteratorAge", FunctionName=alarms.names.function("Recorder")).metric("Maximum"),
        above=MAX_ITERATOR_AGE_MS,
        periods=3,
    )
    alarms.add(
        "RecordsRejected",
        "The time series rejected rows permanently; the recorder's log contains them",
        "critical",
        cell_metric(tracker.RECORDS_REJECTED, cell=alarms.cell.name).metric(period=_FIVE),
    )


def _add_delivery_alarm(alarms: AlarmFactory, delivery_log: logs.ILogGroup) -> None:
    # AWS generates the name under which it publishes the bus's metrics, so that no alarm can name it; the log group
    # has a known name.
    alarms.add_metric_filter(
        delivery_log, "DeliveriesFailed", logs.FilterPattern.string_value("$.log_level", "=", "ERROR")
    )
    alarms.add(
        "DeliveriesFailed",
        "The bus fails to deliver events to a topic; it retries for a day",
        "warning",
        log_metric(alarms.cell.name, "DeliveriesFailed").metric(period=_FIVE),
    )


def _add_stream_alarms(alarms: AlarmFactory, stream: str) -> None:
    # The recorder measures latency up to Firehose. This alarm covers the rest of the target, up to the table.
    alarms.add(
        "SeriesBehind",
        f"Firehose takes more than {MAX_STREAM_DELAY_SECONDS} seconds to write rows to the time series",
        "critical",
        aws_metric("AWS/Firehose", "DeliveryToIceberg.DataFreshness", DeliveryStreamName=stream).metric("Maximum"),
        above=MAX_STREAM_DELAY_SECONDS,
        periods=3,
    )
    alarms.add(
        "SeriesRefused",
        "Firehose rejected rows that do not match the table; they are in the stream's error bucket",
        "critical",
        aws_metric("AWS/Firehose", "DeliveryToIceberg.FailedRowCount", DeliveryStreamName=stream).metric(period=_FIVE),
    )

"""Alarms for each stage's events, from request to time series, and for the cell's queues."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from bems.tracker import metrics as tracker
from bems.tracker.cells import CellConfig
from bems.tracker.contract import STAGES, Stage
from bems.tracker.metrics import MetricOutcome
from infra.monitoring.alarm_factory import AlarmFactory
from infra.monitoring.metrics import aws_metric, cell_metric

VISIBILITY_TARGET_SECONDS = 120
"""Service target: an event is visible in the time series within two minutes."""

MAX_STREAM_DELAY_SECONDS = 90
"""Maximum time from Firehose to the table, as part of that target: half a minute of buffering, then the commit."""

MAX_QUEUE_AGE_SECONDS = 60
"""Maximum time that an event waits for its processor, as part of that target."""

MAX_QUEUE_DEPTH = 15_000
"""Maximum number of messages that wait for one processor: a minute of 60,000 events, divided by four stages."""

MAX_FAILED_PERCENT = 5

MIN_ATTEMPTS = 20
"""Minimum number of attempts in five minutes for which the failure rate is evaluated."""

ANOMALY_BAND_DEVIATIONS = 3
"""Width of the anomaly band around a stage's usual number of events, in standard deviations."""

_OUTCOMES: tuple[MetricOutcome, ...] = ("accepted", "duplicate", "conflict", "refused")
_FIVE = Duration.minutes(5)


def max_recording_seconds(cell: CellConfig) -> int:
    """Return the maximum time from receipt of an event until the recorder has written its row, in seconds.

    A row in Timestream is visible at once; a row in Firehose takes up to MAX_STREAM_DELAY_SECONDS more.
    """
    return (
        VISIBILITY_TARGET_SECONDS
        if cell.time_series == "timestream"
        else VISIBILITY_TARGET_SECONDS - MAX_STREAM_DELAY_SECONDS
    )


class StageAlarms(AlarmFactory):
    """Alarms of each stage and of the cell's queues."""

    def _add_event_alarms(self, stage: Stage) -> None:
        cell, title = self._cell.name, stage.capitalize()
        seconds = max_recording_seconds(self._cell)
        self._add_alarm(
            f"{title}Latency",
            f"{stage} events take more than {seconds} seconds to reach the time series",
            "critical",
            cell_metric(tracker.VISIBILITY_LATENCY, cell=cell, stage=stage).metric("p99"),
            above=seconds * 1000,
            periods=3,
        )
        processed = {
            f"n{number}": cell_metric(tracker.EVENTS_PROCESSED, cell=cell, stage=stage, outcome=outcome).metric(
                period=_FIVE
            )
            for number, outcome in enumerate(_OUTCOMES)
        }
        failed = cell_metric(tracker.PROCESSING_FAILED, cell=cell, stage=stage).metric(period=_FIVE)
        attempts = "+".join(f"FILL({name},0)" for name in (*processed, "failed"))
        self._add_alarm(
            f"{title}Failures",
            f"More than {MAX_FAILED_PERCENT} % of the attempts to process {stage} events fail",
            "critical",
            cloudwatch.MathExpression(
                expression=f"IF(({attempts})>={MIN_ATTEMPTS}, 100*FILL(failed,0)/({attempts}), 0)",
                using_metrics={**processed, "failed": failed},
                label="failed %",
                period=_FIVE,
            ),
            above=MAX_FAILED_PERCENT,
        )
        self._add_alarm(
            f"{title}Unpublished",
            f"The bus does not accept {stage} events; their senders receive 503 and must retry",
            "critical",
            cell_metric(tracker.EVENTS_UNPUBLISHED, cell=cell, stage=stage).metric(period=_FIVE),
        )
        self._add_alarm(
            f"{title}Conflicts",
            f"{stage} events arrived with the id of another event but different content; they are dead letters",
            "warning",
            cell_metric(tracker.CONFLICTS, cell=cell, stage=stage).metric(period=_FIVE),
        )

    def _add_volume_alarm(self, stage: Stage) -> None:
        # An anomaly band instead of a fixed threshold, because a stage receives ten times as many events at month's end
        # as on a Sunday.
        alarm = cloudwatch.AnomalyDetectionAlarm(
            self,
            f"{stage.capitalize()}Volume",
            alarm_name=f"{self._names.prefix}-{stage}-volume",
            alarm_description=f"Far more or far fewer {stage} events than usual at this time",
            metric=cell_metric(tracker.EVENTS_ACCEPTED, cell=self._cell.name, stage=stage).metric(
                period=Duration.minutes(15)
            ),
            std_devs=ANOMALY_BAND_DEVIATIONS,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_LOWER_OR_GREATER_THAN_UPPER_THRESHOLD,
            evaluation_periods=4,
            datapoints_to_alarm=3,
            treat_missing_data=cloudwatch.TreatMissingData.IGNORE,
        )
        alarm.add_alarm_action(self._actions["warning"])

    def _add_queue_alarms(self) -> None:
        names = self._names
        for stage in STAGES:
            title, queue = stage.capitalize(), names.stage(stage)
            self._add_alarm(
                f"{title}QueueAge",
                f"{stage} events wait more than {MAX_QUEUE_AGE_SECONDS} seconds for their processor",
                "critical",
                aws_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName=queue).metric("Maximum"),
                above=MAX_QUEUE_AGE_SECONDS,
                periods=3,
            )
            self._add_alarm(
                f"{title}QueueDepth",
                f"More than {MAX_QUEUE_DEPTH} {stage} events wait for their processor",
                "warning",
                aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
                above=MAX_QUEUE_DEPTH,
                periods=3,
            )
        dead_letters = {f"{stage.capitalize()}DeadLetters": names.dead_letters(stage) for stage in STAGES}
        for id, queue in {**dead_letters, "Undelivered": names.undelivered, "Unrecorded": names.unrecorded}.items():
            self._add_alarm(
                id,
                f"{queue} holds messages: investigate and redrive them as the deployment guide describes",
                "critical",
                aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
            )

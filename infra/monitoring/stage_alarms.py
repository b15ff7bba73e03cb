"""The alarms of the stages: each one's events, from request to visible, and the queues that they wait in."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from bems.tracker import metrics as tracker
from bems.tracker.cells import Cell
from bems.tracker.contract import STAGES, Stage
from bems.tracker.metrics import Outcome
from infra.monitoring.alarm_factory import AlarmFactory
from infra.monitoring.metrics import aws_metric, cell_metric

VISIBILITY_TARGET_SECONDS = 120
"""The promise: a reported step is visible within two minutes."""

MAX_STREAM_DELAY_SECONDS = 90
"""Of those, what a row may take from Firehose to its table: gathered for half a minute, then committed."""

MAX_QUEUE_AGE_SECONDS = 60
"""How long an event may wait for its processor, of those two minutes."""

MAX_QUEUE_DEPTH = 15_000
"""Messages that wait for one processor: a minute of 60,000 events, over four stages."""

MAX_FAILED_PERCENT = 5

MIN_ATTEMPTS = 20
"""Failures are a rate only above so many attempts in five minutes."""

ANOMALY_BAND_DEVIATIONS = 3
"""Standard deviations around what a stage usually takes in."""

_OUTCOMES: tuple[Outcome, ...] = ("accepted", "duplicate", "conflict", "refused")
_FIVE = Duration.minutes(5)


def max_recording_seconds(cell: Cell) -> int:
    """How long an event may take until the recorder has handed its row on. In Timestream it is visible then."""
    return (
        VISIBILITY_TARGET_SECONDS
        if cell.time_series == "timestream"
        else VISIBILITY_TARGET_SECONDS - MAX_STREAM_DELAY_SECONDS
    )


class StageAlarms(AlarmFactory):
    """What is watched of each stage."""

    def _add_event_alarms(self, stage: Stage) -> None:
        cell, title = self._cell.name, stage.capitalize()
        seconds = max_recording_seconds(self._cell)
        self._add_alarm(
            f"{title}Latency",
            f"{stage} events take more than {seconds} seconds to get to the time series",
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
            f"The bus does not take {stage} events; their senders are told to send them again",
            "critical",
            cell_metric(tracker.EVENTS_UNPUBLISHED, cell=cell, stage=stage).metric(period=_FIVE),
        )
        self._add_alarm(
            f"{title}Conflicts",
            f"{stage} events came with the id of another event and other content; they are dead letters",
            "warning",
            cell_metric(tracker.CONFLICTS, cell=cell, stage=stage).metric(period=_FIVE),
        )

    def _add_volume_alarm(self, stage: Stage) -> None:
        # One that is learnt, because a stage at month's end takes ten times what it takes on a Sunday.
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
                f"{stage} events wait for their processor",
                "critical",
                aws_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName=queue).metric("Maximum"),
                above=MAX_QUEUE_AGE_SECONDS,
                periods=3,
            )
            self._add_alarm(
                f"{title}QueueDepth",
                f"More {stage} events wait than one processor takes in a minute",
                "warning",
                aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
                above=MAX_QUEUE_DEPTH,
                periods=3,
            )
        aside = {f"{stage.capitalize()}DeadLetters": names.dead_letters(stage) for stage in STAGES}
        for id, queue in {**aside, "Undelivered": names.undelivered, "Unrecorded": names.unrecorded}.items():
            self._add_alarm(
                id,
                f"There is something in {queue}, to be looked at and redriven",
                "critical",
                aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
            )

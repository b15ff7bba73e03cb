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


def add_stage_alarms(alarms: AlarmFactory) -> None:
    """Add the alarms of each stage and of the cell's queues."""
    for stage in STAGES:
        _add_event_alarms(alarms, stage)
        if alarms.profile.anomaly_bands:
            _add_volume_alarm(alarms, stage)
    _add_queue_alarms(alarms)


def _add_event_alarms(alarms: AlarmFactory, stage: Stage) -> None:
    cell, title = alarms.cell.name, stage.capitalize()
    seconds = max_recording_seconds(alarms.cell)
    alarms.add(
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
    alarms.add(
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
    alarms.add(
        f"{title}Unpublished",
        f"The bus does not accept {stage} events; their senders receive 503 and must retry",
        "critical",
        cell_metric(tracker.EVENTS_UNPUBLISHED, cell=cell, stage=stage).metric(period=_FIVE),
    )
    alarms.add(
        f"{title}Conflicts",
        f"{stage} events arrived with the id of another event but different content; they are dead letters",
        "warning",
        cell_metric(tracker.CONFLICTS, cell=cell, stage=stage).metric(period=_FIVE),
    )


def _add_volume_alarm(alarms: AlarmFactory, stage: Stage) -> None:
    # An anomaly band instead of a fixed threshold, because a stage receives ten times as many events at month's end
    # as on a Sunday.
    alarms.add_anomaly(
        f"{stage.capitalize()}Volume",
        f"Far more or far fewer {stage} events than usual at this time",
        "warning",
        cell_metric(tracker.EVENTS_ACCEPTED, cell=alarms.cell.name, stage=stage).metric(period=Duration.minutes(15)),
        deviations=ANOMALY_BAND_DEVIATIONS,
        periods=4,
        breaching=3,
    )


def _add_queue_alarms(alarms: AlarmFactory) -> None:
    names = alarms.names
    for stage in STAGES:
        title, queue = stage.capitalize(), names.stage(stage)
        alarms.add(
            f"{title}QueueAge",
            f"{stage} events wait more than {MAX_QUEUE_AGE_SECONDS} seconds for their processor",
            "critical",
            aws_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName=queue).metric("Maximum"),
            above=MAX_QUEUE_AGE_SECONDS,
            periods=3,
        )
        alarms.add(
            f"{title}QueueDepth",
            f"More than {MAX_QUEUE_DEPTH} {stage} events wait for their processor",
            "warning",
            aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
            above=MAX_QUEUE_DEPTH,
            periods=3,
        )
    dead_letters = {f"{stage.capitalize()}DeadLetters": names.dead_letters(stage) for stage in STAGES}
    for id, queue in {**dead_letters, "Undelivered": names.undelivered, "Unrecorded": names.unrecorded}.items():
        alarms.add(
            id,
            f"{queue} holds messages: investigate and redrive them as the deployment guide describes",
            "critical",
            aws_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName=queue).metric("Maximum"),
        )

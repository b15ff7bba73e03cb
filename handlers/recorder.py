"""Recorder: takes each transition from the records table's stream to the time series.

The new image of a record has the transitions of the version that it is, and of no other. What the series does not take
for now, the stream delivers again from there on; a row that is written twice is the same row. What it refuses for good
would be refused again and would hold up others: it is logged, whole, and counted. A record that cannot be read would
hold them up too: it is set aside in a queue, whole, as an event with which this function can be invoked again.
"""

import json
from functools import cache
from typing import Any, NamedTuple

from bems.aws.clients import client
from bems.aws.clock import SystemClock
from bems.aws.errors import BotoCoreError, ClientError, error_code
from bems.aws.records import read_changes
from bems.aws.settings import RecorderSettings, read_settings
from bems.aws.time_series import FirehoseSeries, Row, TimeSeriesWriter, TimestreamSeries, WriteResult
from bems.tracker.metrics import RECORDS_REJECTED, RECORDS_UNREADABLE, TRANSITIONS_RECORDED, VISIBILITY_LATENCY
from bems.tracker.ports import Clock
from bems.tracker.time_series_schema import to_row
from handlers.telemetry import MetricsBuffer, entry_point, init_on_cold_start, logger


class Dependencies(NamedTuple):
    """What an instance of the function keeps."""

    settings: RecorderSettings
    series: TimeSeriesWriter
    queue: Any
    meter: MetricsBuffer
    clock: Clock


class StreamRow(NamedTuple):
    """A row, and the sequence number of the stream's record that it came in."""

    sequence_number: str
    row: Row


class UnreadableRecord(NamedTuple):
    """A record of the stream with an image that this release, at least, cannot read, and why."""

    sequence_number: str
    record: dict[str, Any]
    reason: str


@cache
def dependencies() -> Dependencies:
    """Made once. SettingsError."""
    settings = read_settings(RecorderSettings)
    series: TimeSeriesWriter
    if settings.time_series == "timestream":
        # The settings have made sure of both names.
        database, table = settings.database or "", settings.time_table or ""
        series = TimestreamSeries(client("timestream-write"), database, table, settings.cell)
    else:
        series = FirehoseSeries(client("firehose"), settings.delivery_stream or "", settings.cell)
    return Dependencies(settings, series, client("sqs"), MetricsBuffer(settings.cell), SystemClock())


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """A batch of the stream to the record from which on it is to come again, if any (Lambda takes the lowest)."""
    deps = dependencies()
    with deps.meter.flushed():
        rows, unreadable = _rows(event["Records"])
        outcomes = deps.series.write([one.row for one in rows])
        failed = {
            one.sequence_number
            for one, outcome in zip(rows, outcomes, strict=True)
            if not _report_outcome(deps, one, outcome)
        }
        for one in unreadable:
            # What is behind a failure comes again with it, and would be set aside each time.
            if failed and int(one.sequence_number) > min(map(int, failed)):
                break
            if not _quarantine(deps, one):
                failed.add(one.sequence_number)
    return {"batchItemFailures": [{"itemIdentifier": number} for number in sorted(failed, key=int)]}


def _rows(records: list[dict[str, Any]]) -> tuple[list[StreamRow], list[UnreadableRecord]]:
    """The rows of all records that can be read, and the other records, both in the stream's order."""
    rows: list[StreamRow] = []
    unreadable: list[UnreadableRecord] = []
    for record in records:
        change = record["dynamodb"]
        if "NewImage" not in change:
            continue
        try:
            version, transitions = read_changes(change["NewImage"])
        except ValueError as error:
            unreadable.append(UnreadableRecord(change["SequenceNumber"], record, str(error)))
            continue
        rows += [StreamRow(change["SequenceNumber"], Row(version, transition)) for transition in transitions]
    return rows, unreadable


def _report_outcome(deps: Dependencies, one: StreamRow, outcome: WriteResult) -> bool:
    """Log and count what became of a row; False where it is to come again."""
    transition = one.row.transition
    with logger.append_context_keys(invoice_id=transition.invoice_id, event_id=transition.event_id):
        if outcome.result == "failed":
            logger.warning("the series did not take a row", extra={"reason": outcome.reason})
            return False
        if outcome.result == "rejected":
            deps.meter.add(RECORDS_REJECTED)
            content = to_row(transition, deps.settings.cell)
            logger.error("the series refused a row", extra={"reason": outcome.reason, "row": content})
            return True
        if outcome.reason:
            logger.warning("the series has the row with other values", extra={"reason": outcome.reason})
    deps.meter.add(TRANSITIONS_RECORDED)
    if transition.kind == "event" and transition.received_at is not None:
        latency = max(0, deps.clock.now() - transition.received_at) // 1000
        deps.meter.add(VISIBILITY_LATENCY, latency, stage=transition.stage)
    return True


def _quarantine(deps: Dependencies, one: UnreadableRecord) -> bool:
    """Keep a record whole, and count it; False where it is to come again. One that comes again all the same, because
    the function died, is kept twice; recorded from both, it is one row.

    The stream has new images only: an item of 400 kB, the most that DynamoDB takes, has 540 kB in base64, and SQS takes
    1 MiB (API reference of SendMessage). Only a text that is nearly all escapes could have more. SQS refuses it, so it
    comes again, and after hours is set aside by the stream's mapping, as a pointer, as is whatever else keeps failing.
    """
    with logger.append_context_keys(sequence_number=one.sequence_number, keys=one.record["dynamodb"].get("Keys")):
        # In ASCII: SQS does not take every character that DynamoDB does.
        body = json.dumps({"reason": one.reason, "Records": [one.record]})
        try:
            deps.queue.send_message(QueueUrl=deps.settings.unrecorded_queue_url, MessageBody=body)
        except (BotoCoreError, ClientError) as error:
            logger.warning(
                "a record cannot be read, nor set aside", extra={"reason": one.reason, "error": error_code(error)}
            )
            return False
        deps.meter.add(RECORDS_UNREADABLE)
        logger.error("a record that cannot be read is set aside", extra={"reason": one.reason})
        return True


init_on_cold_start(dependencies)

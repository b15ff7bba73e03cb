"""Recorder: copies transitions from the stream of the records table to the time series.

A record's new image has exactly the transitions of its version.

- On a transient failure, the stream delivers the batch again from the failed record on; writing a row twice is
  idempotent.
- A row that the series rejects permanently would block the stream, so it is logged in full and counted.
- An unreadable record would block it too, so it is sent to a queue in full, as an event with which this function can be
  invoked again.
"""

import json
from functools import cache
from typing import Any, NamedTuple

from bems.aws.clients import client
from bems.aws.errors import BotoCoreError, ClientError, error_code
from bems.aws.records import read_changes
from bems.aws.settings import RecorderSettings, read_settings
from bems.aws.time_series import FirehoseSeries, TimeSeriesWriter, TimestreamSeries, VersionedTransition, WriteResult
from bems.clock import SystemClock
from bems.tracker.metrics import RECORDS_REJECTED, RECORDS_UNREADABLE, TRANSITIONS_RECORDED, VISIBILITY_LATENCY
from bems.tracker.ports import Clock
from bems.tracker.time_series_schema import to_row
from handlers.telemetry import MetricsBuffer, entry_point, init_on_cold_start, logger


class Dependencies(NamedTuple):
    """Objects that a function instance reuses."""

    settings: RecorderSettings
    series: TimeSeriesWriter
    queue: Any
    meter: MetricsBuffer
    clock: Clock


class StreamRow(NamedTuple):
    """A row and the sequence number of its stream record."""

    sequence_number: str
    row: VersionedTransition


class UnreadableRecord(NamedTuple):
    """A stream record whose image this release cannot read, and the reason."""

    sequence_number: str
    record: dict[str, Any]
    reason: str


@cache
def dependencies() -> Dependencies:
    """Return the function's dependencies, created once. Raises SettingsError."""
    settings = read_settings(RecorderSettings)
    series: TimeSeriesWriter
    if settings.time_series == "timestream":
        # RecorderSettings guarantees both names.
        database, table = settings.database or "", settings.time_table or ""
        series = TimestreamSeries(client("timestream-write"), database, table, settings.cell)
    else:
        series = FirehoseSeries(client("firehose"), settings.delivery_stream or "", settings.cell)
    return Dependencies(settings, series, client("sqs"), MetricsBuffer(settings.cell), SystemClock())


@entry_point
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """Record a batch of the stream and return the records that failed; Lambda retries from the lowest one on."""
    deps = dependencies()
    with deps.meter.flushed():
        rows, unreadable = _rows(event["Records"])
        results = deps.series.write([row.row for row in rows])
        failed = {
            row.sequence_number
            for row, result in zip(rows, results, strict=True)
            if not _report_result(deps, row, result)
        }
        for record in unreadable:
            # The stream delivers records after a failure again; quarantining them now would do so each time.
            if failed and int(record.sequence_number) > min(map(int, failed)):
                break
            if not _quarantine(deps, record):
                failed.add(record.sequence_number)
    return {"batchItemFailures": [{"itemIdentifier": number} for number in sorted(failed, key=int)]}


def _rows(records: list[dict[str, Any]]) -> tuple[list[StreamRow], list[UnreadableRecord]]:
    """Return the rows of all readable records, and the unreadable records, both in stream order."""
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
        rows += [
            StreamRow(change["SequenceNumber"], VersionedTransition(version, transition)) for transition in transitions
        ]
    return rows, unreadable


def _report_result(deps: Dependencies, stream_row: StreamRow, result: WriteResult) -> bool:
    """Log and count the result of a row. Returns False if the row must be retried."""
    transition = stream_row.row.transition
    with logger.append_context_keys(invoice_id=transition.invoice_id, event_id=transition.event_id):
        if result.result == "failed":
            logger.warning("the row could not be written", extra={"reason": result.reason})
            return False
        if result.result == "rejected":
            deps.meter.add(RECORDS_REJECTED)
            content = to_row(transition, deps.settings.cell)
            logger.error("the series rejected the row", extra={"reason": result.reason, "row": content})
            return True
        if result.reason:
            logger.warning("the series already has the row with other values", extra={"reason": result.reason})
    deps.meter.add(TRANSITIONS_RECORDED)
    if transition.kind == "event" and transition.received_at is not None:
        latency = max(0, deps.clock.now() - transition.received_at) // 1000
        deps.meter.add(VISIBILITY_LATENCY, latency, stage=transition.stage)
    return True


def _quarantine(deps: Dependencies, unreadable: UnreadableRecord) -> bool:
    """Send a record to the queue of unrecorded records, and count it. Returns False if it must be retried.

    If the function is killed afterwards, the record is queued twice; recording both copies results in one row.

    The message fits: the stream has new images only, an item has at most 400 kB in DynamoDB and 540 kB in base64, and
    SQS accepts 1 MiB (API reference of SendMessage). Only text that consists mostly of JSON escapes could exceed that.
    SQS rejects such a message, so it is retried until the stream's mapping discards it after hours and keeps a pointer,
    as for any record that keeps failing.
    """
    with logger.append_context_keys(
        sequence_number=unreadable.sequence_number, keys=unreadable.record["dynamodb"].get("Keys")
    ):
        # ASCII, because SQS rejects some characters that DynamoDB accepts.
        body = json.dumps({"reason": unreadable.reason, "Records": [unreadable.record]})
        try:
            deps.queue.send_message(QueueUrl=deps.settings.unrecorded_queue_url, MessageBody=body)
        except (BotoCoreError, ClientError) as error:
            logger.warning(
                "an unreadable record could not be quarantined",
                extra={"reason": unreadable.reason, "error": error_code(error)},
            )
            return False
        deps.meter.add(RECORDS_UNREADABLE)
        logger.error("an unreadable record was quarantined", extra={"reason": unreadable.reason})
        return True


init_on_cold_start(dependencies)

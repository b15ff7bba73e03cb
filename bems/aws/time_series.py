"""Time series of transitions, for dashboards: Timestream, or an Iceberg table through Firehose.

A row may be written twice. In Timestream both writes are the same row, because dimensions, measure name and time are
equal; in Iceberg they are two rows with the same `transition_id` and `recorded_at`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from bems.aws.batching import chunks, put_with_retries
from bems.aws.errors import BotoCoreError, ClientError, error_code
from bems.tracker.columns import TIMESTAMP, ColumnType
from bems.tracker.instants import render
from bems.tracker.time_series_schema import SERIES_COLUMNS, Value, to_row
from bems.tracker.transitions import Transition

MAX_TIMESTREAM_RECORDS = 100
"""Maximum number of records in a WriteRecords call (service model)."""

MAX_TIMESTREAM_RECORD_BYTES = 2_048
"""Maximum size of the measures of a multi-measure record, in bytes (developer guide, Quotas). We count the names too,
which is conservative."""

MAX_FIREHOSE_RECORDS = 500
MAX_FIREHOSE_BYTES = 4_000_000
"""Maximum number and total size of the records in a PutRecordBatch call (API reference). A row has at most about 20
kB."""

_MEASURES = tuple(column for column in SERIES_COLUMNS if column.timestream_role == "measure")


class VersionedTransition(NamedTuple):
    """A transition and the version of its record."""

    version: int
    transition: Transition


class WriteResult(NamedTuple):
    """Result of writing a row: `failed` is transient, `rejected` is permanent.

    `written` with a reason means that the row already existed with other values, which it keeps.
    """

    result: Literal["written", "failed", "rejected"]
    reason: str = ""


WRITTEN = WriteResult("written")


class TimeSeriesWriter(Protocol):
    """Writer of a time series."""

    def write(self, rows: Sequence[VersionedTransition]) -> list[WriteResult]:
        """Write rows. Returns a result for each, in order. Raises no AWS errors."""
        ...


class TimestreamSeries:
    """A Timestream for LiveAnalytics table of multi-measure records: measure name is the stage, time is recorded_at.

    Other timestamps are measures in RFC 3339 text; query them with `from_iso8601_timestamp`.
    """

    def __init__(self, client: Any, database: str, table: str, cell: str) -> None:
        self._client = client
        self._database = database
        self._table = table
        self._cell = cell

    def write(self, rows: Sequence[VersionedTransition]) -> list[WriteResult]:
        """See `TimeSeriesWriter`. Writes 100 rows per call."""
        return [result for part in chunks(rows, MAX_TIMESTREAM_RECORDS) for result in self._write(part)]

    def _write(self, rows: Sequence[VersionedTransition]) -> list[WriteResult]:
        try:
            self._client.write_records(
                DatabaseName=self._database,
                TableName=self._table,
                CommonAttributes={
                    "Dimensions": [{"Name": "cell", "Value": self._cell}],
                    "MeasureValueType": "MULTI",
                    "TimeUnit": "MICROSECONDS",
                },
                Records=[self._record(*row) for row in rows],
            )
        except ClientError as error:
            if error_code(error) == "RejectedRecordsException":
                response: Any = error.response
                return _rejected(rows, response.get("RejectedRecords", []))
            if error_code(error) == "ValidationException":
                # The error does not name the record: bisect to find it, and write the others.
                if len(rows) == 1:
                    return [WriteResult("rejected", str(error))]
                half = len(rows) // 2
                return self._write(rows[:half]) + self._write(rows[half:])
            return [WriteResult("failed", error_code(error))] * len(rows)
        except BotoCoreError as error:
            return [WriteResult("failed", error_code(error))] * len(rows)
        return [WRITTEN] * len(rows)

    def _record(self, version: int, transition: Transition) -> dict[str, Any]:
        values = _trim_attributes(to_row(transition, self._cell), transition.attributes)
        return {
            "Dimensions": [{"Name": "invoice_id", "Value": transition.invoice_id}],
            "MeasureName": transition.stage,
            "Time": str(transition.recorded_at),
            "Version": version,
            "MeasureValues": [
                {
                    "Name": column.name,
                    "Value": _to_text(column.type, values[column.name]),
                    "Type": column.type.timestream,
                }
                for column in _MEASURES
                if column.name in values
            ],
        }


class FirehoseSeries:
    """A Firehose stream to an Iceberg table with the columns of `bems.tracker.time_series_schema`.

    A row is a JSON object with timestamps in microseconds, as Firehose requires (developer guide, "Understand supported
    data types").
    """

    def __init__(self, client: Any, stream: str, cell: str) -> None:
        self._client = client
        self._stream = stream
        self._cell = cell

    def write(self, rows: Sequence[VersionedTransition]) -> list[WriteResult]:
        """See `TimeSeriesWriter`.

        Writes at most 500 rows per call, and retries only those that Firehose did not accept.
        """
        records = [msgspec.json.encode(to_row(row.transition, self._cell)) for row in rows]
        errors = [
            error
            for call in _split_into_calls(records)
            for error in put_with_retries([{"Data": one} for one in call], self._put)
        ]
        return [WriteResult("failed", error) if error else WRITTEN for error in errors]

    def _put(self, records: list[dict[str, bytes]]) -> list[str | None]:
        answer = self._client.put_record_batch(DeliveryStreamName=self._stream, Records=records)
        return [result.get("ErrorCode") for result in answer["RequestResponses"]]


def _trim_attributes(values: dict[str, Value], attributes: dict[str, str]) -> dict[str, Value]:
    """Return a row with only as many attributes as fit into a Timestream record."""
    free_bytes = MAX_TIMESTREAM_RECORD_BYTES - sum(
        len(column.name) + len(_to_text(column.type, values[column.name]).encode())
        for column in _MEASURES
        if column.name in values and column.name != "attributes"
    )
    free_bytes -= len("attributes") + len("attributes_cut") + len("true")
    kept: dict[str, str] = {}
    for name, value in attributes.items():
        if len(msgspec.json.encode({**kept, name: value})) <= free_bytes:
            kept[name] = value
    if len(kept) < len(attributes):
        values = {**values, "attributes": msgspec.json.encode(kept).decode(), "attributes_cut": True}
    return values


def _split_into_calls(records: list[bytes]) -> Iterator[list[bytes]]:
    """Split records into calls within Firehose's limits."""
    call: list[bytes] = []
    size = 0
    for record in records:
        if len(call) == MAX_FIREHOSE_RECORDS or size + len(record) > MAX_FIREHOSE_BYTES:
            yield call
            call, size = [], 0
        call.append(record)
        size += len(record)
    if call:
        yield call


def _rejected(rows: Sequence[VersionedTransition], rejected: list[dict[str, Any]]) -> list[WriteResult]:
    """Return the results of a call that raised RejectedRecordsException: rows that it does not list were written.

    A row with an ExistingVersion exists already, possibly as an earlier release wrote it, so it counts as written; its
    result has the reason.
    """
    results = [WRITTEN] * len(rows)
    for record in rejected:
        exists = record.get("ExistingVersion") is not None
        results[record["RecordIndex"]] = WriteResult("written" if exists else "rejected", record.get("Reason", ""))
    return results


def _to_text(type: ColumnType, value: Value) -> str:
    if type is TIMESTAMP:
        return render(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)

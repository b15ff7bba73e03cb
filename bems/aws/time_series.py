"""The time series: where transitions are written for dashboards, Timestream or, through Firehose, an Iceberg table.

A row may be written twice: in Timestream it is then the same row (dimensions, measure name and time are the same), in
Iceberg there are two with one `transition_id` and one `recorded_at`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from bems.aws.batching import chunks, put_with_retries
from bems.aws.errors import BotoCoreError, ClientError, error_code
from bems.tracker.instants import render
from bems.tracker.time_series_schema import COLUMNS, Value, to_row
from bems.tracker.transitions import Transition

MAX_TIMESTREAM_RECORDS = 100
"""Records of one WriteRecords call (service model)."""

MAX_TIMESTREAM_RECORD_BYTES = 2_048
"""Measure values of one multi-measure record (developer guide, Quotas). Their names are counted too, to be sure."""

MAX_FIREHOSE_RECORDS = 500
MAX_FIREHOSE_BYTES = 4_000_000
"""Records of one PutRecordBatch call, and what they may have together (API reference). A row has at most some 20 kB."""

# What every row of a series has in common, or what Timestream keeps beside the measures.
_NOT_MEASURES = frozenset({"cell", "invoice_id", "stage", "recorded_at"})
_TIMESTREAM_TYPES = {
    "string": "VARCHAR",
    "int": "BIGINT",
    "long": "BIGINT",
    "boolean": "BOOLEAN",
    "timestamp": "VARCHAR",
}


class Row(NamedTuple):
    """A transition, and the version of the record that it came in."""

    version: int
    transition: Transition


class WriteResult(NamedTuple):
    """What became of a row: `failed` may be tried again, `rejected` is refused for good.

    A written row with a reason was there before, with other values, and still has those."""

    result: Literal["written", "failed", "rejected"]
    reason: str = ""


WRITTEN = WriteResult("written")


class TimeSeriesWriter(Protocol):
    """Takes rows."""

    def write(self, rows: Sequence[Row]) -> list[WriteResult]:
        """What became of each row, in order. Raises nothing of AWS's."""
        ...


class TimestreamSeries:
    """A table of Timestream for LiveAnalytics: multi-measure records, named by stage, timed by recorded_at.

    Timestamps among the measures are RFC 3339 text, which has no unit to be mistaken: `from_iso8601_timestamp` reads
    it.
    """

    def __init__(self, client: Any, database: str, table: str, cell: str) -> None:
        self._client = client
        self._database = database
        self._table = table
        self._cell = cell

    def write(self, rows: Sequence[Row]) -> list[WriteResult]:
        """As of `Series`, in calls of 100."""
        return [outcome for call in chunks(rows, MAX_TIMESTREAM_RECORDS) for outcome in self._write(call)]

    def _write(self, rows: Sequence[Row]) -> list[WriteResult]:
        try:
            self._client.write_records(
                DatabaseName=self._database,
                TableName=self._table,
                CommonAttributes={
                    "Dimensions": [{"Name": "cell", "Value": self._cell}],
                    "MeasureValueType": "MULTI",
                    "TimeUnit": "MICROSECONDS",
                },
                Records=[self._record(*one) for one in rows],
            )
        except ClientError as error:
            if error_code(error) == "RejectedRecordsException":
                response: Any = error.response
                return _rejected(rows, response.get("RejectedRecords", []))
            if error_code(error) == "ValidationException":
                # It does not say which record it means: look for it by halves, and write the others.
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
                    "Type": _TIMESTREAM_TYPES[column.type],
                }
                for column in COLUMNS
                if column.name not in _NOT_MEASURES and column.name in values
            ],
        }


class FirehoseSeries:
    """A Firehose stream into an Iceberg table with the columns of `bems.tracker.time_series_schema`.

    A row is a JSON object; its timestamps are microseconds, which is what Firehose wants of them (developer guide,
    "Understand supported data types").
    """

    def __init__(self, client: Any, stream: str, cell: str) -> None:
        self._client = client
        self._stream = stream
        self._cell = cell

    def write(self, rows: Sequence[Row]) -> list[WriteResult]:
        """As of `Series`, in calls of 500. What Firehose did not take of a call is put again, and nothing else."""
        records = [msgspec.json.encode(to_row(one.transition, self._cell)) for one in rows]
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
    """The values of a row, with as many of its attributes as Timestream has room for."""
    room = MAX_TIMESTREAM_RECORD_BYTES - sum(
        len(column.name) + len(_to_text(column.type, values[column.name]).encode())
        for column in COLUMNS
        if column.name in values and column.name not in (*_NOT_MEASURES, "attributes")
    )
    room -= len("attributes") + len("attributes_cut") + len("true")
    kept: dict[str, str] = {}
    for name, value in attributes.items():
        if len(msgspec.json.encode({**kept, name: value})) <= room:
            kept[name] = value
    if len(kept) < len(attributes):
        values = {**values, "attributes": msgspec.json.encode(kept).decode(), "attributes_cut": True}
    return values


def _split_into_calls(records: list[bytes]) -> Iterator[list[bytes]]:
    """The records in calls of no more than Firehose takes."""
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


def _rejected(rows: Sequence[Row], rejected: list[dict[str, Any]]) -> list[WriteResult]:
    """The rows that are not named were written. One for which the series names an existing version is there already,
    maybe as an earlier release of this code wrote it: then the outcome has the reason all the same."""
    outcomes = [WRITTEN] * len(rows)
    for one in rejected:
        known = one.get("ExistingVersion") is not None
        outcomes[one["RecordIndex"]] = WriteResult("written" if known else "rejected", one.get("Reason", ""))
    return outcomes


def _to_text(kind: str, value: Value) -> str:
    if kind == "timestamp":
        return render(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)

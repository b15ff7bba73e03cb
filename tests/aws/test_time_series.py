"""Time series: content of rows, and results of rows that fail or are rejected."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from msgspec import structs

from bems.aws.clients import client
from bems.aws.time_series import (
    WRITTEN,
    FirehoseSeries,
    TimeSeriesWriter,
    TimestreamSeries,
    VersionedTransition,
    WriteResult,
)
from bems.tracker.instants import HOUR
from bems.tracker.time_series_schema import ATTRIBUTES_CUT, SERIES_COLUMNS, to_row
from bems.tracker.transitions import Transition
from tests.aws.cloud import DATABASE, TIME_TABLE, Cloud, flatten_records
from tests.aws.recorded_calls import PASS_THROUGH, ServiceError
from tests.tracker.samples import FULL, NOW

LARGEST = structs.replace(
    FULL,
    invoice_id="i" * 128,
    event_id="e" * 128,
    transition_id="event " + "e" * 128,
    vendor_id="v" * 128,
    vendor_tier="\u20ac" * 64,
    source="\u20ac" * 64,
    attributes={},
    number="\u20ac" * 64,
    buyer="b" * 128,
    actor="\u20ac" * 64,
    reason="\u20ac" * 64,
)
PLAIN = Transition(
    transition_id="park 3",
    invoice_id="INV/1",
    kind="park",
    stage="posting",
    recorded_at=NOW,
    from_status=None,
    to_status="AwaitingPosting",
    amount=Decimal("1E+3"),
    currency="JPY",
    vendor_id="V-1",
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bems.aws.batching.time.sleep", lambda _: None)


@pytest.fixture
def timestream(cloud: Cloud) -> TimestreamSeries:
    series = TimestreamSeries(client("timestream-write"), DATABASE, TIME_TABLE, "test")
    series.write([VersionedTransition(1, PLAIN)])
    # The first call also discovers the endpoint.
    cloud.aws.calls.clear()
    return series


@pytest.fixture
def firehose(cloud: Cloud) -> FirehoseSeries:
    cloud.aws.fakes["PutRecordBatch"] = taking(lambda _: True)
    return FirehoseSeries(client("firehose"), "bems-test", "test")


@pytest.fixture(params=["timestream", "firehose"])
def series(request: pytest.FixtureRequest) -> TimeSeriesWriter:
    found: TimeSeriesWriter = request.getfixturevalue(request.param)
    return found


def taking(takes: Callable[[str], bool], code: str = "ServiceUnavailableException") -> Callable[[dict[str, Any]], Any]:
    """Fake PutRecordBatch that accepts a transition if `takes` returns True."""

    def put(params: dict[str, Any]) -> dict[str, Any]:
        answers = [
            {"RecordId": "r"} if takes(json.loads(record["Data"])["transition_id"]) else {"ErrorCode": code}
            for record in params["Records"]
        ]
        return {"FailedPutCount": sum("ErrorCode" in one for one in answers), "RequestResponses": answers}

    return put


def rows(count: int) -> list[VersionedTransition]:
    return [
        VersionedTransition(n, structs.replace(FULL, transition_id=f"t{n}", recorded_at=NOW + n, event_id=f"e{n}"))
        for n in range(count)
    ]


# -- rows


def test_a_row_has_every_column_with_a_value() -> None:
    whole = to_row(FULL, "eu")
    assert list(whole) == [column.name for column in SERIES_COLUMNS if column is not ATTRIBUTES_CUT]
    assert (whole["amount"], whole["from_amount"], whole["to_amount"]) == ("-0.10", "0.10", "-0.10")
    assert json.loads(str(whole["attributes"])) == FULL.attributes
    assert whole["due_date"] == "2026-04-01"
    assert whole["recorded_at"] == FULL.recorded_at
    bare = to_row(PLAIN, "eu")
    assert {column.name for column in SERIES_COLUMNS if column.required} == set(bare)
    assert (bare["amount"], bare["superseded"]) == ("1000", False)


def test_values_have_the_types_of_their_columns() -> None:
    kinds = {"string": str, "int": int, "long": int, "boolean": bool, "timestamp": int}
    row = to_row(FULL, "eu")
    assert {name: type(value) for name, value in row.items()} == {
        column.name: kinds[column.type.iceberg] for column in SERIES_COLUMNS if column is not ATTRIBUTES_CUT
    }


# -- both services


@pytest.mark.parametrize("count", [0, 1, 100, 101, 501])
def test_rows_are_split_into_calls_within_the_limit(cloud: Cloud, series: TimeSeriesWriter, count: int) -> None:
    assert series.write(rows(count)) == [WRITTEN] * count
    most = 100 if isinstance(series, TimestreamSeries) else 500
    sizes = [len(call.params["Records"]) for call in cloud.aws.calls]
    assert sizes == [most] * (count // most) + [count % most] * (count % most > 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError("ThrottlingException"), "ThrottlingException"),
        (ServiceError("InternalServerException", 500), "InternalServerException"),
        (ServiceError("ServiceUnavailableException", 503), "ServiceUnavailableException"),
        (ServiceError("ResourceNotFoundException"), "ResourceNotFoundException"),
        (ServiceError("AccessDeniedException"), "AccessDeniedException"),
        (ReadTimeoutError(endpoint_url="https://x"), "ReadTimeoutError"),
    ],
)
def test_rows_of_a_failed_call_are_failed(cloud: Cloud, series: TimeSeriesWriter, error: Exception, code: str) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise error

    cloud.aws.fakes |= {"WriteRecords": refuse, "PutRecordBatch": refuse}
    assert series.write(rows(3)) == [WriteResult("failed", code)] * 3


# -- Timestream


def test_a_row_is_one_multi_measure_record(cloud: Cloud, timestream: TimestreamSeries) -> None:
    timestream.write([VersionedTransition(7, FULL)])
    (call,) = cloud.aws.calls
    assert (call.params["DatabaseName"], call.params["TableName"]) == (DATABASE, TIME_TABLE)
    assert call.params["CommonAttributes"] == {
        "Dimensions": [{"Name": "cell", "Value": "test"}],
        "MeasureValueType": "MULTI",
        "TimeUnit": "MICROSECONDS",
    }
    (record,) = call.params["Records"]
    assert (record["MeasureName"], record["Time"], record["Version"]) == ("posting", str(FULL.recorded_at), 7)
    assert record["Dimensions"] == [{"Name": "invoice_id", "Value": "INV/1"}]
    measures = {one["Name"]: (one["Value"], one["Type"]) for one in record["MeasureValues"]}
    assert measures == {
        "transition_id": ("event e1", "VARCHAR"),
        "kind": ("event", "VARCHAR"),
        "from_status": ("AwaitingPosting", "VARCHAR"),
        "to_status": ("Posted", "VARCHAR"),
        "outcome": ("posted", "VARCHAR"),
        "event_id": ("e1", "VARCHAR"),
        "superseded": ("true", "BOOLEAN"),
        "amount": ("-0.10", "VARCHAR"),
        "currency": ("EUR", "VARCHAR"),
        "vendor_id": ("V-1", "VARCHAR"),
        "vendor_tier": ("gold", "VARCHAR"),
        "terms_days": ("30", "BIGINT"),
        "due_date": ("2026-04-01", "VARCHAR"),
        "occurred_at": ("2026-03-02T08:00:00Z", "VARCHAR"),
        "received_at": ("2026-03-02T09:00:00Z", "VARCHAR"),
        "lag_ms": ("2000", "BIGINT"),
        "step": ("1", "BIGINT"),
        "severity": ("warning", "VARCHAR"),
        "decided_at": ("2026-03-02T09:00:02Z", "VARCHAR"),
        "policy_digest": ("0123456789abcdef", "VARCHAR"),
        "from_amount": ("0.10", "VARCHAR"),
        "from_currency": ("EUR", "VARCHAR"),
        "to_amount": ("-0.10", "VARCHAR"),
        "to_currency": ("EUR", "VARCHAR"),
        "source": ("sap-ecc", "VARCHAR"),
        "attributes": ('{"approver":"Kim \\"K\\" Lee"}', "VARCHAR"),
        "number": ("RE-2026-7", "VARCHAR"),
        "issue_date": ("2026-02-27", "VARCHAR"),
        "buyer": ("1000", "VARCHAR"),
        "actor": ("kim@example.com", "VARCHAR"),
        "actor_kind": ("person", "VARCHAR"),
        "reason": ("QUA", "VARCHAR"),
        "paid_on": ("2026-03-01", "VARCHAR"),
        "paid_amount": ("0.05", "VARCHAR"),
        "discount_taken": ("0.01", "VARCHAR"),
        "first_deadline": ("2026-03-02T10:00:00Z", "VARCHAR"),
        "next_first_deadline": ("2026-03-03T09:00:00Z", "VARCHAR"),
    }


def test_attributes_that_do_not_fit_are_omitted_and_flagged(cloud: Cloud, timestream: TimestreamSeries) -> None:
    attributes = {"first": "a" * 500, "huge": "\u20ac" * 1_000, "last": "z"}
    smaller = structs.replace(LARGEST, actor=None, reason=None, number=None, attributes=attributes)
    timestream.write([VersionedTransition(7, smaller)])
    ((record,),) = [call.params["Records"] for call in cloud.aws.calls]
    measures = {one["Name"]: one["Value"] for one in record["MeasureValues"]}
    assert json.loads(measures["attributes"]) == {"first": "a" * 500, "last": "z"}
    assert measures["attributes_cut"] == "true"
    assert sum(len(name) + len(value.encode()) for name, value in measures.items()) <= 2_048


def test_the_largest_row_without_attributes_fits(cloud: Cloud, timestream: TimestreamSeries) -> None:
    timestream.write([VersionedTransition(7, structs.replace(LARGEST, attributes={"huge": "a" * 4_000}))])
    ((record,),) = [call.params["Records"] for call in cloud.aws.calls]
    measures = {one["Name"]: one["Value"] for one in record["MeasureValues"]}
    assert measures["attributes"] == "{}"
    assert "actor" in measures
    assert "reason" not in measures
    assert sum(len(name) + len(value.encode()) for name, value in measures.items()) <= 2_048


def test_writing_a_row_again_sends_the_same_record(cloud: Cloud, timestream: TimestreamSeries) -> None:
    timestream.write([VersionedTransition(7, FULL)])
    timestream.write([VersionedTransition(7, FULL)])
    one, two = cloud.aws.calls
    assert one == two


def test_only_listed_records_are_rejected(cloud: Cloud, timestream: TimestreamSeries) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        rejected = [
            {"RecordIndex": 1, "Reason": "outside the retention of the memory store"},
            {"RecordIndex": 3, "Reason": "a higher version is there", "ExistingVersion": 9},
        ]
        raise ServiceError("RejectedRecordsException", RejectedRecords=rejected)

    cloud.aws.fakes["WriteRecords"] = refuse
    assert timestream.write(rows(5)) == [
        WRITTEN,
        WriteResult("rejected", "outside the retention of the memory store"),
        WRITTEN,
        WriteResult("written", "a higher version is there"),
        WRITTEN,
    ]


def test_an_invalid_record_does_not_block_the_others(cloud: Cloud, timestream: TimestreamSeries) -> None:
    taken: list[str] = []

    def write(params: dict[str, Any]) -> dict[str, Any]:
        names = [row["transition_id"] for row in flatten_records(params)]
        if "t37" in names:
            raise ServiceError("ValidationException")
        taken.extend(names)
        return PASS_THROUGH

    cloud.aws.fakes["WriteRecords"] = write
    outcomes = timestream.write(rows(100))
    assert [n for n, outcome in enumerate(outcomes) if outcome != WRITTEN] == [37]
    assert outcomes[37].result == "rejected" and "ValidationException" in outcomes[37].reason
    assert sorted(taken) == sorted(f"t{n}" for n in range(100) if n != 37)


# -- Firehose


def test_a_row_is_one_json_object_with_instants_in_microseconds(cloud: Cloud, firehose: FirehoseSeries) -> None:
    firehose.write([VersionedTransition(7, FULL), VersionedTransition(8, PLAIN)])
    (call,) = cloud.aws.calls
    assert call.params["DeliveryStreamName"] == "bems-test"
    one, two = (json.loads(record["Data"]) for record in call.params["Records"])
    assert (one, two) == (to_row(FULL, "test"), to_row(PLAIN, "test"))
    assert one["occurred_at"] == NOW - HOUR


def test_only_records_that_firehose_did_not_accept_are_retried(cloud: Cloud, firehose: FirehoseSeries) -> None:
    failures = {"t1": 1, "t3": 2, "t4": 99}

    def takes(id: str) -> bool:
        failures[id] = failures.get(id, 0) - 1
        return failures[id] < 0

    cloud.aws.fakes["PutRecordBatch"] = taking(takes)
    failed = WriteResult("failed", "ServiceUnavailableException")
    assert firehose.write(rows(6)) == [WRITTEN, WRITTEN, WRITTEN, WRITTEN, failed, WRITTEN]
    sizes = [len(call.params["Records"]) for call in cloud.aws.calls]
    assert sizes == [6, 3, 2]


def test_no_call_has_more_than_4_mb(cloud: Cloud, firehose: FirehoseSeries) -> None:
    # Each quotation mark is escaped twice: in the attributes' JSON and in the row's.
    large = structs.replace(LARGEST, attributes={"quotes": '"' * 4_000})
    many = [VersionedTransition(n, structs.replace(large, transition_id=f"t{n}")) for n in range(501)]
    assert firehose.write(many) == [WRITTEN] * 501
    sizes = [sum(len(record["Data"]) for record in call.params["Records"]) for call in cloud.aws.calls]
    assert max(sizes) <= 4_000_000 and len(sizes) == 3
    written = [json.loads(r["Data"])["transition_id"] for call in cloud.aws.calls for r in call.params["Records"]]
    assert written == [f"t{n}" for n in range(501)]

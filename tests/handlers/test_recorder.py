"""The recorder: every transition reaches the time series."""

import json
import os
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from bems.tracker.instants import MINUTE, SECOND
from handlers import recorder
from tests.aws.cloud import Cloud, event_body, flatten_records
from tests.aws.recorded_calls import PASS_THROUGH, Context, ServiceError
from tests.handlers.emf import read_output


def stream_of(cloud: Cloud, *invoices: str) -> list[dict[str, Any]]:
    """Return the stream records of invoices that were received and approved."""
    cloud.replace_moto()
    for id in invoices:
        for stage, status in (("ingestion", "received"), ("authorization", "approved")):
            cloud.post(stage, event_body(id, status, f"{id}:{stage}"))
            cloud.deliver()
    found, cloud.stream = cloud.stream, []
    cloud.rows.clear()
    return found


def handle(records: list[dict[str, Any]]) -> list[str]:
    answer = recorder.handler({"Records": records}, Context())
    return [one["itemIdentifier"] for one in answer["batchItemFailures"]]


def sequence(record: dict[str, Any]) -> str:
    number: str = record["dynamodb"]["SequenceNumber"]
    return number


def test_the_transitions_of_each_new_version_are_rows(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    records = stream_of(cloud, "A", "B")
    assert len(records) == 6, "two writes for the ingestion, one for an approval that no execution waits for yet"
    read_output(capsys)
    cloud.now += 7 * SECOND
    assert handle(records) == []
    assert [(row["event_id"], row["version"]) for row in cloud.rows] == [
        ("A:ingestion", 1),
        ("A:authorization", 3),
        ("B:ingestion", 1),
        ("B:authorization", 3),
    ]
    shown = read_output(capsys)
    assert shown.metrics == {
        ("TransitionsRecorded", "test"): [4.0],
        ("VisibilityLatency", "test", "ingestion"): [7000.0] * 2,
        ("VisibilityLatency", "test", "authorization"): [7000.0] * 2,
    }
    assert shown.logs == []


def test_a_repeated_batch_writes_the_same_rows(cloud: Cloud) -> None:
    records = stream_of(cloud, "A")
    handle(records)
    first = list(cloud.rows)
    handle(records)
    assert cloud.rows == first + first


def test_an_unavailable_series_stops_the_stream(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    records = stream_of(cloud, "A", "B")
    read_output(capsys)

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("ThrottlingException")

    cloud.aws.fakes["WriteRecords"] = refuse
    assert handle(records) == [sequence(records[n]) for n in (0, 2, 3, 5)]
    shown = read_output(capsys)
    assert shown.metrics == {}
    assert shown.levels() == ["WARNING"] * 4


def test_rejected_rows_are_logged_and_do_not_block_the_stream(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    records = stream_of(cloud, "A")
    read_output(capsys)

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("RejectedRecordsException", RejectedRecords=[{"RecordIndex": 0, "Reason": "too old"}])

    cloud.aws.fakes["WriteRecords"] = refuse
    assert handle(records) == []
    shown = read_output(capsys)
    assert shown.metrics["RecordsRejected", "test"] == [1.0]
    assert shown.metrics["TransitionsRecorded", "test"] == [1.0]
    (line,) = shown.logs
    assert (line["level"], line["reason"], line["invoice_id"]) == ("ERROR", "too old", "A")
    assert line["row"]["transition_id"] == "event A:ingestion", "the whole row, so that it can be written again"
    assert len(line["row"]) > 10


def test_an_existing_row_with_other_values_is_logged(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    records = stream_of(cloud, "A")
    read_output(capsys)

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        known = {"RecordIndex": 0, "Reason": "a higher version", "ExistingVersion": 9}
        raise ServiceError("RejectedRecordsException", RejectedRecords=[known])

    cloud.aws.fakes["WriteRecords"] = refuse
    assert handle(records) == []
    shown = read_output(capsys)
    assert (shown.levels(), shown.metrics["TransitionsRecorded", "test"]) == (["WARNING"], [2.0])


def received() -> str:
    """Receive and delete the only message of the queue of unrecorded records. Returns its body."""
    sqs, url = boto3.client("sqs"), os.environ["BEMS_UNRECORDED_QUEUE_URL"]
    (message,) = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    body: str = message["Body"]
    return body


def damage(record: dict[str, Any]) -> None:
    record["dynamodb"]["NewImage"]["changes"] = {"B": "gA=="}


def test_an_unreadable_record_is_quarantined_and_does_not_block_the_stream(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    records = stream_of(cloud, "A")
    damage(records[0])
    read_output(capsys)
    assert handle(records) == []
    assert [row["event_id"] for row in cloud.rows] == ["A:authorization"]
    (message,) = cloud.unrecorded
    assert message["Records"] == [records[0]]
    assert message["reason"].startswith("not the image of a record: ")
    shown = read_output(capsys)
    assert shown.metrics["RecordsUnreadable", "test"] == [1.0]
    (line,) = shown.logs
    assert (line["level"], line["sequence_number"], line["reason"]) == (
        "ERROR",
        sequence(records[0]),
        message["reason"],
    )


def test_a_quarantined_record_is_recorded_by_a_later_release(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is an event for the function. A release that cannot read it quarantines it again."""
    records = stream_of(cloud, "A")
    cloud.aws.fakes["SendMessage"] = lambda _: PASS_THROUGH

    def refuse(_: Any) -> Any:
        raise ValueError("from another release")

    with monkeypatch.context() as older:
        older.setattr(recorder, "read_changes", refuse)
        assert handle(records[:1]) == []
        assert recorder.handler(json.loads(received()), Context()) == {"batchItemFailures": []}
    assert cloud.rows == []
    message = json.loads(received())
    assert message["reason"] == "from another release"
    assert recorder.handler(message, Context()) == {"batchItemFailures": []}
    assert [(row["event_id"], row["version"]) for row in cloud.rows] == [("A:ingestion", 1)]


@pytest.mark.parametrize("broken", [ServiceError("AccessDenied"), ReadTimeoutError(endpoint_url="")])
def test_a_record_that_cannot_be_quarantined_is_retried(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], broken: Exception
) -> None:
    records = stream_of(cloud, "A", "B")
    damage(records[0])
    damage(records[3])
    read_output(capsys)
    cloud.aws.calls.clear()

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise broken

    taking, cloud.aws.fakes["SendMessage"] = cloud.aws.fakes["SendMessage"], refuse
    assert handle(records) == [sequence(records[0])]
    assert [call.operation for call in cloud.aws.calls].count("SendMessage") <= 1, "the second one is retried with it"
    assert cloud.unrecorded == []
    shown = read_output(capsys)
    assert ("RecordsUnreadable", "test") not in shown.metrics
    (line,) = shown.logs
    assert line["level"] == "WARNING"
    cloud.aws.fakes["SendMessage"] = taking
    assert handle(records) == []
    assert [message["Records"] for message in cloud.unrecorded] == [[records[0]], [records[3]]]


def test_records_that_will_be_retried_are_not_quarantined_each_time(cloud: Cloud) -> None:
    """The series is unavailable. One of two unreadable records is before the row that stops the stream."""
    records = stream_of(cloud, "A", "B")
    damage(records[0])
    damage(records[5])

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("ThrottlingException")

    taking, cloud.aws.fakes["WriteRecords"] = cloud.aws.fakes["WriteRecords"], refuse
    for _ in range(3):
        again = handle(records)
        assert again == [sequence(records[n]) for n in (2, 3)]
    records = [record for record in records if int(sequence(record)) >= int(again[0])]
    assert [message["Records"][0] for message in cloud.unrecorded] == [cloud.unrecorded[0]["Records"][0]] * 3
    cloud.unrecorded.clear()
    cloud.aws.fakes["WriteRecords"] = taking
    assert handle(records) == []
    assert [message["Records"] for message in cloud.unrecorded] == [[records[-1]]]


@pytest.mark.parametrize("text", ["x", "\uffff", "\U0001f600"])
def test_the_largest_image_fits_into_a_message(cloud: Cloud, text: str) -> None:
    """An item of 400 kB, and characters that SQS rejects unless they are escaped."""
    cloud.replace_moto()
    cloud.aws.fakes["SendMessage"] = lambda _: PASS_THROUGH
    record = cloud.image({"invoice_id": {"S": text * 40}, "version": {"N": "1"}, "changes": {"B": b"\xc1" * 400_000}})
    assert handle([record]) == []
    body = received()
    assert body.isascii()
    assert json.loads(body)["Records"] == [record]


def test_a_deleted_record_has_no_transitions(cloud: Cloud) -> None:  # noqa: ARG001
    change = {"Keys": {"invoice_id": {"S": "A"}}, "SequenceNumber": "1"}
    assert handle([{"eventName": "REMOVE", "dynamodb": change}]) == []


def test_firehose_is_chosen_by_a_setting(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    records = stream_of(cloud, "A", "B")
    monkeypatch.setenv("BEMS_TIME_SERIES", "s3tables")
    monkeypatch.setenv("BEMS_DELIVERY_STREAM", "bems-test")
    monkeypatch.setattr("bems.aws.batching.time.sleep", lambda _: None)
    taken: list[bytes] = []

    def put(params: dict[str, Any]) -> dict[str, Any]:
        """Accept all rows except the second."""
        answers = []
        for record in params["Records"]:
            lost = b'"A:authorization"' in record["Data"]
            answers.append({"ErrorCode": "InternalFailure"} if lost else {"RecordId": "r"})
            taken.extend([] if lost else [record["Data"]])
        return {"FailedPutCount": 1, "RequestResponses": answers}

    cloud.aws.fakes["PutRecordBatch"] = put
    recorder.dependencies.cache_clear()
    assert handle(records) == [sequence(records[2])]
    recorder.dependencies.cache_clear()
    assert len(taken) == 3


def test_latency_starts_when_the_event_is_received(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    records = stream_of(cloud, "A")
    cloud.now += 3 * MINUTE
    read_output(capsys)
    handle(records)
    assert read_output(capsys).metrics["VisibilityLatency", "test", "ingestion"] == [180_000.0]


def test_a_batch_of_the_stream_is_one_call(cloud: Cloud) -> None:
    records = stream_of(cloud, *[f"I{n}" for n in range(33)])
    cloud.aws.calls.clear()
    handle(records)
    (call,) = cloud.aws.calls
    assert len(flatten_records(call.params)) == 66

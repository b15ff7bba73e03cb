"""The processor: which messages succeed, which are retried and when, which go to the dead-letter queue."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bems.aws.messages import Origin, encode_detail
from bems.tracker.contract import Event
from bems.tracker.instants import DAY, SECOND, render
from bems.tracker.parsing import parse_event
from bems.tracker.status import status_of
from handlers import processor
from handlers.processor import backoff_seconds
from tests.aws.cloud import Cloud, event_body
from tests.aws.recorded_calls import PASS_THROUGH, Context, ServiceError
from tests.handlers.emf import read_output
from tests.tracker.samples import NOW


@pytest.fixture(params=["standard", "fifo"])
def queue(request: pytest.FixtureRequest, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A cell with either type of queue; changes of visibility have no effect."""
    cloud.replace_moto()
    cloud.aws.fakes["ChangeMessageVisibilityBatch"] = lambda _: {"Successful": [], "Failed": []}
    monkeypatch.setenv("BEMS_QUEUE_TYPE", request.param)
    processor.dependencies.cache_clear()
    yield cloud
    processor.dependencies.cache_clear()


def event(invoice_id: str, event_id: str, **more: Any) -> str:
    body = event_body(invoice_id, "approved", event_id, **more)
    read = parse_event("authorization", json.dumps(body).encode(), NOW)
    assert isinstance(read, Event)
    return encode_detail(read, Origin("test", "eu-west-1", "123456789012"))


def handle(cloud: Cloud, *bodies: tuple[str, str], receipts: int = 1) -> list[int]:
    """Process messages, given as (group, body). Returns the positions of those that failed."""
    messages = [cloud.message(body, group, receipts) for group, body in bodies]
    answer = processor.handler({"Records": messages}, Context())
    failed = [one["itemIdentifier"] for one in answer["batchItemFailures"]]
    return [position for position, message in enumerate(messages) if message["messageId"] in failed]


def delays(cloud: Cloud) -> list[int]:
    calls = [call for call in cloud.aws.calls if call.operation == "ChangeMessageVisibilityBatch"]
    return [entry["VisibilityTimeout"] for call in calls for entry in call.params["Entries"]]


def test_events_are_applied_to_their_records(queue: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert handle(queue, ("A", event("A", "e1")), ("B", event("B", "e2")), ("A", event("A", "e1"))) == []
    assert {record.invoice_id: status_of(record.outcomes) for record in queue.records()} == {
        "A": "Orphan",
        "B": "Orphan",
    }
    assert delays(queue) == []
    shown = read_output(capsys)
    assert shown.metrics == {
        ("EventsProcessed", "test", "authorization", "accepted"): [2.0],
        ("EventsProcessed", "test", "authorization", "duplicate"): [1.0],
    }
    assert shown.logs == []


def test_business_outcomes_are_no_errors(queue: Cloud) -> None:
    read = parse_event("authorization", json.dumps(event_body("A", "rejected", "e1")).encode(), NOW)
    assert isinstance(read, Event)
    assert handle(queue, ("A", encode_detail(read, Origin("test", "eu-west-1", "1")))) == []


@pytest.mark.parametrize("receipts", [1, 2])
def test_a_conflict_fails_on_every_attempt(queue: Cloud, capsys: pytest.CaptureFixture[str], receipts: int) -> None:
    handle(queue, ("A", event("A", "e1")))
    read_output(capsys)
    other = event("A", "e1", amount="9.99")
    assert handle(queue, ("A", other), ("A", event("A", "e2")), receipts=receipts) == [0]
    assert delays(queue) == [0]
    record = queue.record("A")
    assert [event_id for event_id, _ in record.recent_event_ids] == ["e1", "e2"]
    shown = read_output(capsys)
    first_receive_only: dict[tuple[str, ...], list[float]] = {
        ("EventsProcessed", "test", "authorization", "conflict"): [1.0],
        ("Conflicts", "test", "authorization"): [1.0],
    }
    accepted: dict[tuple[str, ...], list[float]] = {("EventsProcessed", "test", "authorization", "accepted"): [1.0]}
    assert shown.metrics == ({**first_receive_only, **accepted} if receipts == 1 else accepted)
    (line,) = shown.logs
    assert (line["level"], line["invoice_id"], line["event_id"]) == ("ERROR", "A", "e1")


@pytest.mark.parametrize("body", ["", "hello", "{}", '{"detail": {"stage": "authorization"}}'])
def test_an_invalid_message_fails_without_blocking_its_group(
    queue: Cloud, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    assert handle(queue, ("A", body), ("A", event("A", "e1"))) == [0]
    assert delays(queue) == [0]
    assert [record.invoice_id for record in queue.records()] == ["A"]
    assert read_output(capsys).metrics[("EventsProcessed", "test", "authorization", "refused")] == [1.0]


def test_a_forged_time_in_the_future_does_not_block_a_stage(queue: Cloud) -> None:
    forged = json.loads(event("A", "e1"))
    forged["metadata"]["received_at"] = "9999-12-30T00:00:00Z"
    assert handle(queue, ("A", json.dumps(forged))) == []
    assert queue.record("A").outcomes["authorization"].received_at == NOW
    forged["event"]["occurred_at"] = "9999-12-30T00:00:00Z"
    assert handle(queue, ("B", json.dumps(forged))) == [0]
    assert delays(queue) == [0]


def test_an_event_accepted_by_a_clock_ahead_is_retried(queue: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    body = event_body("A", "approved", "e1", occurred_at=render(NOW + DAY + SECOND))
    read = parse_event("authorization", json.dumps(body).encode(), NOW + SECOND)
    assert isinstance(read, Event)
    message = encode_detail(read, Origin("test", "eu-west-1", "1"))
    assert handle(queue, ("A", message)) == [0]
    assert delays(queue)[0] > 0
    assert read_output(capsys).metrics == {("ProcessingFailed", "test", "authorization"): [1.0]}
    queue.now += SECOND
    assert handle(queue, ("A", message), receipts=2) == []


def test_a_transient_failure_is_retried_after_a_delay(queue: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    put = queue.aws.fakes["PutItem"]

    def refuse(params: dict[str, Any]) -> dict[str, Any]:
        if params["Item"]["invoice_id"]["S"] == "A":
            raise ServiceError("ThrottlingException")
        return put(params)

    queue.aws.fakes["PutItem"] = refuse
    fifo = processor.dependencies().settings.queue_type == "fifo"
    failed = handle(queue, ("A", event("A", "e1")), ("B", event("B", "e2")), ("A", event("A", "e3")), receipts=3)
    assert failed == [0, 2]
    assert len(delays(queue)) == 2 and all(10 <= seconds <= 20 for seconds in delays(queue))
    shown = read_output(capsys)
    tried = 1 if fifo else 2
    assert shown.metrics == {
        ("ProcessingFailed", "test", "authorization"): [float(tried)],
        ("EventsProcessed", "test", "authorization", "accepted"): [1.0],
    }
    assert shown.levels() == ["WARNING"] * tried
    assert shown.logs[0]["event_id"] == "e1"
    queue.aws.fakes["PutItem"] = put
    assert handle(queue, ("A", event("A", "e1")), ("A", event("A", "e3")), receipts=4) == []


def test_an_action_that_fails_after_the_save_is_done_by_the_retry(queue: Cloud) -> None:
    start = queue.aws.fakes["StartExecution"]

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("ExecutionLimitExceeded")

    queue.aws.fakes["StartExecution"] = refuse
    read = parse_event("ingestion", json.dumps(event_body("A", "received", "e0")).encode(), NOW)
    assert isinstance(read, Event)
    message = ("A", encode_detail(read, Origin("test", "eu-west-1", "1")))
    assert handle(queue, message) == [0]
    assert queue.record("A").pending
    queue.aws.fakes["StartExecution"] = start
    assert handle(queue, message, receipts=2) == []
    assert not queue.record("A").pending
    assert list(queue.machine.executions)


def test_a_batch_that_fails_completely_is_not_an_error_of_the_function(queue: Cloud) -> None:
    assert handle(queue, *[(f"G{n}", "hello") for n in range(12)]) == list(range(12))
    calls = [call for call in queue.aws.calls if call.operation == "ChangeMessageVisibilityBatch"]
    assert [len(call.params["Entries"]) for call in calls] == [10, 2]


def test_a_delay_that_cannot_be_set_is_logged(queue: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("OverLimit")

    queue.aws.fakes["ChangeMessageVisibilityBatch"] = refuse
    assert handle(queue, ("A", "hello")) == [0]
    queue.aws.fakes["ChangeMessageVisibilityBatch"] = lambda _: {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}],
    }
    assert handle(queue, ("A", "hello")) == [0]
    assert read_output(capsys).levels() == ["ERROR", "WARNING"] * 2


def test_moto_accepts_the_call_that_sets_delays(queue: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """The real call on moto, whose response names the unknown receipt handle."""
    queue.aws.fakes["ChangeMessageVisibilityBatch"] = lambda _: PASS_THROUGH
    assert handle(queue, ("A", "hello")) == [0]
    assert "ReceiptHandleIsInvalid" in read_output(capsys).text


def test_delays_double_up_to_fifteen_minutes() -> None:
    for receipts, most in ((1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (1000, 900)):
        drawn = [backoff_seconds(receipts) for _ in range(200)]
        assert most / 2 <= min(drawn) and max(drawn) <= most
        assert len(set(drawn)) > 1


@pytest.mark.parametrize(("receipts", "counted"), [(1, 1), (2, 0), (3, 0)])
def test_an_unreadable_message_is_counted_once(
    queue: Cloud, capsys: pytest.CaptureFixture[str], receipts: int, counted: int
) -> None:
    assert handle(queue, ("A", "no event"), receipts=receipts) == [0]
    refused = ("EventsProcessed", "test", "authorization", "refused")
    assert read_output(capsys).metrics == ({refused: [1.0]} if counted else {})

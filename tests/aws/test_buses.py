"""Event buses: the result of each entry is checked, on the classic and on the custom bus."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from bems.aws.buses import MAX_CALL_BYTES, Bus, ClassicBus, CustomBus
from bems.aws.clients import client
from bems.aws.messages import Origin
from bems.tracker.contract import Event, Facts
from tests.aws.cloud import BUS, Cloud
from tests.aws.recorded_calls import ServiceError
from tests.tracker.samples import FACTS, event

ORIGIN = Origin("test", "eu-west-1", "123456789012")
CUSTOM = "arn:aws:events:eu-west-1:123456789012:event-busv2/bems-test/abcdefghijklmnopqrstuvwxy"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bems.aws.batching.time.sleep", lambda _: None)


@pytest.fixture(params=["classic", "custom"])
def bus(request: pytest.FixtureRequest, cloud: Cloud) -> Bus:
    if request.param == "classic":
        return ClassicBus(client("events"), BUS)
    cloud.aws.fakes["PutEvents"] = answering(lambda _: {"SuccessCode": "PUBLISHED", "EventId": "e"})
    return CustomBus(client("eventbridgev2"), CUSTOM)


def answering(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Fake PutEvents of either bus, which answers each entry."""

    def put(params: dict[str, Any]) -> dict[str, Any]:
        answers = [answer(entry) for entry in params["Entries"]]
        return {"FailedEntryCount": sum("ErrorCode" in one for one in answers), "Entries": answers}

    return put


def events(count: int, facts: Facts = FACTS) -> list[Event]:
    return [event("posting", "posted", event_id=f"e{n}", invoice_id=f"INV-{n}", facts=facts) for n in range(count)]


def ids(call: Any) -> list[str]:
    return [json.loads(entry["Detail"])["event"]["event_id"] for entry in call.params["Entries"]]


def test_a_batch_is_split_into_calls_within_the_limit(cloud: Cloud, bus: Bus) -> None:
    assert bus.publish(events(100), ORIGIN) == [None] * 100
    sizes = [len(call.params["Entries"]) for call in cloud.aws.calls]
    assert sizes == ([10] * 10 if isinstance(bus, ClassicBus) else [100])
    assert [id for call in cloud.aws.calls for id in ids(call)] == [f"e{n}" for n in range(100)]


def test_no_events_make_no_call(cloud: Cloud, bus: Bus) -> None:
    assert bus.publish([], ORIGIN) == []
    assert cloud.aws.calls == []


def test_large_events_are_split_into_more_calls(cloud: Cloud, bus: Bus) -> None:
    facts = Facts(FACTS.amount, "EUR", FACTS.vendor, FACTS.source, None, {f"{n:02}": '"' * 1300 for n in range(32)})
    assert bus.publish(events(10, facts), ORIGIN) == [None] * 10
    sizes = [sum(len(entry["Detail"].encode()) for entry in call.params["Entries"]) for call in cloud.aws.calls]
    assert max(sizes) < MAX_CALL_BYTES < sum(sizes)


def test_an_entry_has_source_detail_type_and_bus(cloud: Cloud, bus: Bus) -> None:
    (one,) = events(1)
    bus.publish([one], ORIGIN)
    (call,) = cloud.aws.calls
    (entry,) = call.params["Entries"]
    assert (entry["Source"], entry["DetailType"]) == ("bems.test", "InvoicePosting")
    if isinstance(bus, ClassicBus):
        assert entry["EventBusName"] == BUS
    else:
        assert call.params["EventBusArn"] == CUSTOM
        assert entry["SystemMetadata"] == {"EventGroupId": "INV-0", "DeduplicationId": one.digest}


def test_only_failed_entries_are_retried(cloud: Cloud, bus: Bus) -> None:
    failures = {"INV-1": 1, "INV-3": 2, "INV-4": 99}

    def answer(entry: dict[str, Any]) -> dict[str, Any]:
        id = json.loads(entry["Detail"])["event"]["invoice_id"]
        failures[id] = failures.get(id, 0) - 1
        return (
            {"ErrorCode": "ThrottlingException"} if failures[id] >= 0 else {"EventId": "e", "SuccessCode": "PUBLISHED"}
        )

    cloud.aws.fakes["PutEvents"] = answering(answer)
    assert bus.publish(events(6), ORIGIN) == [None] * 4 + ["ThrottlingException", None]
    assert [ids(call) for call in cloud.aws.calls] == [[f"e{n}" for n in range(6)], ["e1", "e3", "e4"], ["e3", "e4"]]


def test_permanent_errors_are_not_retried(cloud: Cloud, bus: Bus) -> None:
    cloud.aws.fakes["PutEvents"] = answering(lambda _: {"ErrorCode": "MalformedDetail"})
    assert bus.publish(events(2), ORIGIN) == ["MalformedDetail"] * 2
    assert len(cloud.aws.calls) == 1


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException", "InternalException"])
def test_a_failed_call_does_not_affect_other_calls(cloud: Cloud, bus: Bus, code: str) -> None:
    refused: list[Any] = []

    def put(params: dict[str, Any]) -> dict[str, Any]:
        if not refused:
            refused.append(params)
            raise ServiceError(code)
        return answering(lambda _: {"EventId": "e", "SuccessCode": "PUBLISHED"})(params)

    cloud.aws.fakes["PutEvents"] = put
    size = 10 if isinstance(bus, ClassicBus) else 100
    assert bus.publish(events(size + 1), ORIGIN) == [code] * size + [None]


def test_a_call_without_a_response_counts_as_failed(cloud: Cloud, bus: Bus) -> None:
    def put(_: dict[str, Any]) -> dict[str, Any]:
        raise ReadTimeoutError(endpoint_url="https://events")

    cloud.aws.fakes["PutEvents"] = put
    assert bus.publish(events(2), ORIGIN) == ["ReadTimeoutError"] * 2


def test_the_custom_bus_accepts_a_deduplicated_event(cloud: Cloud) -> None:
    bus = CustomBus(client("eventbridgev2"), CUSTOM)
    cloud.aws.fakes["PutEvents"] = answering(lambda _: {"SuccessCode": "DEDUPLICATED"})
    assert bus.publish(events(1), ORIGIN) == [None]
    cloud.aws.fakes["PutEvents"] = answering(lambda _: {})
    assert bus.publish(events(1), ORIGIN) == ["Unknown"]


def test_the_limits_are_those_of_the_service_model() -> None:
    for service, most in (("events", 10), ("eventbridgev2", 100)):
        entries = client(service).meta.service_model.operation_model("PutEvents").input_shape.members["Entries"]
        assert entries.metadata["max"] == most

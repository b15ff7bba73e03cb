"""Records in DynamoDB: failures that the contract tests do not cover (lost responses, throttling, stale versions)."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.core.models import botocore_stubber
from msgspec import structs

from bems.aws.clients import client
from bems.aws.errors import is_transient
from bems.aws.records import SHARDS, DynamoRecords, pack_item, read_changes, shard_of
from bems.tracker.contract import Facts, Source, Vendor
from bems.tracker.decisions import on_event, on_timeout
from bems.tracker.instants import DAY, MINUTE
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import clear_pending
from tests.aws.cloud import TABLE, Cloud
from tests.aws.recorded_calls import ServiceError
from tests.tracker.samples import FACTS, NOW, POLICY, event


@pytest.fixture
def records(cloud: Cloud) -> DynamoRecords:  # noqa: ARG001
    return DynamoRecords(client("dynamodb"), TABLE)


def first(invoice_id: str = "INV-1", facts: Facts = FACTS) -> InvoiceRecord:
    decided = on_event(None, event("ingestion", "received", invoice_id=invoice_id, facts=facts), POLICY, NOW).record
    assert decided
    return decided


# -- lost responses


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of operations whose HTTP response is lost, in order. DynamoDB has executed them, and boto3 retries at
    once."""
    names: list[str] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    process = botocore_stubber.process_request

    def lose(request: Any) -> Any:
        answer = process(request)
        target = request.headers.get("X-Amz-Target", b"").decode().rpartition(".")[2]
        if names and names[0] == target:
            names.pop(0)
            raise ReadTimeoutError(endpoint_url=request.url)
        return answer

    monkeypatch.setattr(botocore_stubber, "process_request", lose)
    yield names
    assert names == [], "these responses were not lost"


def test_a_write_with_a_lost_response_succeeds(records: DynamoRecords, lost: list[str]) -> None:
    lost += ["PutItem", "PutItem"]
    assert records.save(first())
    second = clear_pending(first(), NOW)
    lost += ["PutItem"]
    assert records.save(second)
    assert records.load("INV-1") == second


def test_a_concurrent_write_is_distinguished_from_a_lost_response(records: DynamoRecords, lost: list[str]) -> None:
    assert records.save(first())
    assert records.save(clear_pending(first(), NOW))
    lost += ["PutItem"]
    assert not records.save(structs.replace(first(), version=2, mark="parked"))


def test_repeating_a_write_succeeds(records: DynamoRecords) -> None:
    assert [records.save(first()), records.save(first())] == [True, True]


def test_a_write_is_stored_even_if_every_response_is_lost(records: DynamoRecords, lost: list[str]) -> None:
    lost += ["PutItem"] * 5
    with pytest.raises(ReadTimeoutError) as raised:
        records.save(first())
    assert is_transient(raised.value)
    found = records.load("INV-1")
    assert found and found.version == 1 and found.pending


def test_a_lost_response_followed_by_another_write_is_a_conflict(records: DynamoRecords, cloud: Cloud) -> None:
    """The write succeeded, its response was lost, and another writer saved the next version before the retry."""
    assert records.save(first())
    assert records.save(clear_pending(first(), NOW))
    assert not records.save(first())
    assert cloud.aws.calls[-1].params["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        ("ProvisionedThroughputExceededException", True),
        ("ThrottlingException", True),
        ("InternalServerError", True),
        ("AccessDeniedException", False),
        ("ResourceNotFoundException", False),
    ],
)
def test_an_error_of_dynamodb_is_raised(records: DynamoRecords, cloud: Cloud, code: str, transient: bool) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError(code)

    cloud.aws.fakes |= {"PutItem": refuse, "GetItem": refuse}
    for call in (lambda: records.save(first()), lambda: records.load("INV-1")):
        with pytest.raises(ClientError) as raised:
            call()
        assert is_transient(raised.value) == transient
    del cloud.aws.fakes["PutItem"], cloud.aws.fakes["GetItem"]
    assert records.load("INV-1") is None


# -- the item


def test_reads_are_strongly_consistent(records: DynamoRecords, cloud: Cloud) -> None:
    """moto is always consistent, so the test checks the call."""
    records.load("INV-1")
    (call,) = cloud.aws.calls
    assert call.params["ConsistentRead"] is True


def test_the_item_has_its_documented_attributes(records: DynamoRecords) -> None:
    records.save(first())
    item = client("dynamodb").get_item(TableName=TABLE, Key={"invoice_id": {"S": "INV-1"}})["Item"]
    assert {name: list(value) for name, value in item.items()} == {
        "invoice_id": ["S"],
        "version": ["N"],
        "record": ["B"],
        "changes": ["B"],
        "status": ["S"],
        "check_shard": ["S"],
        "check_at": ["N"],
    }
    assert (item["status"]["S"], item["version"]["N"]) == ("AwaitingAuthorization", "1")
    assert item["check_shard"]["S"] == f"{shard_of('INV-1'):02}"
    assert int(item["check_at"]["N"]) == first().check_at


def test_the_index_and_the_changes_are_sparse() -> None:
    done = structs.replace(first(), check_at=None, changes=())
    assert set(pack_item(done)) == {"invoice_id", "version", "record", "status"}


def test_changes_are_read_from_an_image() -> None:
    item = pack_item(first())
    image = {**item, "changes": {"B": b64encode(item["changes"]["B"]).decode()}}
    assert read_changes(image) == (1, first().changes)
    del image["changes"]
    assert read_changes(image) == (1, ())


@pytest.mark.parametrize(
    "change", [{"changes": {"B": "?"}}, {"changes": {"B": "gA=="}}, {"changes": {}}, {"version": {"N": "x"}}]
)
def test_an_invalid_image_is_rejected(change: dict[str, Any]) -> None:
    image = {"invoice_id": {"S": "INV-1"}, "version": {"N": "1"}, "changes": {"B": "kA=="}}
    assert read_changes(image) == (1, ())
    with pytest.raises(ValueError, match="not the image of a record"):
        read_changes({**image, **change})


@pytest.mark.parametrize("name", ["recorded_at", "occurred_at", "received_at"])
def test_an_image_with_an_instant_outside_the_calendar_is_rejected(name: str) -> None:
    (transition,) = first().changes
    changes = msgspec.msgpack.encode([structs.replace(transition, **{name: 10**18})])
    image = {"version": {"N": "1"}, "changes": {"B": b64encode(changes).decode()}}
    with pytest.raises(ValueError, match=r"not the image of a record.*outside the calendar"):
        read_changes(image)


def test_the_largest_record_is_far_below_dynamodbs_400_kb() -> None:
    """Largest facts, 32 ids of maximum length, and every alert of the default policy pending."""
    attributes = {f"{n:02}": "ä" * 62 for n in range(32)}
    facts = structs.replace(
        FACTS, vendor=Vendor("v" * 128, "ä" * 256, "DE", "ä" * 64), source=Source("ä" * 64), attributes=attributes
    )
    record: InvoiceRecord | None = None
    for n in range(32):
        sent = event("ingestion", "received", NOW + n, f"{n:03}" + "e" * 125, "i" * 128, facts, "d" * 24)
        record = on_event(record, sent, POLICY, NOW + n).record
    for n in range(20):
        record = on_timeout(record, 1, "authorization", POLICY, NOW + (3 + n) * DAY).record
    assert record and len(record.pending) >= 4
    size = sum(len(name) + len(next(iter(value.values()))) for name, value in pack_item(record).items())
    assert 20_000 < size < 60_000


# -- due invoices


def test_due_invoices_are_paged_most_overdue_first(records: DynamoRecords) -> None:
    ids = [id for id in (f"INV-{n}" for n in range(400)) if shard_of(id) == 7][:5]
    assert len(ids) == 5
    for position, id in enumerate(ids):
        records.save(structs.replace(first(id), check_at=NOW + (5 - position) * MINUTE))
    page = records.due(7, NOW + 4 * MINUTE, 3)
    assert page.invoice_ids == ids[:0:-1][:3]
    rest = records.due(7, NOW + 4 * MINUTE, 3, page.next)
    assert (rest.invoice_ids, rest.next) == ([ids[1]], None)
    assert records.due(7, NOW, 3).invoice_ids == []
    assert records.due(8, NOW + DAY, 3).invoice_ids == []
    assert records.count_due(7, NOW + 4 * MINUTE, 3) == 3
    assert (records.count_open(7), records.count_open(8)) == (5, 0)


@settings(derandomize=True, max_examples=200)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128))
def test_a_shard_is_one_of_64(invoice_id: str) -> None:
    assert 0 <= shard_of(invoice_id) < SHARDS


def test_shards_are_about_equally_full() -> None:
    counts = [0] * SHARDS
    for n in range(6400):
        counts[shard_of(f"INV/2026/{n:06}")] += 1
    assert min(counts) > 60 and max(counts) < 140

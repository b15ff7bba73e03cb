"""Records in DynamoDB: one item per invoice, written on condition of the version before it.

The item: `invoice_id` (S), the key; `version` (N); `record` (B), the MessagePack of the InvoiceRecord without its
changes; `changes` (B), that of its transitions, where it has any, which the table's stream carries to the recorder;
`status` (S), for people who look. Where it has a check_at: `check_shard` (S, `00` to `63`) and `check_at` (N,
microseconds), the keys of the sparse index `checks`. Without the shards one partition would take every write of the
index, and throttle the table at about 1,000 a second.
"""

from base64 import b64decode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from bems.aws.errors import ClientError, error_code
from bems.tracker.instants import EARLIEST, LATEST, Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import status_of
from bems.tracker.transitions import Transition

INDEX = "checks"
SHARDS = 64

_pack = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(InvoiceRecord)
_changes = msgspec.msgpack.Decoder(tuple[Transition, ...])


class Page(NamedTuple):
    """Invoices of a shard that are due, and where the next page starts (None: there is none)."""

    invoice_ids: list[str]
    next: dict[str, Any] | None


def shard_of(invoice_id: str) -> int:
    """Which of the index's 64 partitions an invoice is in."""
    return blake2b(invoice_id.encode(), digest_size=1).digest()[0] % SHARDS


class DynamoRecords:
    """The Records port, and what the sweep asks of the table."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        """The newest version: the read is strongly consistent. Its `changes` stay in the table."""
        found = self._client.get_item(
            TableName=self._table,
            Key={"invoice_id": {"S": invoice_id}},
            ConsistentRead=True,
            ProjectionExpression="#record",
            ExpressionAttributeNames={"#record": "record"},
        ).get("Item")
        return None if found is None else _record.decode(found["record"]["B"])

    def save(self, record: InvoiceRecord) -> bool:
        """Write `record` if the stored version is the one before it (0: there is none); False where it is not.

        Where the answer to a write was lost, boto3 writes again and finds its own first try in the way: the item that
        failed the condition is this very record, and so it was saved.
        """
        item = pack_item(record)
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **_condition(record.version - 1),
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            return bool(error.response.get("Item") == item)
        return True

    def due(self, shard: int, now: Instant, limit: int, start: dict[str, Any] | None = None) -> Page:
        """A shard's invoices whose check_at has come, the most overdue first, at most `limit`; maybe a little stale."""
        answer = self._query(shard, start, now, Limit=limit)
        return Page([item["invoice_id"]["S"] for item in answer["Items"]], answer.get("LastEvaluatedKey"))

    def count_due(self, shard: int, now: Instant, limit: int) -> int:
        """How many of a shard are due, up to `limit`."""
        return int(self._query(shard, None, now, Limit=limit, Select="COUNT")["Count"])

    def count_open(self, shard: int) -> int:
        """How many invoices of a shard have a check_at at all. It reads the keys of them all."""
        count, start = 0, None
        while True:
            answer = self._query(shard, start, None, Select="COUNT")
            count += int(answer["Count"])
            start = answer.get("LastEvaluatedKey")
            if not start:
                return count

    def _query(self, shard: int, start: dict[str, Any] | None, now: Instant | None, **more: Any) -> dict[str, Any]:
        condition, values = "check_shard = :shard", {":shard": {"S": f"{shard:02}"}}
        if now is not None:
            condition, values = f"{condition} AND check_at <= :now", {**values, ":now": {"N": str(now)}}
        if start:
            more["ExclusiveStartKey"] = start
        answer: dict[str, Any] = self._client.query(
            TableName=self._table,
            IndexName=INDEX,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            **more,
        )
        return answer


def pack_item(record: InvoiceRecord) -> dict[str, dict[str, Any]]:
    """The table's item of a record."""
    item: dict[str, dict[str, Any]] = {
        "invoice_id": {"S": record.invoice_id},
        "version": {"N": str(record.version)},
        "record": {"B": _pack(structs.replace(record, changes=()))},
        "status": {"S": status_of(record.outcomes)},
    }
    if record.changes:
        item["changes"] = {"B": _pack(record.changes)}
    if record.check_at is not None:
        item["check_shard"] = {"S": f"{shard_of(record.invoice_id):02}"}
        item["check_at"] = {"N": str(record.check_at)}
    return item


def read_changes(image: Mapping[str, Any]) -> tuple[int, tuple[Transition, ...]]:
    """The version and transitions in a stream's NEW_IMAGE, whose binaries Lambda hands over in base64.

    ValueError for an image that is no record's.
    """
    try:
        version = int(image["version"]["N"])
        changes = image["changes"]["B"] if "changes" in image else None
        transitions = () if changes is None else _changes.decode(b64decode(changes, validate=True))
        for transition in transitions:
            instants = (transition.recorded_at, transition.occurred_at, transition.received_at)
            if any(at is not None and not EARLIEST <= at <= LATEST for at in instants):
                raise ValueError(f"no calendar has the instants {instants}")
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"not the image of a record: {error!r}") from error
    return version, transitions


def _condition(version: int) -> dict[str, Any]:
    if version == 0:
        return {"ConditionExpression": "attribute_not_exists(invoice_id)"}
    return {
        "ConditionExpression": "#version = :before",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":before": {"N": str(version)}},
    }

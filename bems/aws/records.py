"""Invoice records in DynamoDB: one item per invoice, with optimistic locking by version.

Attributes of an item:

- `invoice_id` (S): the partition key
- `version` (N)
- `record` (B): the InvoiceRecord without its changes, in MessagePack
- `changes` (B): the transitions of this version in MessagePack, if any; the table's stream carries them to the recorder
- `status` (S): for people who inspect the table
- `check_shard` (S, `00` to `63`) and `check_at` (N, microseconds): keys of the sparse index `checks`, if the record has
  a check_at. Without shards, one partition would take every write to the index and throttle the table at about 1,000
  writes per second.
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
from bems.tracker.transitions import Transition

INDEX = "checks"
SHARDS = 64

_pack = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(InvoiceRecord)
_changes = msgspec.msgpack.Decoder(tuple[Transition, ...])


class DuePage(NamedTuple):
    """A page of due invoices of a shard. `next` is the key to start the next page at, None on the last page."""

    invoice_ids: list[str]
    next: dict[str, Any] | None


def shard_of(invoice_id: str) -> int:
    """Return the shard of an invoice: 0 to 63."""
    return blake2b(invoice_id.encode(), digest_size=1).digest()[0] % SHARDS


class DynamoRecords:
    """The Records port on DynamoDB, and the queries of the sweeper."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def load(self, invoice_id: str) -> InvoiceRecord | None:
        """Return the newest version without its changes, or None. The read is strongly consistent."""
        found = self._client.get_item(
            TableName=self._table,
            Key={"invoice_id": {"S": invoice_id}},
            ConsistentRead=True,
            ProjectionExpression="#record",
            ExpressionAttributeNames={"#record": "record"},
        ).get("Item")
        return None if found is None else _record.decode(found["record"]["B"])

    def save(self, record: InvoiceRecord) -> bool:
        """Write `record` if the stored version is its predecessor, or if none is stored for version 1.

        Returns False if another version is stored. If the response to a write is lost, boto3 repeats the write, and the
        condition fails because of the first attempt: then the stored item equals this record, and the result is True.
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

    def due(self, shard: int, now: Instant, limit: int, start: dict[str, Any] | None = None) -> DuePage:
        """Return at most `limit` invoices of a shard with a check_at until `now`, the earliest first.

        Eventually consistent.
        """
        answer = self._query(shard, start, now, Limit=limit)
        return DuePage([item["invoice_id"]["S"] for item in answer["Items"]], answer.get("LastEvaluatedKey"))

    def count_due(self, shard: int, now: Instant, limit: int) -> int:
        """Return the number of due invoices of a shard, at most `limit`."""
        return int(self._query(shard, None, now, Limit=limit, Select="COUNT")["Count"])

    def count_open(self, shard: int) -> int:
        """Return the number of invoices of a shard with a check_at. Reads all their keys."""
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
    """Return the DynamoDB item of a record."""
    item: dict[str, dict[str, Any]] = {
        "invoice_id": {"S": record.invoice_id},
        "version": {"N": str(record.version)},
        "record": {"B": _pack(structs.replace(record, changes=()))},
        "status": {"S": record.status},
    }
    if record.changes:
        item["changes"] = {"B": _pack(record.changes)}
    if record.check_at is not None:
        item["check_shard"] = {"S": f"{shard_of(record.invoice_id):02}"}
        item["check_at"] = {"N": str(record.check_at)}
    return item


def read_changes(image: Mapping[str, Any]) -> tuple[int, tuple[Transition, ...]]:
    """Return the version and transitions in a NEW_IMAGE of the stream, in which Lambda encodes binaries as base64.

    Raises ValueError if it is not the image of a record.
    """
    try:
        version = int(image["version"]["N"])
        changes = image["changes"]["B"] if "changes" in image else None
        transitions = () if changes is None else _changes.decode(b64decode(changes, validate=True))
        for transition in transitions:
            instants = (transition.recorded_at, transition.occurred_at, transition.received_at)
            if any(at is not None and not EARLIEST <= at <= LATEST for at in instants):
                raise ValueError(f"instants outside the calendar: {instants}")
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

"""Fake DynamoDB for tests in which moto is too slow: one table, with the conditions and the query that are used.

The contract tests of the Records port run on it and on moto.
"""

from __future__ import annotations

from typing import Any

from tests.aws.recorded_calls import Fake, ServiceError

Item = dict[str, dict[str, Any]]


class FakeTable:
    """A table with key invoice_id and the index `checks`."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}

    def fakes(self) -> dict[str, Fake]:
        return {"GetItem": self._get, "PutItem": self._put, "Query": self._query}

    def _get(self, params: dict[str, Any]) -> dict[str, Any]:
        item = self.items.get(params["Key"]["invoice_id"]["S"])
        return {"Item": {"record": item["record"]}} if item else {}

    def _put(self, params: dict[str, Any]) -> dict[str, Any]:
        item = params["Item"]
        known = self.items.get(item["invoice_id"]["S"])
        if params["ConditionExpression"] == "attribute_not_exists(invoice_id)":
            holds = known is None
        else:
            assert params["ConditionExpression"] == "#version = :before"
            holds = known is not None and known["version"] == params["ExpressionAttributeValues"][":before"]
        if not holds:
            raise ServiceError("ConditionalCheckFailedException", 400, **({"Item": known} if known else {}))
        self.items[item["invoice_id"]["S"]] = item
        return {}

    def _query(self, params: dict[str, Any]) -> dict[str, Any]:
        values = params["ExpressionAttributeValues"]
        until = values.get(":now")
        found = sorted(
            (
                item
                for item in self.items.values()
                if item.get("check_shard") == values[":shard"]
                and (until is None or int(item["check_at"]["N"]) <= int(until["N"]))
            ),
            key=lambda item: (int(item["check_at"]["N"]), item["invoice_id"]["S"]),
        )
        keys = [{name: item[name] for name in ("check_shard", "check_at", "invoice_id")} for item in found]
        start = params.get("ExclusiveStartKey")
        if start:
            keys = [key for key in keys if _sort_key(key) > _sort_key(start)]
        limit = params.get("Limit", len(keys) + 1)
        page = keys[:limit]
        more = {"LastEvaluatedKey": page[-1]} if len(keys) > limit else {}
        items = {} if params.get("Select") == "COUNT" else {"Items": page}
        return {"Count": len(page), **items, **more}


def _sort_key(key: Item) -> tuple[int, str]:
    return int(key["check_at"]["N"]), key["invoice_id"]["S"]

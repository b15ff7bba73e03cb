"""AWS calls per invoice: the counts that docs/cost.md multiplies by prices.

`pytest tests/handlers/test_costs.py -s` prints them. One event, message or stream record per invocation is the most
expensive case; batches share calls to buses, queues and the time series.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from bems.tracker.instants import DAY, HOUR, MINUTE
from tests.aws.cloud import Cloud

Scenario = Callable[[Cloud], None]

STAGES = (
    ("ingestion", "received"),
    ("authorization", "approved"),
    ("reconciliation", "matched"),
    ("posting", "posted"),
)


class Cost(NamedTuple):
    """Counts for one invoice.

    `write_units`: one per started kB of each written item. `index_units`: one per entry that a write adds to or removes
    from the index. `read_units`: one per started 4 kB of a consistent read. `stream_records`: writes with transitions;
    the stream's filter drops the others.
    """

    transitions: int
    calls: dict[str, int]
    read_units: int
    write_units: int
    index_units: int
    stream_records: int
    rows: int


def happy(cloud: Cloud) -> None:
    for stage, status in STAGES:
        cloud.send("INV/2026/000123", stage, status, attributes={"po": "4500012345"})
        cloud.now += HOUR


def early(cloud: Cloud) -> None:
    """Events arrive in reverse order: nothing is left to wait for, so no execution starts."""
    for stage, status in reversed(STAGES):
        cloud.send("INV/2026/000123", stage, status, attributes={"po": "4500012345"})
        cloud.now += HOUR


def stuck(cloud: Cloud) -> None:
    """The authorization is late, which raises one alert."""
    for stage, status in STAGES:
        if stage == "authorization":
            cloud.pass_time(3 * DAY + MINUTE, sweeping=False)
        cloud.send("INV/2026/000123", stage, status, attributes={"po": "4500012345"})
        cloud.now += HOUR


def cost(cloud: Cloud, scenario: Scenario) -> Cost:
    scenario(cloud)
    writes = [call.params["Item"] for call in cloud.aws.calls if call.operation == "PutItem"]
    index, before = 0, None
    for item in writes:
        after = item.get("check_at") and (item["check_shard"]["S"], item["check_at"]["N"])
        if after != before:
            index += (before is not None) + (after is not None)
        before = after
    # Each read returns the item written last. A read without a result costs a unit too.
    last, read_units = 0, 0
    for call in cloud.aws.calls:
        if call.operation == "PutItem":
            last = size(call.params["Item"])
        elif call.operation == "GetItem":
            read_units += max(1, -(-last // 4096))
    entered = [state for states in cloud.machine.entered.values() for state in states]
    return Cost(
        transitions=len(entered),
        calls=dict(Counter(call.operation for call in cloud.aws.calls)),
        read_units=read_units,
        write_units=sum(max(1, -(-size(item) // 1024)) for item in writes),
        index_units=index,
        stream_records=sum("changes" in item for item in writes),
        rows=len(cloud.rows),
    )


def size(item: dict[str, dict[str, Any]]) -> int:
    """Return the size of an item as DynamoDB counts it (developer guide, "Item sizes and formats")."""
    total = 0
    for attribute, typed in item.items():
        ((kind, value),) = typed.items()
        total += len(attribute) + (-(-len(value) // 2) + 1 if kind == "N" else len(value))
    return total


SCENARIOS: dict[str, tuple[Scenario, Cost]] = {
    "happy path": (
        happy,
        Cost(
            transitions=4,
            calls={
                "PutEvents": 4,
                "GetItem": 7,
                "PutItem": 11,
                "StartExecution": 1,
                "SendTaskSuccess": 3,
                "WriteRecords": 4,
            },
            read_units=7,
            write_units=20,
            index_units=14,
            stream_records=4,
            rows=4,
        ),
    ),
    "one alert": (
        stuck,
        Cost(
            transitions=7,
            calls={
                "PutEvents": 4,
                "GetItem": 9,
                "PutItem": 14,
                "StartExecution": 1,
                "SendTaskSuccess": 3,
                "Publish": 2,
                "WriteRecords": 5,
            },
            read_units=9,
            write_units=25,
            index_units=16,
            stream_records=5,
            rows=5,
        ),
    ),
    "every event early": (
        early,
        Cost(
            transitions=0,
            calls={"PutEvents": 4, "GetItem": 4, "PutItem": 4, "WriteRecords": 4},
            read_units=4,
            write_units=8,
            index_units=2,
            stream_records=4,
            rows=4,
        ),
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_calls_of_an_invoice(cloud: Cloud, scenario: str) -> None:
    run, expected = SCENARIOS[scenario]
    cloud.replace_moto()
    # The first call of the Timestream client also discovers its endpoint.
    run(cloud)
    cloud.reset()
    counted = cost(cloud, run)
    print(f"\n{scenario}: {json.dumps(counted._asdict(), indent=2)}")
    assert counted == expected


def test_moto_gives_the_same_counts(cloud: Cloud) -> None:
    """The happy path on moto's DynamoDB, EventBridge and Timestream instead of fakes."""
    happy(cloud)
    cloud.reset()
    counted = cost(cloud, happy)
    assert counted == SCENARIOS["happy path"][1]
    assert cloud.states("INV/2026/000123") == ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]


def test_a_duplicate_event_costs_one_read(cloud: Cloud) -> None:
    cloud.replace_moto()
    happy(cloud)
    cloud.aws.calls.clear()
    cloud.send("INV/2026/000123", "posting", "posted", attributes={"po": "4500012345"})
    assert [call.operation for call in cloud.aws.calls] == ["PutEvents", "GetItem"]

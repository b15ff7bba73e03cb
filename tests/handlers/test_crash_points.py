"""Crash points: killing a function after any of its calls and invoking it again does not change the outcome.

The outcome is the record, the answers to executions, the alerts, the transitions and the unreadable records.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from bems.tracker.actions import execution_name
from bems.tracker.instants import DAY, HOUR, MINUTE
from bems.tracker.status import status_of
from tests.aws.cloud import Cloud

Scenario = Callable[[Cloud, str], None]


def posted(cloud: Cloud, id: str) -> None:
    for stage, status in (("ingestion", "received"), ("authorization", "approved"), ("reconciliation", "matched")):
        cloud.send(id, stage, status)
    cloud.send(id, "posting", "posted")


def stuck_and_rejected(cloud: Cloud, id: str) -> None:
    cloud.send(id, "ingestion", "received")
    cloud.pass_time(4 * DAY + HOUR)
    cloud.send(id, "authorization", "rejected")


def given_up(cloud: Cloud, id: str) -> None:
    cloud.send(id, "ingestion", "received")
    cloud.pass_time(6 * DAY)


def disputed(cloud: Cloud, id: str) -> None:
    for stage, status in (("ingestion", "received"), ("authorization", "approved"), ("reconciliation", "mismatched")):
        cloud.send(id, stage, status)
    cloud.send(id, "reconciliation", "matched", occurred_at="2026-03-02T08:30:00Z")
    cloud.send(id, "posting", "failed")
    cloud.send(id, "posting", "posted", occurred_at="2026-03-02T08:30:00Z")


def orphan(cloud: Cloud, id: str) -> None:
    cloud.send(id, "authorization", "approved")
    cloud.pass_time(3 * DAY + HOUR)
    cloud.send(id, "ingestion", "received")
    cloud.send(id, "ingestion", "cancelled", occurred_at="2026-03-02T08:30:00Z")


def aborted(cloud: Cloud, id: str) -> None:
    cloud.send(id, "ingestion", "received")
    cloud.sweep(cloud.machine.abort(execution_name(id, 1)))
    cloud.pass_time(MINUTE)
    cloud.send(id, "authorization", "rejected")


def vanished(cloud: Cloud, id: str) -> None:
    """The execution is stopped and the event about it is lost; the sweep detects it by its missed check."""
    cloud.send(id, "ingestion", "received")
    cloud.machine.abort(execution_name(id, 1))
    cloud.pass_time(3 * DAY + HOUR)
    cloud.send(id, "authorization", "rejected")


def unreadable(cloud: Cloud, id: str) -> None:
    """The stream has an unreadable record of another release before those of an approval."""
    cloud.send(id, "ingestion", "received")
    cloud.stream.append(cloud.image({"invoice_id": {"S": id}, "version": {"N": "2"}, "changes": {"B": b"\xc1"}}))
    cloud.send(id, "authorization", "approved")


SCENARIOS: dict[str, tuple[Scenario, set[str]]] = {
    "posted": (posted, {"PutEvents", "GetItem", "PutItem", "StartExecution", "SendTaskSuccess", "WriteRecords"}),
    "stuck": (stuck_and_rejected, {"Publish", "SendTaskFailure"}),
    "given up": (given_up, {"Publish"}),
    "disputed": (disputed, {"Publish", "SendTaskFailure", "SendTaskSuccess"}),
    "orphan": (orphan, {"Query", "Publish", "StartExecution", "SendTaskFailure"}),
    "aborted": (aborted, {"StartExecution", "SendTaskFailure"}),
    "vanished": (vanished, {"Query", "Publish", "StartExecution"}),
    "unreadable": (unreadable, {"SendMessage", "WriteRecords"}),
}


def read_outcome(cloud: Cloud, id: str) -> dict[str, Any]:
    """Return the outcome without ids and instants, which a retry may change."""
    record = cloud.record(id)
    alerts = Counter({one["id"]: 1 for one in cloud.alerts})
    return {
        "status": status_of(record.outcomes),
        "outcomes": sorted((stage, one.status, one.event_id) for stage, one in record.outcomes.items()),
        "seen": sorted(event_id for event_id, _ in record.recent_event_ids),
        "mark": record.mark,
        "wait": record.wait and (record.wait.stage, record.wait.step),
        "run": (record.run.number, record.run.state),
        "pending": record.pending,
        "answers": cloud.machine.answered,
        "states": dict(cloud.machine.entered),
        "alerts": sorted((one["kind"], one["stage"], one["step"]) for one in unique(cloud.alerts, "id")),
        "alert ids": len(alerts),
        "transitions": sorted(
            (one["kind"], one["stage"], one["to_status"], one.get("outcome", ""), one.get("step", ""))
            for one in unique(cloud.rows, "transition_id")
        ),
        "unrecorded": len({message["Records"][0]["eventID"] for message in cloud.unrecorded}),
        "letters": cloud.dead_letters,
    }


def unique(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return list({row[key]: row for row in rows}.values())


def run_scenario(cloud: Cloud, scenario: Scenario, id: str, kills: list[int]) -> dict[str, Any]:
    cloud.reset()
    cloud.aws.kill_after += kills
    scenario(cloud, id)
    cloud.pass_time(10 * MINUTE)
    outcome = read_outcome(cloud, id)
    return {name: replace_ids(value, id) for name, value in outcome.items()}


def replace_ids(value: Any, id: str) -> str:
    return repr(value).replace(execution_name(id, 1), "run 1").replace(execution_name(id, 2), "run 2").replace(id, "ID")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_after_any_call_does_not_change_the_outcome(cloud: Cloud, name: str) -> None:
    scenario, expected_calls = SCENARIOS[name]
    cloud.replace_moto()
    # The first call of the Timestream client also discovers its endpoint.
    run_scenario(cloud, posted, "INV-0", [])
    expected = run_scenario(cloud, scenario, "INV-0", [])
    operations = [call.operation for call in cloud.aws.calls]
    assert expected_calls <= set(operations)
    assert "pending" in expected and expected["pending"] == "()"
    # A sweep queries 64 shards twice: test only one kill between queries per sweep.
    points = [n + 1 for n, operation in enumerate(operations) if operation != "Query" or operations[n - 1] != "Query"]
    print(f"{name}: {len(operations)} calls, {len(points)} points")
    for n in points:
        outcome = run_scenario(cloud, scenario, f"INV-{n}", [n])
        assert cloud.aws.kill_after == [], f"the function was not killed after call {n}"
        assert outcome == expected, f"killed after call {n}, {operations[n - 1]}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_repeated_kills_do_not_change_the_outcome(cloud: Cloud, name: str) -> None:
    scenario, _ = SCENARIOS[name]
    cloud.replace_moto()
    expected = run_scenario(cloud, scenario, "INV-0", [])
    generator = random.Random(name)
    for attempt in range(4):
        kills = [generator.randint(1, 6) for _ in range(6)]
        assert run_scenario(cloud, scenario, f"INV-{attempt}", list(kills)) == expected, f"killed after {kills} calls"

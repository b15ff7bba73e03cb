"""The sweeper: due invoices are checked, a failure does not block others, and the sweep ends in time."""

from typing import Any

import pytest

from bems.aws.clients import client
from bems.aws.records import DynamoRecords
from bems.tracker.actions import StartExecution, execution_name
from bems.tracker.contract import STAGES
from bems.tracker.decisions import on_event
from bems.tracker.instants import DAY, HOUR, MINUTE
from handlers import sweeper
from tests.aws.cloud import TABLE, Cloud, event_body
from tests.aws.recorded_calls import Context, ServiceError
from tests.handlers.emf import read_output
from tests.tracker.samples import POLICY, event


def orphans(cloud: Cloud, count: int) -> list[str]:
    """Save invoices whose first alert was due an hour ago. Returns their ids."""
    records = DynamoRecords(client("dynamodb"), TABLE)
    ids = [f"INV-{n:04}" for n in range(count)]
    for id in ids:
        decided = on_event(None, event("posting", "posted", invoice_id=id), POLICY, cloud.now - 3 * DAY - HOUR).record
        assert decided and records.save(decided)
    cloud.stream.clear()
    cloud.aws.calls.clear()
    return ids


@pytest.fixture
def fast_cloud(cloud: Cloud) -> Cloud:
    cloud.replace_moto()
    return cloud


def test_due_invoices_get_their_alerts(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """On moto's index."""
    ids = orphans(cloud, 5)
    assert cloud.sweep() == {"done": 5, "failed": 0, "left": 0}
    assert sorted(alert["invoice_id"] for alert in cloud.alerts) == ids
    metrics = read_output(capsys).metrics
    # A stage without events has a zero.
    assert [metrics.pop(("EventsAccepted", "test", stage)) for stage in STAGES] == [[0.0]] * 4
    assert metrics == {
        ("AlertsRaised", "test", "ingestion", "warning"): [5.0],
        ("SweepBacklog", "test"): [0.0],
        ("SweepFailed", "test"): [0.0],
        ("OpenExecutions", "test"): [5.0],
        ("SweepCompleted", "test"): [1.0],
    }
    assert cloud.sweep() == {"done": 0, "failed": 0, "left": 0}
    assert len(cloud.alerts) == 5


def test_a_sweep_reads_all_pages(fast_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "PAGE_SIZE", 2)
    orphans(fast_cloud, 200)
    assert fast_cloud.sweep() == {"done": 200, "failed": 0, "left": 0}
    assert len(fast_cloud.alerts) == 200


def test_a_sweep_ends_in_time_and_reports_the_backlog(fast_cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    orphans(fast_cloud, 150)
    context = Context()
    publish = fast_cloud.aws.fakes["Publish"]

    def slow(params: dict[str, Any]) -> dict[str, Any]:
        context.milliseconds -= 900
        return publish(params)

    fast_cloud.aws.fakes["Publish"] = slow
    first = sweeper.handler({"source": "aws.events"}, context)
    assert (first["done"], first["left"]) == (51, 99)
    assert context.milliseconds > 0
    metrics = read_output(capsys).metrics
    assert (metrics["SweepBacklog", "test"], metrics["SweepCompleted", "test"]) == ([99.0], [1.0])
    context.milliseconds = 200_000
    assert sweeper.handler({"source": "aws.events"}, context)["done"] == 99
    assert len({alert["id"] for alert in fast_cloud.alerts}) == len(fast_cloud.alerts) == 150


def test_a_sweep_stops_at_its_maximum(fast_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "MAX_INVOICES", 10)
    orphans(fast_cloud, 30)
    assert fast_cloud.sweep() == {"done": 10, "failed": 0, "left": 20}


def test_an_invoice_that_fails_does_not_block_others(fast_cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    orphans(fast_cloud, 20)
    publish = fast_cloud.aws.fakes["Publish"]

    def refuse(params: dict[str, Any]) -> dict[str, Any]:
        if "INV-0007" in params["Subject"]:
            raise ServiceError("KMSAccessDenied")
        return publish(params)

    fast_cloud.aws.fakes["Publish"] = refuse
    assert fast_cloud.sweep() == {"done": 19, "failed": 1, "left": 0}
    shown = read_output(capsys)
    assert shown.metrics["SweepFailed", "test"] == [1.0]
    assert [line["invoice_id"] for line in shown.logs if line["level"] == "ERROR"] == ["INV-0007"]
    # The next sweep after the grace period retries the pending action, and raises the alert with the same id.
    assert fast_cloud.record("INV-0007").pending
    fast_cloud.aws.fakes["Publish"] = publish
    fast_cloud.now += 6 * MINUTE
    assert fast_cloud.sweep()["done"] == 1
    assert len({alert["id"] for alert in fast_cloud.alerts}) == 20


def test_each_minute_starts_at_another_shard(fast_cloud: Cloud) -> None:
    firsts = []
    for _ in range(3):
        fast_cloud.now += MINUTE
        fast_cloud.aws.calls.clear()
        fast_cloud.sweep()
        asked = [int(call.params["ExpressionAttributeValues"][":shard"]["S"]) for call in fast_cloud.aws.calls]
        assert sorted(asked[:64]) == list(range(64))
        firsts.append(asked[0])
    assert [(later - firsts[0]) % 64 for later in firsts] == [0, 1, 2]


# -- counting


def test_the_count_of_a_large_cell_is_extrapolated(fast_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "SAMPLE_TARGET", 120)
    orphans(fast_cloud, 400)
    counted = sweeper.count_open(sweeper.dependencies().invoices, lambda: 60_000)
    assert counted is not None and counted == pytest.approx(400, rel=0.2)
    asked = [call for call in fast_cloud.aws.calls if call.operation == "Query"]
    assert 15 < len(asked) < 24
    assert sweeper.count_open(sweeper.dependencies().invoices, lambda: 0) is None


# -- executions that ended


def test_a_stopped_execution_is_replaced(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    assert cloud.sweep(notice) == {"done": 1}
    cloud.settle()
    assert cloud.record("A").run.number == 2
    assert cloud.states("A", 2) == ["AwaitAuthorization"]
    # The event may be delivered twice and late.
    assert cloud.sweep(notice) == {"done": 1}
    assert cloud.record("A").run.number == 2


@pytest.mark.parametrize("given", [None, ""])
def test_a_missing_input_is_read_from_the_execution(cloud: Cloud, given: str | None) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    notice["detail"]["input"] = given
    notice["detail"]["inputDetails"] = {"included": False}
    assert cloud.sweep(notice) == {"done": 1}
    assert cloud.record("A").run.number == 2


def test_other_status_events_change_nothing(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    read_output(capsys)
    assert cloud.sweep({**notice, "detail": {**notice["detail"], "status": "SUCCEEDED"}}) == {"done": 0}
    for strange in ('{"x": 1}', "[]", "x"):
        assert cloud.sweep({**notice, "detail": {**notice["detail"], "input": strange}}) == {"done": 0}
    assert cloud.record("A").run.number == 1
    assert read_output(capsys).levels() == ["ERROR"] * 3


def test_a_failure_is_raised_so_that_lambda_retries(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("ThrottlingException")

    cloud.aws.fakes["StartExecution"] = refuse
    with pytest.raises(Exception, match="ThrottlingException"):
        cloud.sweep(notice)


def test_an_unreadable_record_does_not_block_others(cloud: Cloud) -> None:
    ids = orphans(cloud, 3)
    with cloud.aws.unrecorded():
        dynamodb = client("dynamodb")
        item = dynamodb.get_item(TableName=TABLE, Key={"invoice_id": {"S": ids[1]}})["Item"]
        dynamodb.put_item(TableName=TABLE, Item={**item, "record": {"B": b"?"}})
    assert cloud.sweep() == {"done": 2, "failed": 1, "left": 0}


def test_a_stale_index_entry_causes_one_read_and_no_write(fast_cloud: Cloud) -> None:
    """The index lags behind the table, so it may still list an invoice that was just swept."""
    (id,) = orphans(fast_cloud, 1)
    stale = dict(fast_cloud.table.items)
    fast_cloud.sweep()
    written = fast_cloud.record(id)
    current, fast_cloud.table.items = fast_cloud.table.items, stale
    get, query = fast_cloud.aws.fakes["GetItem"], fast_cloud.aws.fakes["Query"]
    fast_cloud.aws.fakes["GetItem"] = lambda _: {"Item": {"record": current[id]["record"]}}
    fast_cloud.aws.calls.clear()
    assert fast_cloud.sweep() == {"done": 1, "failed": 0, "left": 0}
    assert {call.operation for call in fast_cloud.aws.calls} == {"Query", "GetItem"}
    fast_cloud.aws.fakes |= {"GetItem": get, "Query": query}
    assert fast_cloud.record(id) == written


@pytest.mark.parametrize("error", ["AccessDeniedException", "ExecutionLimitExceeded", "StateMachineDoesNotExist"])
def test_with_starts_refused_for_days_every_alert_is_published_once(fast_cloud: Cloud, error: str) -> None:
    start = fast_cloud.aws.fakes["StartExecution"]

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError(error)

    fast_cloud.aws.fakes["StartExecution"] = refuse
    fast_cloud.post("ingestion", event_body("INV/1", "received", "e1"))
    for _ in range(10):
        fast_cloud.deliver()
    assert len(fast_cloud.dead_letters) == 1
    until = fast_cloud.now + 4 * DAY + HOUR
    while fast_cloud.now < until:
        fast_cloud.now += 3 * HOUR
        fast_cloud.sweep()
    assert [alert["step"] for alert in fast_cloud.alerts] == [1, 2]
    assert len({alert["id"] for alert in fast_cloud.alerts}) == 2
    record = fast_cloud.record("INV/1")
    assert [action.name for action in record.pending if isinstance(action, StartExecution)] == [
        execution_name("INV/1", 1)
    ]
    fast_cloud.aws.fakes["StartExecution"] = start
    fast_cloud.now += 10 * MINUTE
    fast_cloud.sweep()
    fast_cloud.settle()
    assert fast_cloud.record("INV/1").pending == ()
    assert fast_cloud.states("INV/1")

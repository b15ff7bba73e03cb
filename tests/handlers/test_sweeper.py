"""The sweeper: what is due is looked after, what fails keeps nobody waiting, and the sweep ends in time."""

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
from tests.aws.recorded_calls import Context, Refused
from tests.handlers.emf import printed
from tests.tracker.samples import POLICY, event


def orphans(cloud: Cloud, count: int) -> list[str]:
    """Invoices whose first alert was due an hour ago."""
    records = DynamoRecords(client("dynamodb"), TABLE)
    ids = [f"INV-{n:04}" for n in range(count)]
    for id in ids:
        decided = on_event(None, event("posting", "posted", invoice_id=id), POLICY, cloud.now - 3 * DAY - HOUR).record
        assert decided and records.save(decided)
    cloud.stream.clear()
    cloud.wire.calls.clear()
    return ids


@pytest.fixture
def quick(cloud: Cloud) -> Cloud:
    cloud.hurry()
    return cloud


def test_what_is_due_gets_its_alert(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """Over moto's index."""
    ids = orphans(cloud, 5)
    assert cloud.sweep() == {"done": 5, "failed": 0, "left": 0}
    assert sorted(alert["invoice_id"] for alert in cloud.alerts) == ids
    metrics = printed(capsys).metrics
    # A stage that is silent has a number too.
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


def test_a_sweep_goes_from_page_to_page(quick: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "PAGE", 2)
    orphans(quick, 200)
    assert quick.sweep() == {"done": 200, "failed": 0, "left": 0}
    assert len(quick.alerts) == 200


def test_a_sweep_ends_in_time_and_says_what_it_left(quick: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    orphans(quick, 150)
    context = Context()
    publish = quick.wire.fakes["Publish"]

    def slow(params: dict[str, Any]) -> dict[str, Any]:
        context.milliseconds -= 900
        return publish(params)

    quick.wire.fakes["Publish"] = slow
    first = sweeper.handler({"source": "aws.events"}, context)
    assert (first["done"], first["left"]) == (51, 99)
    assert context.milliseconds > 0
    metrics = printed(capsys).metrics
    assert (metrics["SweepBacklog", "test"], metrics["SweepCompleted", "test"]) == ([99.0], [1.0])
    context.milliseconds = 200_000
    assert sweeper.handler({"source": "aws.events"}, context)["done"] == 99
    assert len({alert["id"] for alert in quick.alerts}) == len(quick.alerts) == 150


def test_a_sweep_takes_no_more_than_its_most(quick: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "MAX_INVOICES", 10)
    orphans(quick, 30)
    assert quick.sweep() == {"done": 10, "failed": 0, "left": 20}


def test_who_cannot_be_swept_keeps_nobody_waiting(quick: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    orphans(quick, 20)
    publish = quick.wire.fakes["Publish"]

    def refuse(params: dict[str, Any]) -> dict[str, Any]:
        if "INV-0007" in params["Subject"]:
            raise Refused("KMSAccessDenied")
        return publish(params)

    quick.wire.fakes["Publish"] = refuse
    assert quick.sweep() == {"done": 19, "failed": 1, "left": 0}
    shown = printed(capsys)
    assert shown.metrics["SweepFailed", "test"] == [1.0]
    assert [line["invoice_id"] for line in shown.logs if line["level"] == "ERROR"] == ["INV-0007"]
    # What it has pending is looked at again after the grace, and the alert comes after all, with its id.
    assert quick.record("INV-0007").pending
    quick.wire.fakes["Publish"] = publish
    quick.now += 6 * MINUTE
    assert quick.sweep()["done"] == 1
    assert len({alert["id"] for alert in quick.alerts}) == 20


def test_each_minute_begins_with_another_shard(quick: Cloud) -> None:
    firsts = []
    for _ in range(3):
        quick.now += MINUTE
        quick.wire.calls.clear()
        quick.sweep()
        asked = [int(call.params["ExpressionAttributeValues"][":shard"]["S"]) for call in quick.wire.calls]
        assert sorted(asked[:64]) == list(range(64))
        firsts.append(asked[0])
    assert [(later - firsts[0]) % 64 for later in firsts] == [0, 1, 2]


# -- counting


def test_a_large_cell_is_counted_by_some_of_its_shards(quick: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "SAMPLE_TARGET", 120)
    orphans(quick, 400)
    counted = sweeper.count_open(sweeper.dependencies().invoices, lambda: 60_000)
    assert counted is not None and counted == pytest.approx(400, rel=0.2)
    asked = [call for call in quick.wire.calls if call.operation == "Query"]
    assert 15 < len(asked) < 24
    assert sweeper.count_open(sweeper.dependencies().invoices, lambda: 0) is None


# -- executions that ended


def test_a_run_that_ended_by_itself_is_replaced(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    assert cloud.sweep(notice) == {"done": 1}
    cloud.settle()
    assert cloud.record("A").run.number == 2
    assert cloud.states("A", 2) == ["AwaitAuthorization"]
    # The notice may come twice, and late.
    assert cloud.sweep(notice) == {"done": 1}
    assert cloud.record("A").run.number == 2


@pytest.mark.parametrize("given", [None, ""])
def test_a_notice_without_input_is_looked_up(cloud: Cloud, given: str | None) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    notice["detail"]["input"] = given
    notice["detail"]["inputDetails"] = {"included": False}
    assert cloud.sweep(notice) == {"done": 1}
    assert cloud.record("A").run.number == 2


def test_other_notices_change_nothing(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))
    printed(capsys)
    assert cloud.sweep({**notice, "detail": {**notice["detail"], "status": "SUCCEEDED"}}) == {"done": 0}
    for strange in ('{"x": 1}', "[]", "x"):
        assert cloud.sweep({**notice, "detail": {**notice["detail"], "input": strange}}) == {"done": 0}
    assert cloud.record("A").run.number == 1
    assert printed(capsys).levels() == ["ERROR"] * 3


def test_a_notice_that_cannot_be_acted_on_is_delivered_again(cloud: Cloud) -> None:
    cloud.send("A", "ingestion", "received")
    notice = cloud.machine.abort(execution_name("A", 1))

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise Refused("ThrottlingException")

    cloud.wire.fakes["StartExecution"] = refuse
    with pytest.raises(Exception, match="ThrottlingException"):
        cloud.sweep(notice)


def test_a_record_that_cannot_be_read_keeps_nobody_waiting(cloud: Cloud) -> None:
    ids = orphans(cloud, 3)
    with cloud.wire.unseen():
        dynamodb = client("dynamodb")
        item = dynamodb.get_item(TableName=TABLE, Key={"invoice_id": {"S": ids[1]}})["Item"]
        dynamodb.put_item(TableName=TABLE, Item={**item, "record": {"B": b"?"}})
    assert cloud.sweep() == {"done": 2, "failed": 1, "left": 0}


def test_a_stale_index_costs_a_look_and_no_more(quick: Cloud) -> None:
    """The index lags behind the table: an invoice that was just answered may still be listed."""
    (id,) = orphans(quick, 1)
    stale = dict(quick.table.items)
    quick.sweep()
    written = quick.record(id)
    current, quick.table.items = quick.table.items, stale
    get, query = quick.wire.fakes["GetItem"], quick.wire.fakes["Query"]
    quick.wire.fakes["GetItem"] = lambda _: {"Item": {"record": current[id]["record"]}}
    quick.wire.calls.clear()
    assert quick.sweep() == {"done": 1, "failed": 0, "left": 0}
    assert {call.operation for call in quick.wire.calls} == {"Query", "GetItem"}
    quick.wire.fakes |= {"GetItem": get, "Query": query}
    assert quick.record(id) == written


@pytest.mark.parametrize("error", ["AccessDeniedException", "ExecutionLimitExceeded", "StateMachineDoesNotExist"])
def test_with_starts_refused_for_days_every_alert_is_published_once(quick: Cloud, error: str) -> None:
    start = quick.wire.fakes["StartExecution"]

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise Refused(error)

    quick.wire.fakes["StartExecution"] = refuse
    quick.post("ingestion", event_body("INV/1", "received", "e1"))
    for _ in range(10):
        quick.deliver()
    assert len(quick.letters) == 1
    until = quick.now + 4 * DAY + HOUR
    while quick.now < until:
        quick.now += 3 * HOUR
        quick.sweep()
    assert [alert["step"] for alert in quick.alerts] == [1, 2]
    assert len({alert["id"] for alert in quick.alerts}) == 2
    record = quick.record("INV/1")
    assert [action.name for action in record.pending if isinstance(action, StartExecution)] == [
        execution_name("INV/1", 1)
    ]
    quick.wire.fakes["StartExecution"] = start
    quick.now += 10 * MINUTE
    quick.sweep()
    quick.settle()
    assert quick.record("INV/1").pending == ()
    assert quick.states("INV/1")

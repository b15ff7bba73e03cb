"""The sweep: what no execution's timer does. The emulator knows no TimeoutSecondsPath, so here that is every alert.

The sweeper is called by its own schedule, every minute, and by the rule for executions that end by themselves.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bems.tracker.instants import SECOND
from bems.tracker.record import Run
from bems.tracker.record_builder import GRACE_PERIOD, MAX_SILENCE
from tests.e2e.cell import DeployedCell, Execution
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_lines

pytestmark = pytest.mark.e2e


@pytest.fixture
def alerts(cell: DeployedCell) -> Iterator[str]:
    """The URL of a queue that hears what the warning topic says."""
    url = cell.sqs.create_queue(QueueName="heard")["QueueUrl"]
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    topics = cell.emulator.client("sns")
    subscribed = topics.subscribe(
        TopicArn=cell.outputs["WarningTopicArn"],
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
        ReturnSubscriptionArn=True,
    )
    yield url
    topics.unsubscribe(SubscriptionArn=subscribed["SubscriptionArn"])
    cell.sqs.delete_queue(QueueUrl=url)


def test_an_execution_that_is_stopped_is_replaced_at_once(cell: DeployedCell) -> None:
    plan = clean_scenario(2020)
    first, *rest = event_lines(plan)
    cell.send(first)
    wait_until("it waits", lambda: waits(cell, plan.invoice_id, 1))
    arn = cell.execution_arn(plan.invoice_id, 1)
    cell.states.stop_execution(executionArn=arn, error="Operator", cause="a mistake")
    wait_until("another run waits", lambda: waits(cell, plan.invoice_id, 2), 90)
    for line in rest:
        cell.send(line)
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1).status == "ABORTED"
    assert cell.wait_for_end(plan.invoice_id, 2).states[-1] == "Posted"


def test_a_stuck_invoice_is_alerted_by_the_sweep(cell: DeployedCell, alerts: str) -> None:
    """Three business days and the five minutes that a run has to ask pass in a moment; then the time after which one
    that stays silent is replaced."""
    plan = clean_scenario(2021)
    first, *rest = event_lines(plan)
    cell.send(first)
    wait_until("it waits", lambda: waits(cell, plan.invoice_id, 1))
    record = cell.record(plan.invoice_id)
    assert record is not None and record.wait is not None
    cell.advance_clock_to(record.wait.due + GRACE_PERIOD + SECOND)
    heard = wait_until("the alert is heard", lambda: told_of(cell, alerts, plan.invoice_id), 90)
    assert (heard["kind"], heard["stage"], heard["severity"], heard["step"]) == ("stuck", "authorization", "warning", 1)
    silent = wait_until("the sweep waits for a word of the run", lambda: silent_run(cell, plan.invoice_id))
    assert silent.number == 1, "it is left, for it may only be late"
    cell.advance_clock_to(silent.silent_since + MAX_SILENCE + SECOND)
    wait_until("another run waits", lambda: waits(cell, plan.invoice_id, 2), 90)
    for line in rest:
        cell.send(line)
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution("SUCCEEDED", ["AwaitAuthorization", "Superseded"])
    assert cell.wait_for_end(plan.invoice_id, 2).states[-1] == "Posted"
    wait_until("the alert is in the series", lambda: in_series(cell, plan.invoice_id))


def waits(cell: DeployedCell, invoice_id: str, run: int) -> bool:
    record = cell.record(invoice_id)
    return record is not None and record.run.number == run and record.run.token is not None and not record.pending


def silent_run(cell: DeployedCell, invoice_id: str) -> Run | None:
    record = cell.record(invoice_id)
    return record.run if record is not None and record.run.silent_since and not record.pending else None


def told_of(cell: DeployedCell, url: str, invoice_id: str) -> dict[str, Any] | None:
    for message in cell.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        alert: dict[str, Any] = json.loads(message["Body"])
        if alert["invoice_id"] == invoice_id:
            return alert
    return None


def in_series(cell: DeployedCell, invoice_id: str) -> bool:
    return any(row["kind"] == "alert" and row["invoice_id"] == invoice_id for row in cell.rows())

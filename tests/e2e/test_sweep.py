"""End-to-end tests of the sweep, which does what no execution's timer has done.

The emulator does not support TimeoutSecondsPath, so here the sweep raises every alert. The sweeper is invoked by its
schedule, every minute, and by the rule for executions that end without success.
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
    """Subscribe a queue to the topic of warnings, and return its URL."""
    url = cell.sqs.create_queue(QueueName="warnings")["QueueUrl"]
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    topics = cell.emulator.client("sns")
    subscription = topics.subscribe(
        TopicArn=cell.outputs["WarningTopicArn"],
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
        ReturnSubscriptionArn=True,
    )
    yield url
    topics.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
    cell.sqs.delete_queue(QueueUrl=url)


def test_a_stopped_execution_is_replaced_at_once(cell: DeployedCell) -> None:
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


def test_the_sweep_raises_the_alert_of_a_stuck_invoice_and_replaces_a_silent_run(
    cell: DeployedCell, alerts: str
) -> None:
    """Advances the clock by three business days and the five minutes in which a run may raise the alert itself, then by
    the time after which a silent run is replaced."""
    plan = clean_scenario(2021)
    first, *rest = event_lines(plan)
    cell.send(first)
    wait_until("it waits", lambda: waits(cell, plan.invoice_id, 1))
    record = cell.record(plan.invoice_id)
    assert record is not None and record.wait is not None
    cell.advance_clock_to(record.wait.due + GRACE_PERIOD + SECOND)
    alert = wait_until("the alert is received", lambda: receive_alert(cell, alerts, plan.invoice_id), 90)
    assert (alert["kind"], alert["stage"], alert["severity"], alert["step"]) == ("stuck", "authorization", "warning", 1)
    silent = wait_until("the run is marked as silent", lambda: silent_run(cell, plan.invoice_id))
    assert silent.number == 1, "the run is not replaced yet, because it may only be late"
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


def receive_alert(cell: DeployedCell, url: str, invoice_id: str) -> dict[str, Any] | None:
    for message in cell.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        alert: dict[str, Any] = json.loads(message["Body"])
        if alert["invoice_id"] == invoice_id:
            return alert
    return None


def in_series(cell: DeployedCell, invoice_id: str) -> bool:
    return any(row["kind"] == "alert" and row["invoice_id"] == invoice_id for row in cell.rows())

"""End-to-end tests of dead letters: conflicts, and messages that are redriven after the cause is fixed."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bems.tracker.contract import Stage
from tests.e2e.cell import DeployedCell, Execution
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_line, event_lines

pytestmark = pytest.mark.e2e


def test_a_conflicting_event_becomes_a_dead_letter_and_changes_nothing(cell: DeployedCell) -> None:
    """A conflict is an event with the id of another event but different content."""
    plan = clean_scenario(2010)
    for line in event_lines(plan)[:2]:
        cell.send(line)
    cell.wait_for_status(plan.invoice_id, "AwaitingReconciliation")
    cell.send(event_line(plan, 1, "conflict"))
    (letter,) = wait_until("it is a dead letter", lambda: receive(cell, cell.dead_letters("authorization")), 90)
    conflict = json.loads(event_line(plan, 1, "conflict"))["event"]
    assert json.loads(letter["Body"])["detail"]["event"]["event_id"] == conflict["event_id"]
    for line in event_lines(plan)[2:]:
        cell.send(line)
    record = cell.wait_for_status(plan.invoice_id, "Posted")
    assert format(record.facts.amount, "f") != conflict["amount"]
    delete(cell, cell.dead_letters("authorization"), letter)


def test_a_message_that_failed_on_a_damaged_record_is_redriven_after_the_repair(cell: DeployedCell) -> None:
    """The next event of an invoice with a damaged record fails at every attempt and becomes a dead letter. After the
    record is repaired, the same message is moved back to its queue and processed once."""
    plan, other = clean_scenario(2012), clean_scenario(2013)
    first, second, *rest = event_lines(plan)
    queue = cell.dead_letters("authorization")
    cell.send(first)
    wait_until("its execution waits", lambda: registered(cell, plan.invoice_id))
    with max_receives(cell, "authorization", 2), damaged_record(cell, plan.invoice_id):
        cell.send(second)
        (letter,) = wait_until("it is a dead letter", lambda: peek(cell, queue), 90)
        failed_event = json.loads(letter["Body"])["detail"]["event"]
        assert failed_event["event_id"] == json.loads(second)["event"]["event_id"]
        wait_until("the alarm would go off", lambda: is_in_alarm(cell, "authorization-dead-letters"))
        for line in event_lines(other):
            cell.send(line)
        cell.wait_for_status(other.invoice_id, "Posted")
    # The record is repaired, but the dead letter stays until it is redriven.
    assert message_count(cell, queue) == 1
    assert cell.status(plan.invoice_id) == "AwaitingAuthorization"
    assert redrive(cell, "authorization") == [letter["Body"]]
    record = cell.wait_for_status(plan.invoice_id, "AwaitingReconciliation")
    assert record.outcomes["authorization"].event_id == failed_event["event_id"]
    for line in rest:
        cell.send(line)
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution(
        "SUCCEEDED", ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
    )
    assert message_count(cell, queue) == 0
    sent = {json.loads(line)["event"]["event_id"] for line in event_lines(plan)}
    wait_until("every event is in the series", lambda: sent == {event for event, _ in applied(cell, plan.invoice_id)})
    assert Counter(event for event, _ in applied(cell, plan.invoice_id)) == dict.fromkeys(sent, 1)


def test_a_message_that_a_broken_processor_failed_is_redriven_after_the_fix(cell: DeployedCell) -> None:
    plan = clean_scenario(2011)
    with max_receives(cell, "posting", 1), broken_processor(cell, "posting"):
        for line in event_lines(plan):
            cell.send(line)
        wait_until("it is a dead letter", lambda: message_count(cell, cell.dead_letters("posting")) == 1, 90)
    assert cell.status(plan.invoice_id) == "AwaitingPosting"
    assert len(redrive(cell, "posting")) == 1
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1).states[-1] == "Posted"
    assert message_count(cell, cell.dead_letters("posting")) == 0


def registered(cell: DeployedCell, invoice_id: str) -> bool:
    """Return whether the invoice's execution waits with a registered token, and no write of its record is pending."""
    record = cell.record(invoice_id)
    return record is not None and record.run.token is not None and not record.pending


@contextmanager
def damaged_record(cell: DeployedCell, invoice_id: str) -> Iterator[None]:
    """Make the invoice's record unreadable, and restore it at the end."""
    table = cell.outputs["RecordsTable"]
    item = cell.dynamodb.get_item(TableName=table, Key={"invoice_id": {"S": invoice_id}})["Item"]
    cell.dynamodb.put_item(TableName=table, Item={**item, "record": {"B": item["record"]["B"][:-1]}})
    try:
        yield
    finally:
        cell.dynamodb.put_item(TableName=table, Item=item)


def is_in_alarm(cell: DeployedCell, name: str) -> bool:
    """Return whether an alarm's metric is above its threshold.

    The emulator publishes no SQS metrics, so the value is the equivalent attribute of the queue.
    """
    (alarm,) = cell.emulator.client("cloudwatch").describe_alarms(AlarmNames=[f"{cell.stack}-{name}"])["MetricAlarms"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    (dimension,) = alarm["Dimensions"]
    url, count = cell.queue_url(dimension["Value"]), "ApproximateNumberOfMessages"
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[count])["Attributes"]
    return int(attributes[count]) > float(alarm["Threshold"])


def applied(cell: DeployedCell, invoice_id: str) -> set[tuple[str, str]]:
    """Return the (event_id, transition_id) of each of the invoice's events in the series, without duplicate rows."""
    return {
        (row["event_id"], row["transition_id"])
        for row in cell.rows()
        if row["invoice_id"] == invoice_id and row["kind"] == "event"
    }


@contextmanager
def broken_processor(cell: DeployedCell, stage: Stage) -> Iterator[None]:
    """Make the stage's processor use a table that does not exist, and restore it at the end."""
    functions = cell.emulator.client("lambda")
    name = f"{cell.stack}-Invoice{stage.capitalize()}Processor"
    working_version = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    broken = {**variables, "BEMS_TABLE": "no-such-table"}
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": broken})
    broken_version = functions.publish_version(FunctionName=name)["Version"]
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=broken_version)
    try:
        yield
    finally:
        functions.update_alias(FunctionName=name, Name="live", FunctionVersion=working_version)


@contextmanager
def max_receives(cell: DeployedCell, stage: Stage, count: int) -> Iterator[None]:
    """Lower the maximum receive count of the stage's queue, because its ten attempts take half an hour."""
    url = cell.stage_queue(stage)
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    policy = attributes["RedrivePolicy"]

    def set_redrive_policy(new_policy: str) -> None:
        cell.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": new_policy})

    set_redrive_policy(json.dumps({**json.loads(policy), "maxReceiveCount": count}))
    try:
        yield
    finally:
        set_redrive_policy(policy)


def redrive(cell: DeployedCell, stage: Stage) -> list[str]:
    """Move each dead letter back to its queue, and return the bodies of those moved.

    The emulator lacks `aws sqs start-message-move-task`, which does the same.
    """
    moved: list[str] = []
    while letters := receive(cell, cell.dead_letters(stage)):
        for letter in letters:
            cell.sqs.send_message(QueueUrl=cell.stage_queue(stage), MessageBody=letter["Body"])
            delete(cell, cell.dead_letters(stage), letter)
            moved.append(letter["Body"])
    return moved


def receive(cell: DeployedCell, url: str, **options: Any) -> list[dict[str, Any]]:
    response = cell.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, **options)
    messages: list[dict[str, Any]] = response.get("Messages", [])
    return messages


def peek(cell: DeployedCell, url: str) -> list[dict[str, Any]]:
    """Return messages of a queue, which stay visible to other receivers."""
    return receive(cell, url, VisibilityTimeout=0)


def delete(cell: DeployedCell, url: str, message: dict[str, Any]) -> None:
    cell.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def message_count(cell: DeployedCell, url: str) -> int:
    """Return the number of messages in a queue, whether visible or not."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)

"""Dead letters: what can never be processed, and what could not be until its cause was mended, and is redriven."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bems.tracker.contract import Stage
from tests.e2e.cell import DeployedCell, Execution
from tests.e2e.deployment import STACK
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_line, event_lines

pytestmark = pytest.mark.e2e


def test_a_conflicting_event_is_set_aside_and_harms_nobody(cell: DeployedCell) -> None:
    """The id of another event with another content: nobody can tell which is right."""
    plan = clean_scenario(2010)
    for one in event_lines(plan)[:2]:
        cell.send(one)
    cell.wait_for_status(plan.invoice_id, "AwaitingReconciliation")
    cell.send(event_line(plan, 1, "conflict"))
    (letter,) = wait_until("it is a dead letter", lambda: receive(cell, cell.dead_letters("authorization")), 90)
    poison = json.loads(event_line(plan, 1, "conflict"))["event"]
    assert json.loads(letter["Body"])["detail"]["event"]["event_id"] == poison["event_id"]
    for one in event_lines(plan)[2:]:
        cell.send(one)
    record = cell.wait_for_status(plan.invoice_id, "Posted")
    assert format(record.facts.amount, "f") != poison["amount"]
    drop(cell, cell.dead_letters("authorization"), letter)


def test_a_poisoned_message_is_redriven_when_its_cause_is_mended(cell: DeployedCell) -> None:
    """An invoice's record that somebody damaged: its next event fails as often as it comes, until the record is
    repaired. Then the very message goes back into its queue, and is processed once."""
    plan, other = clean_scenario(2012), clean_scenario(2013)
    first, second, *rest = event_lines(plan)
    queue = cell.dead_letters("authorization")
    cell.send(first)
    wait_until("its execution waits", lambda: registered(cell, plan.invoice_id))
    with patience(cell, "authorization", receipts=2), damaged(cell, plan.invoice_id):
        cell.send(second)
        (letter,) = wait_until("it is a dead letter", lambda: look(cell, queue), 90)
        poison = json.loads(letter["Body"])["detail"]["event"]
        assert poison["event_id"] == json.loads(second)["event"]["event_id"]
        wait_until("the alarm would ring", lambda: rings(cell, "authorization-dead-letters"))
        for one in event_lines(other):
            cell.send(one)
        cell.wait_for_status(other.invoice_id, "Posted")
    # Mended, but nothing brings the event back by itself.
    assert waiting(cell, queue) == 1
    assert cell.status(plan.invoice_id) == "AwaitingAuthorization"
    assert redrive(cell, "authorization") == [letter["Body"]]
    record = cell.wait_for_status(plan.invoice_id, "AwaitingReconciliation")
    assert record.outcomes["authorization"].event_id == poison["event_id"]
    for one in rest:
        cell.send(one)
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution(
        "SUCCEEDED", ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
    )
    assert waiting(cell, queue) == 0
    sent = {json.loads(one)["event"]["event_id"] for one in event_lines(plan)}
    wait_until("every event is in the series", lambda: sent == {event for event, _ in applied(cell, plan.invoice_id)})
    assert Counter(event for event, _ in applied(cell, plan.invoice_id)) == dict.fromkeys(sent, 1)


def test_what_failed_is_redriven_when_the_processor_is_mended(cell: DeployedCell) -> None:
    plan = clean_scenario(2011)
    with patience(cell, "posting", receipts=1), fault(cell, "posting"):
        for one in event_lines(plan):
            cell.send(one)
        wait_until("it is a dead letter", lambda: waiting(cell, cell.dead_letters("posting")) == 1, 90)
    assert cell.status(plan.invoice_id) == "AwaitingPosting"
    assert len(redrive(cell, "posting")) == 1
    cell.wait_for_status(plan.invoice_id, "Posted")
    assert cell.wait_for_end(plan.invoice_id, 1).states[-1] == "Posted"
    assert waiting(cell, cell.dead_letters("posting")) == 0


def registered(cell: DeployedCell, invoice_id: str) -> bool:
    """Whether its execution waits, and nobody is about to write its record."""
    record = cell.record(invoice_id)
    return record is not None and record.run.token is not None and not record.pending


@contextmanager
def damaged(cell: DeployedCell, invoice_id: str) -> Iterator[None]:
    """The invoice's record cannot be read, until it is put back as it was."""
    table = cell.outputs["RecordsTable"]
    item = cell.dynamodb.get_item(TableName=table, Key={"invoice_id": {"S": invoice_id}})["Item"]
    cell.dynamodb.put_item(TableName=table, Item={**item, "record": {"B": item["record"]["B"][:-1]}})
    try:
        yield
    finally:
        cell.dynamodb.put_item(TableName=table, Item=item)


def rings(cell: DeployedCell, name: str) -> bool:
    """Whether an alarm's metric is beyond its threshold. The emulator publishes none of SQS's; this one is a count that
    SQS itself tells."""
    (alarm,) = cell.emulator.client("cloudwatch").describe_alarms(AlarmNames=[f"{STACK}-{name}"])["MetricAlarms"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    (dimension,) = alarm["Dimensions"]
    url, count = cell.queue_url(dimension["Value"]), "ApproximateNumberOfMessages"
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[count])["Attributes"]
    return int(attributes[count]) > float(alarm["Threshold"])


def applied(cell: DeployedCell, invoice_id: str) -> set[tuple[str, str]]:
    """The invoice's events in the series, each with its transition. A row that was written twice is one transition."""
    return {
        (row["event_id"], row["transition_id"])
        for row in cell.rows()
        if row["invoice_id"] == invoice_id and row["kind"] == "event"
    }


@contextmanager
def fault(cell: DeployedCell, stage: Stage) -> Iterator[None]:
    """The stage's processor, as its queue calls it, looks for its records in a table that there is not."""
    functions = cell.emulator.client("lambda")
    name = f"{STACK}-Invoice{stage.capitalize()}Processor"
    right = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    broken = {**variables, "BEMS_TABLE": "mislaid"}
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": broken})
    wrong = functions.publish_version(FunctionName=name)["Version"]
    functions.update_alias(FunctionName=name, Name="live", FunctionVersion=wrong)
    try:
        yield
    finally:
        functions.update_alias(FunctionName=name, Name="live", FunctionVersion=right)


@contextmanager
def patience(cell: DeployedCell, stage: Stage, receipts: int) -> Iterator[None]:
    """The stage's queue gives up sooner: its own ten tries take half an hour."""
    url = cell.stage_queue(stage)
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    policy = attributes["RedrivePolicy"]

    def give_up_after(changed: str) -> None:
        cell.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": changed})

    give_up_after(json.dumps({**json.loads(policy), "maxReceiveCount": receipts}))
    try:
        yield
    finally:
        give_up_after(policy)


def redrive(cell: DeployedCell, stage: Stage) -> list[str]:
    """As `aws sqs start-message-move-task` does, which the emulator has not: each dead letter back into its queue. The
    bodies of those that were moved."""
    moved: list[str] = []
    while letters := receive(cell, cell.dead_letters(stage)):
        for letter in letters:
            cell.sqs.send_message(QueueUrl=cell.stage_queue(stage), MessageBody=letter["Body"])
            drop(cell, cell.dead_letters(stage), letter)
            moved.append(letter["Body"])
    return moved


def receive(cell: DeployedCell, url: str, **more: Any) -> list[dict[str, Any]]:
    answer = cell.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, **more)
    letters: list[dict[str, Any]] = answer.get("Messages", [])
    return letters


def look(cell: DeployedCell, url: str) -> list[dict[str, Any]]:
    """What is in a queue, and stays there for others to receive."""
    return receive(cell, url, VisibilityTimeout=0)


def drop(cell: DeployedCell, url: str, letter: dict[str, Any]) -> None:
    cell.sqs.delete_message(QueueUrl=url, ReceiptHandle=letter["ReceiptHandle"])


def waiting(cell: DeployedCell, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)

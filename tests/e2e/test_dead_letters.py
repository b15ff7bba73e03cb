"""Dead letters: what can never be processed, and what could not be for a while and is redriven."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bems.tracker.contract import Stage
from tests.e2e.cell import DeployedCell
from tests.e2e.deployment import STACK
from tests.e2e.polling import until
from tests.e2e.stories import line, lines, orderly

pytestmark = pytest.mark.e2e


def test_a_poisoned_event_is_set_aside_and_harms_nobody(cell: DeployedCell) -> None:
    """The id of another event with another content: nobody can tell which is right."""
    plan = orderly(2010)
    for one in lines(plan)[:2]:
        cell.send(one)
    cell.until_status(plan.invoice_id, "AwaitingReconciliation")
    cell.send(line(plan, 1, "conflict"))
    (letter,) = until("it is a dead letter", lambda: receive(cell, cell.dead_letters("authorization")), 90)
    poison = json.loads(line(plan, 1, "conflict"))["event"]
    assert json.loads(letter["Body"])["detail"]["event"]["event_id"] == poison["event_id"]
    for one in lines(plan)[2:]:
        cell.send(one)
    record = cell.until_status(plan.invoice_id, "Posted")
    assert format(record.facts.amount, "f") != poison["amount"]
    drop(cell, cell.dead_letters("authorization"), letter)


def test_what_failed_is_redriven_when_the_fault_is_mended(cell: DeployedCell) -> None:
    plan = orderly(2011)
    with patience(cell, "posting", receipts=1), fault(cell, "posting"):
        for one in lines(plan):
            cell.send(one)
        until("it is a dead letter", lambda: waiting(cell, cell.dead_letters("posting")) == 1, 90)
    assert cell.status(plan.invoice_id) == "AwaitingPosting"
    assert redrive(cell, "posting") == 1
    cell.until_status(plan.invoice_id, "Posted")
    assert cell.until_ended(plan.invoice_id, 1).states[-1] == "Posted"
    assert waiting(cell, cell.dead_letters("posting")) == 0


@contextmanager
def fault(cell: DeployedCell, stage: Stage) -> Iterator[None]:
    """The stage's processor looks for its records in a table that there is not."""
    functions = cell.emulator.client("lambda")
    name = f"{STACK}-Invoice{stage.capitalize()}Processor"
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

    def configure(changed: dict[str, str]) -> None:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": changed})

    configure({**variables, "BEMS_TABLE": "mislaid"})
    try:
        yield
    finally:
        configure(variables)


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


def redrive(cell: DeployedCell, stage: Stage) -> int:
    """As `aws sqs start-message-move-task` does, which the emulator has not: each dead letter back into its queue."""
    moved = 0
    while letters := receive(cell, cell.dead_letters(stage)):
        for letter in letters:
            cell.sqs.send_message(QueueUrl=cell.stage_queue(stage), MessageBody=letter["Body"])
            drop(cell, cell.dead_letters(stage), letter)
            moved += 1
    return moved


def receive(cell: DeployedCell, url: str) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = cell.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return letters


def drop(cell: DeployedCell, url: str, letter: dict[str, Any]) -> None:
    cell.sqs.delete_message(QueueUrl=url, ReceiptHandle=letter["ReceiptHandle"])


def waiting(cell: DeployedCell, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = cell.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)

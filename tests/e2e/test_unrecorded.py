"""End-to-end test of stream records that the recorder cannot read, and of their recovery by the deployment guide."""

import json
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest

from tests.e2e.cell import DeployedCell
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_lines

pytestmark = pytest.mark.e2e


def test_an_unreadable_record_goes_to_its_queue_and_is_recorded_after_the_fix(cell: DeployedCell) -> None:
    plan, later = clean_scenario(2015), clean_scenario(2016)
    cell.send(event_lines(plan)[0])
    cell.wait_for_status(plan.invoice_id, "AwaitingAuthorization")
    (row,) = wait_until("its event is in the series", lambda: rows_of(cell, plan.invoice_id))

    # An item that somebody has written by hand, with invalid content.
    table, copy = cell.outputs["RecordsTable"], f"{plan.invoice_id}-copy"
    item = {"invoice_id": {"S": copy}, "version": {"N": "1"}, "changes": {"B": b"\xc1"}}
    cell.dynamodb.put_item(TableName=table, Item=item)
    url = cell.queue_url(f"{cell.stack}-unrecorded")
    event = wait_until("it is in the unrecorded queue", lambda: take(cell, url))
    assert event["reason"].startswith("not the image of a record")
    (record,) = event["Records"]
    assert record["dynamodb"]["Keys"] == {"invoice_id": {"S": copy}}
    assert b64decode(record["dynamodb"]["NewImage"]["changes"]["B"]) == b"\xc1"
    cell.send(event_lines(later)[0])
    wait_until("the next event is in the series", lambda: rows_of(cell, later.invoice_id))

    assert invoke(cell, event) == {"batchItemFailures": []}
    assert wait_until("it is in the unrecorded queue again", lambda: take(cell, url)) == event

    fixed = {**row, "invoice_id": copy, "transition_id": "fixed"}
    # A row of the series has the attributes as JSON text, a transition as an object.
    attributes = json.loads(fixed.get("attributes", "{}"))
    changes = msgspec.msgpack.encode([{"from_status": None, **fixed, "attributes": attributes}])
    record["dynamodb"]["NewImage"]["changes"]["B"] = b64encode(changes).decode()
    assert invoke(cell, event) == {"batchItemFailures": []}
    assert take(cell, url) is None
    assert wait_until("it is recorded", lambda: rows_of(cell, copy)) == [fixed]


def rows_of(cell: DeployedCell, invoice_id: str) -> list[dict[str, Any]]:
    return [row for row in cell.rows() if row["invoice_id"] == invoice_id]


def take(cell: DeployedCell, url: str) -> dict[str, Any] | None:
    """Delete a message from a queue and return the event in it; None if the queue is empty."""
    for message in cell.sqs.receive_message(QueueUrl=url).get("Messages", []):
        cell.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        event: dict[str, Any] = json.loads(message["Body"])
        return event
    return None


def invoke(cell: DeployedCell, event: dict[str, Any]) -> Any:
    """Invoke the recorder with an event and return its result."""
    functions = cell.emulator.client("lambda")
    response = functions.invoke(FunctionName=f"{cell.stack}-Recorder", Payload=json.dumps(event).encode())
    return json.load(response["Payload"])

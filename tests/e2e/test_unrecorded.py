"""What the recorder cannot read: set aside, and recorded once it is mended, the way the deployment guide says."""

import json
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest

from tests.e2e.cell import DeployedCell
from tests.e2e.deployment import STACK
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_lines

pytestmark = pytest.mark.e2e


def test_a_record_that_cannot_be_read_is_recorded_when_it_is_mended(cell: DeployedCell) -> None:
    plan, later = clean_scenario(2015), clean_scenario(2016)
    cell.send(event_lines(plan)[0])
    cell.wait_for_status(plan.invoice_id, "AwaitingAuthorization")
    (row,) = wait_until("its event is in the series", lambda: rows_of(cell, plan.invoice_id))

    # Somebody makes another invoice of it by hand, badly.
    table, copy = cell.outputs["RecordsTable"], f"{plan.invoice_id}-copy"
    item = {"invoice_id": {"S": copy}, "version": {"N": "1"}, "changes": {"B": b"\xc1"}}
    cell.dynamodb.put_item(TableName=table, Item=item)
    url = cell.queue_url(f"{STACK}-unrecorded")
    event = wait_until("it is set aside", lambda: take(cell, url))
    assert event["reason"].startswith("not the image of a record")
    (record,) = event["Records"]
    assert record["dynamodb"]["Keys"] == {"invoice_id": {"S": copy}}
    assert b64decode(record["dynamodb"]["NewImage"]["changes"]["B"]) == b"\xc1"
    cell.send(event_lines(later)[0])
    wait_until("the next event is in the series", lambda: rows_of(cell, later.invoice_id))

    assert invoke(cell, event) == {"batchItemFailures": []}
    assert wait_until("it is set aside again", lambda: take(cell, url)) == event

    mended = {**row, "invoice_id": copy, "transition_id": "mended"}
    # The series has them as text, a transition as an object.
    attributes = json.loads(mended.get("attributes", "{}"))
    changes = msgspec.msgpack.encode([{"from_status": None, **mended, "attributes": attributes}])
    record["dynamodb"]["NewImage"]["changes"]["B"] = b64encode(changes).decode()
    assert invoke(cell, event) == {"batchItemFailures": []}
    assert take(cell, url) is None
    assert wait_until("it is recorded", lambda: rows_of(cell, copy)) == [mended]


def rows_of(cell: DeployedCell, invoice_id: str) -> list[dict[str, Any]]:
    return [row for row in cell.rows() if row["invoice_id"] == invoice_id]


def take(cell: DeployedCell, url: str) -> dict[str, Any] | None:
    """The event in a message of a queue, which is then without it."""
    for message in cell.sqs.receive_message(QueueUrl=url).get("Messages", []):
        cell.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        event: dict[str, Any] = json.loads(message["Body"])
        return event
    return None


def invoke(cell: DeployedCell, event: dict[str, Any]) -> Any:
    """The recorder with an event."""
    functions = cell.emulator.client("lambda")
    answer = functions.invoke(FunctionName=f"{STACK}-Recorder", Payload=json.dumps(event).encode())
    return json.load(answer["Payload"])

"""Client of the deployed cell: sends events over HTTP, and reads its state through AWS APIs."""

import json
from functools import cached_property
from typing import Any, NamedTuple

import urllib3

from bems.aws.records import DynamoRecords
from bems.clock import SystemClock
from bems.tracker.actions import execution_name
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import Status, status_of
from tests.e2e.emulator import Emulator
from tests.e2e.polling import wait_until


class Response(NamedTuple):
    """Response of the API, with header names in lower case and the decoded JSON body."""

    status: int
    headers: dict[str, str]
    body: Any


class Execution(NamedTuple):
    """Status of an execution, and the names of the states that it entered, in order."""

    status: str
    states: list[str]


class DeployedCell:
    """A cell that is deployed in the emulator as a stack with these outputs."""

    def __init__(self, emulator: Emulator, stack: str, outputs: dict[str, str]) -> None:
        self.emulator = emulator
        self.stack = stack
        self.outputs = outputs
        self._http = urllib3.PoolManager(maxsize=8)
        # https://API.execute-api.REGION.amazonaws.com/v1/
        api = outputs["ApiUrl"].split("/")[2].split(".")[0]
        self.url = f"{emulator.endpoint}/restapis/{api}/v1/_user_request_"
        self.api = api
        self._records = DynamoRecords(self.dynamodb, outputs["RecordsTable"])

    @cached_property
    def dynamodb(self) -> Any:
        return self.emulator.client("dynamodb")

    @cached_property
    def states(self) -> Any:
        return self.emulator.client("stepfunctions")

    @cached_property
    def sqs(self) -> Any:
        return self.emulator.client("sqs")

    @cached_property
    def _bucket(self) -> str:
        """Bucket of rows, of which a stack with S3 Tables has one."""
        (bucket,) = self.emulator.physical_ids(self.stack, "AWS::S3::Bucket").values()
        return bucket

    @cached_property
    def key(self) -> str:
        """API key of the first sender, read as the deployment guide describes."""
        gateway = self.emulator.client("apigateway")
        value: str = gateway.get_api_key(apiKey=self.outputs["FirstKeyId"], includeValue=True)["value"]
        return value

    def post(self, path: str, body: Any, key: str | None = None, headers: dict[str, str] | None = None) -> Response:
        """Post a request to the API. `key` is the API key: None for the first sender's, "" for none."""
        all_headers = {"content-type": "application/json", **(headers or {})}
        if key != "":
            all_headers["x-api-key"] = key or self.key
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self._http.request(
            "POST", f"{self.url}/invoices/{path}", body=content, headers=all_headers, retries=False
        )
        lower_case = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status, lower_case, response.json())

    def send(self, line: bytes) -> None:
        """Send the event in a line of the generator, and assert that the cell accepts it."""
        generated = json.loads(line)
        response = self.post(generated["stage"], generated["event"])
        assert response.status == 202, response

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        return self._records.load(invoice_id)

    def status(self, invoice_id: str) -> Status | None:
        record = self.record(invoice_id)
        return None if record is None else status_of(record.outcomes)

    def wait_for_status(self, invoice_id: str, status: Status, seconds: float = 60) -> InvoiceRecord:
        """Wait until an invoice has a status, and return its record."""
        wait_until(f"{invoice_id} is {status}", lambda: self.status(invoice_id) == status, seconds)
        record = self.record(invoice_id)
        assert record is not None
        return record

    def execution_arn(self, invoice_id: str, run: int) -> str:
        machine = self.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:")
        return f"{machine}:{execution_name(invoice_id, run)}"

    def execution(self, invoice_id: str, run: int) -> Execution:
        """Return the execution of an invoice's run."""
        arn = self.execution_arn(invoice_id, run)
        history = self.states.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        entered = [
            event["stateEnteredEventDetails"]["name"] for event in history if "stateEnteredEventDetails" in event
        ]
        return Execution(self.states.describe_execution(executionArn=arn)["status"], entered)

    def wait_for_end(self, invoice_id: str, run: int) -> Execution:
        """Wait until the execution of an invoice's run has ended, and return it."""
        wait_until(f"run {run} of {invoice_id} ends", lambda: self.execution(invoice_id, run).status != "RUNNING")
        return self.execution(invoice_id, run)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that the recorder has written to the time series so far."""
        s3, rows = self.emulator.client("s3"), []
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix="rows/"):
            for entry in page.get("Contents", []):
                text = s3.get_object(Bucket=self._bucket, Key=entry["Key"])["Body"].read().decode()
                rows += _parse_objects(text)
        return rows

    def advance_clock_to(self, instant: Instant) -> None:
        """Set the functions' clocks forward to an instant."""
        self.emulator.set_clock_offset(instant - SystemClock().now())

    def queue_url(self, name: str) -> str:
        url: str = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url

    def stage_queue(self, stage: Stage) -> str:
        return self.queue_url(f"{self.stack}-{stage}")

    def dead_letters(self, stage: Stage) -> str:
        return self.queue_url(f"{self.stack}-{stage}-dead-letters")


def _parse_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a file of Firehose, which concatenates them without a separator."""
    decoder, objects, start = json.JSONDecoder(), [], 0
    while start < len(text):
        value, start = decoder.raw_decode(text, start)
        objects.append(value)
        while start < len(text) and text[start].isspace():
            start += 1
    return objects

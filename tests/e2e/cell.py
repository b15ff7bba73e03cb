"""The deployed cell, as those see it who use it: its senders over HTTP, its operators through AWS's own APIs."""

import json
from functools import cached_property
from typing import Any, NamedTuple

import urllib3

from bems.aws.clock import SystemClock
from bems.aws.records import DynamoRecords
from bems.tracker.actions import execution_name
from bems.tracker.contract import Stage
from bems.tracker.instants import Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import Status, status_of
from tests.e2e.deployment import STACK
from tests.e2e.emulator import Emulator
from tests.e2e.polling import wait_until


class Response(NamedTuple):
    """Of the API."""

    status: int
    headers: dict[str, str]
    body: Any


class Execution(NamedTuple):
    """What the console shows of one: its status, and the states that it entered, in order."""

    status: str
    states: list[str]


class DeployedCell:
    """The cell in the emulator."""

    def __init__(self, emulator: Emulator, outputs: dict[str, str]) -> None:
        self.emulator = emulator
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
    def key(self) -> str:
        """The first sender's, found as the deployment guide says."""
        gateway = self.emulator.client("apigateway")
        value: str = gateway.get_api_key(apiKey=self.outputs["FirstKeyId"], includeValue=True)["value"]
        return value

    def post(self, path: str, body: Any, key: str | None = None, headers: dict[str, str] | None = None) -> Response:
        """A request to the API with a key, by default the first sender's; with none for ""."""
        told = {"content-type": "application/json", **(headers or {})}
        if key != "":
            told["x-api-key"] = key or self.key
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self._http.request("POST", f"{self.url}/invoices/{path}", body=sent, headers=told, retries=False)
        return Response(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.json())

    def send(self, line: bytes) -> None:
        """A line of the generator's, which the cell must accept."""
        told = json.loads(line)
        answer = self.post(told["stage"], told["event"])
        assert answer.status == 202, answer

    def record(self, invoice_id: str) -> InvoiceRecord | None:
        return self._records.load(invoice_id)

    def status(self, invoice_id: str) -> Status | None:
        record = self.record(invoice_id)
        return None if record is None else status_of(record.outcomes)

    def wait_for_status(self, invoice_id: str, status: Status, seconds: float = 60) -> InvoiceRecord:
        """The record, once it has the status."""
        wait_until(f"{invoice_id} is {status}", lambda: self.status(invoice_id) == status, seconds)
        record = self.record(invoice_id)
        assert record is not None
        return record

    def execution_arn(self, invoice_id: str, run: int) -> str:
        machine = self.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:")
        return f"{machine}:{execution_name(invoice_id, run)}"

    def execution(self, invoice_id: str, run: int) -> Execution:
        """A run's execution."""
        arn = self.execution_arn(invoice_id, run)
        history = self.states.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        entered = [
            event["stateEnteredEventDetails"]["name"] for event in history if "stateEnteredEventDetails" in event
        ]
        return Execution(self.states.describe_execution(executionArn=arn)["status"], entered)

    def wait_for_end(self, invoice_id: str, run: int) -> Execution:
        """A run's execution, once it is over."""
        wait_until(f"run {run} of {invoice_id} ends", lambda: self.execution(invoice_id, run).status != "RUNNING")
        return self.execution(invoice_id, run)

    def rows(self) -> list[dict[str, Any]]:
        """What the recorder has written to the series so far."""
        s3, rows = self.emulator.client("s3"), []
        (bucket,) = (one["Name"] for one in s3.list_buckets()["Buckets"] if "serieserrors" in one["Name"])
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="rows/"):
            for found in page.get("Contents", []):
                text = s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read().decode()
                rows += _objects(text)
        return rows

    def advance_clock_to(self, instant: Instant) -> None:
        """From now on it is at least that late for the functions."""
        self.emulator.set_clock_offset(instant - SystemClock().now())

    def queue_url(self, name: str) -> str:
        url: str = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url

    def stage_queue(self, stage: Stage) -> str:
        return self.queue_url(f"{STACK}-{stage}")

    def dead_letters(self, stage: Stage) -> str:
        return self.queue_url(f"{STACK}-{stage}-dead-letters")


def _objects(text: str) -> list[dict[str, Any]]:
    """JSON objects with nothing between them, as Firehose puts them into a file."""
    decoder, found, start = json.JSONDecoder(), [], 0
    while start < len(text):
        value, start = decoder.raw_decode(text, start)
        found.append(value)
        while start < len(text) and text[start].isspace():
            start += 1
    return found

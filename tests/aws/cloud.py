"""AWS environment of a cell for tests: moto with real boto3 clients. Calls are recorded and can be made to fail.

Fakes replace services that moto lacks or implements differently from AWS: Step Functions, which runs the real
definition on `bems.engine`, the custom event bus, and Firehose. The clients still validate parameters.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import msgspec
import pytest
from moto import mock_aws

from bems.aws import clients
from bems.clock import SystemClock
from bems.tracker.actions import execution_name
from bems.tracker.instants import MINUTE, SECOND, Instant
from bems.tracker.policy import Policy
from bems.tracker.policy_file import policy_to_json
from bems.tracker.record import InvoiceRecord
from handlers import escalate, processor, producer, recorder, register_wait, sweeper
from tests.aws.recorded_calls import ACCOUNT, REGION, Call, Context, FunctionKilled, RecordedCalls
from tests.aws.service_models import cache_service_models
from tests.aws.state_machine import FakeStepFunctions
from tests.aws.table import FakeTable
from tests.tracker.samples import FACTS_SENT, NOW, POLICY

cache_service_models()

CELL = "test"
TABLE, BUS, DATABASE, TIME_TABLE = "records", "bems-test", "bems-test", "transitions"
MACHINE_ARN = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:bems-test-invoice-lifecycle"
HANDLERS = (producer, processor, register_wait, escalate, sweeper, recorder)


class Cloud:
    """AWS resources of one cell. `now` is the frozen clock, which tests advance."""

    def __init__(self, policy: Policy) -> None:
        self.now = NOW
        self.policy = policy
        self.aws = RecordedCalls(self._collect)
        self.messages: deque[dict[str, Any]] = deque()
        self.dead_letters: list[dict[str, Any]] = []
        self.stream: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.unrecorded: list[dict[str, Any]] = []
        self.items: dict[str, dict[str, Any]] = {}
        self.table = FakeTable()
        self.machine = FakeStepFunctions(self)
        self.aws.fakes |= self.machine.fakes()
        self._received = 0

    def _collect(self, call: Call) -> None:
        if call.operation == "PutItem":
            self.items[call.params["Item"]["invoice_id"]["S"]] = call.params["Item"]
            self.stream.append(self.image(call.params["Item"]))
        elif call.operation == "Publish":
            self.alerts.append(json.loads(call.params["Message"]))
        elif call.operation == "SendMessage":
            self.unrecorded.append(json.loads(call.params["MessageBody"]))
        elif call.operation == "WriteRecords":
            self.rows += flatten_records(call.params)
        elif call.operation == "PutEvents":
            for entry in call.params["Entries"]:
                self.messages.append(self.message(json.dumps(envelope(entry))))

    def image(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return a record of the table's stream as Lambda passes it: binaries in base64."""
        self._received += 1
        image = {
            name: {kind: b64encode(value).decode() if kind == "B" else value for kind, value in typed.items()}
            for name, typed in item.items()
        }
        change = {"SequenceNumber": str(1000 + self._received), "NewImage": image, "Keys": {}}
        return {"eventID": str(self._received), "eventName": "MODIFY", "dynamodb": change}

    def message(self, body: str, group: str | None = None, receipts: int = 0) -> dict[str, Any]:
        """Return an SQS message as Lambda passes it."""
        self._received += 1
        return {
            "messageId": f"m{self._received}",
            "receiptHandle": f"r{self._received}",
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": str(receipts),
                **({"MessageGroupId": group} if group else {}),
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:bems-test",
        }

    # -- actions

    def replace_moto(self) -> None:
        """Answer all calls with fakes instead of moto, ten times as fast."""
        self.aws.fakes |= {
            **self.table.fakes(),
            "PutEvents": accept_all,
            "Publish": lambda _: {"MessageId": "m"},
            "SendMessage": lambda _: {"MessageId": "m"},
            "WriteRecords": lambda _: {},
            "DescribeEndpoints": lambda _: {"Endpoints": [{"Address": "example.test", "CachePeriodInMinutes": 9999}]},
        }

    def post(self, stage: str, sent: Any, /, batch: bool = False, more: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to the API; `more` overrides fields of the proxy request."""
        path = f"/invoices/{stage}/batch" if batch else f"/invoices/{stage}"
        text = sent.decode() if isinstance(sent, bytes) else json.dumps(sent)
        request = {
            "resource": path,
            "path": path,
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json", "x-api-key": "secret-key"},
            "body": text,
            "isBase64Encoded": False,
            "requestContext": {"accountId": ACCOUNT},
            **(more or {}),
        }
        return producer.handler(request, Context())

    def deliver(self, limit: int = 10, dead_after: int = 10) -> None:
        """Deliver a batch of the queue.

        Failed messages return to the queue, or become dead letters after `dead_after` tries.
        """
        batch = [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]
        for message in batch:
            receipts = int(message["attributes"]["ApproximateReceiveCount"]) + 1
            message["attributes"]["ApproximateReceiveCount"] = str(receipts)
        try:
            answer = processor.handler({"Records": batch}, Context())
        except FunctionKilled:
            self.messages.extend(batch)
            return
        failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
        for message in batch:
            if message["messageId"] in failed:
                receipts = int(message["attributes"]["ApproximateReceiveCount"])
                (self.dead_letters if receipts >= dead_after else self.messages).append(message)

    def record_stream(self) -> None:
        """Deliver all records of the stream. From the lowest failed one on, they stay in the stream."""
        batch = list(self.stream)
        try:
            answer = recorder.handler({"Records": batch}, Context())
        except FunctionKilled:
            return
        failed = [int(one["itemIdentifier"]) for one in answer["batchItemFailures"]]
        kept = [one for one in batch if failed and int(one["dynamodb"]["SequenceNumber"]) >= min(failed)]
        self.stream[: len(batch)] = kept

    def sweep(self, event: dict[str, Any] | None = None) -> dict[str, int]:
        """Invoke the sweeper with the schedule's event or another one, again after each kill."""
        while True:
            try:
                return sweeper.handler(event or {"source": "aws.events"}, Context())
            except FunctionKilled:
                continue

    def send(self, invoice_id: str, stage: str, status: str, event_id: str | None = None, **more: Any) -> None:
        """Send an event until it is accepted, then advance the clock by a minute and handle everything that follows."""
        body = event_body(invoice_id, status, event_id or f"{invoice_id}:{stage}:{status}", **more)
        while True:
            try:
                answer = self.post(stage, body)
            except FunctionKilled:
                continue
            assert answer["statusCode"] == 202, answer
            break
        self.pass_time(MINUTE)

    def reset(self) -> None:
        """Delete all invoices and reset the clock."""
        self.messages.clear()
        for things in (self.dead_letters, self.stream, self.alerts, self.rows, self.unrecorded):
            things.clear()
        self.aws.calls.clear()
        self.aws.kill_after.clear()
        if "PutItem" not in self.aws.fakes:
            with self.aws.unrecorded():
                table = boto3.client("dynamodb")
                for item in table.scan(TableName=TABLE)["Items"]:
                    table.delete_item(TableName=TABLE, Key={"invoice_id": item["invoice_id"]})
        self.items.clear()
        self.table.items.clear()
        self.now = NOW
        self.machine.reset()

    def settle(self) -> None:
        """Process all pending messages, executions and stream records."""
        while self.messages or self.machine.is_busy or self.stream:
            if self.machine.is_busy:
                self.machine.process_next()
            elif self.messages:
                self.deliver()
            else:
                self.record_stream()

    def pass_time(self, duration: Instant, sweeping: bool = True) -> None:
        """Advance the clock, stopping at each timer and check. The sweeper runs a second after each check."""
        end = self.now + duration
        self.settle()
        for _ in range(500):
            checks = [record.check_at + SECOND for record in self.records() if record.check_at and sweeping]
            dues = [at for at in (*checks, *self.machine.due_instants()) if at <= end]
            if not dues:
                break
            self.now = max(self.now, min(dues))
            self.machine.fire_timers()
            if any(at <= self.now for at in checks):
                self.sweep()
            self.settle()
        else:
            raise AssertionError("the cell does not become idle")
        self.now = end

    def records(self) -> list[InvoiceRecord]:
        """Return the newest version of every record."""
        return [read_record(item) for item in self.items.values()]

    def record(self, invoice_id: str) -> InvoiceRecord:
        return read_record(self.items[invoice_id])

    def states(self, invoice_id: str, run: int = 1) -> list[str]:
        """Return the names of the states that a run entered."""
        return self.machine.entered[execution_name(invoice_id, run)]


def read_record(item: dict[str, Any]) -> InvoiceRecord:
    return msgspec.msgpack.decode(item["record"]["B"], type=InvoiceRecord)


def accept_all(params: dict[str, Any]) -> dict[str, Any]:
    """PutEvents that accepts all entries."""
    return {"FailedEntryCount": 0, "Entries": [{"EventId": "e"} for _ in params["Entries"]]}


def event_body(invoice_id: str, status: str, event_id: str, **more: Any) -> dict[str, Any]:
    """Return the body of an event."""
    return {
        "event_id": event_id,
        "invoice_id": invoice_id,
        "status": status,
        "occurred_at": "2026-03-02T08:00:00Z",
        **FACTS_SENT,
        **more,
    }


def flatten_records(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a WriteRecords call as flat rows."""
    rows = []
    for record in params["Records"]:
        dimensions = [*params["CommonAttributes"]["Dimensions"], *record["Dimensions"]]
        row = {dimension["Name"]: dimension["Value"] for dimension in dimensions}
        row |= {"stage": record["MeasureName"], "time": record["Time"], "version": record["Version"]}
        rows.append(row | {measure["Name"]: measure["Value"] for measure in record["MeasureValues"]})
    return rows


def envelope(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the envelope in which EventBridge delivers an entry."""
    return {
        "version": "0",
        "id": "e",
        "detail-type": entry["DetailType"],
        "source": entry["Source"],
        "account": ACCOUNT,
        "time": "2026-03-02T09:00:00Z",
        "region": REGION,
        "resources": [],
        "detail": json.loads(entry["Detail"]),
    }


ENVIRONMENT = {
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "POWERTOOLS_SERVICE_NAME": "test",
    "BEMS_CELL": CELL,
    "BEMS_BUS": "classic",
    "BEMS_BUS_NAME": BUS,
    "BEMS_MAX_BATCH": "100",
    "BEMS_STAGE": "authorization",
    "BEMS_TABLE": TABLE,
    "BEMS_STATE_MACHINE_ARN": MACHINE_ARN,
    "BEMS_QUEUE_TYPE": "standard",
    "BEMS_TIME_SERIES": "timestream",
    "BEMS_DATABASE": DATABASE,
    "BEMS_TIME_TABLE": TIME_TABLE,
}


def make_resources() -> dict[str, str]:
    """Create the table, topics, queues, bus and database. Returns environment variables with ARNs and URLs."""
    boto3.client("dynamodb").create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": "invoice_id", "AttributeType": "S"},
            {"AttributeName": "check_shard", "AttributeType": "S"},
            {"AttributeName": "check_at", "AttributeType": "N"},
        ],
        KeySchema=[{"AttributeName": "invoice_id", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "checks",
                "KeySchema": [
                    {"AttributeName": "check_shard", "KeyType": "HASH"},
                    {"AttributeName": "check_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    )
    topics = {
        severity: boto3.client("sns").create_topic(Name=f"bems-test-alerts-{severity}")["TopicArn"]
        for severity in ("warning", "critical")
    }
    queue, unrecorded = (
        boto3.client("sqs").create_queue(QueueName=f"bems-test-{name}")["QueueUrl"]
        for name in ("authorization", "unrecorded")
    )
    boto3.client("events").create_event_bus(Name=BUS)
    series: Any = boto3.client("timestream-write")
    series.create_database(DatabaseName=DATABASE)
    series.create_table(DatabaseName=DATABASE, TableName=TIME_TABLE)
    return {
        "BEMS_WARNING_TOPIC_ARN": topics["warning"],
        "BEMS_CRITICAL_TOPIC_ARN": topics["critical"],
        "BEMS_QUEUE_URL": queue,
        "BEMS_UNRECORDED_QUEUE_URL": unrecorded,
    }


def clear_caches() -> None:
    """Clear what functions cache between invocations."""
    clients.client.cache_clear()
    for module in HANDLERS:
        module.dependencies.cache_clear()


@contextmanager
def open_cloud(tmp_path: Any, policy: Policy = POLICY, **variables: str) -> Iterator[Cloud]:
    """Open a new cell. `variables` override the functions' environment."""
    (tmp_path / "policy.json").write_bytes(policy_to_json(policy))
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "LAMBDA_TASK_ROOT": str(tmp_path), **variables}.items():
            patch.setenv(name, value)
        clear_caches()
        boto3.setup_default_session(region_name=REGION)
        for name, value in make_resources().items():
            patch.setenv(name, variables.get(name, value))
        cloud = Cloud(policy)
        patch.setattr(SystemClock, "now", lambda _: cloud.now)
        cloud.aws.install()
        try:
            yield cloud
        finally:
            clear_caches()
            boto3.DEFAULT_SESSION = None

"""Stand-ins for two services that the emulator lacks: EventBridge's Custom Event Bus and Timestream.

`remove_unsupported` takes their resources out of a template, and `StandIns` serves the calls of the functions over
HTTP, by the properties of those resources. A stand-in does what AWS documents. It shows that the parts of a cell work
together around it, not that AWS's own service works with them.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple

from botocore.parsers import RpcV2CBORParser
from botocore.session import Session

from tests.e2e.emulator import ACCOUNT, REGION, Emulator

UNSUPPORTED = ("AWS::EventsV2::", "AWS::Logs::Delivery", "AWS::Timestream::")
"""Beginnings of the resource types that `remove_unsupported` removes."""

DEDUPLICATION_SECONDS = 300
"""Time in which a custom bus drops events with equal deduplication ids (EventBridge user guide)."""

Resources = dict[str, dict[str, Any]]


def remove_unsupported(stack: str, template: dict[str, Any]) -> Resources:
    """Remove the resources that need a stand-in from a stack's template, and return them by logical id.

    What refers to a removed resource gets a made-up ARN, which names the resource.
    """
    removed: Resources = {
        id: resource for id, resource in template["Resources"].items() if resource["Type"].startswith(UNSUPPORTED)
    }
    template["Resources"] = {
        id: _replace_references(resource, {id: stand_in_arn(stack, id) for id in removed})
        for id, resource in template["Resources"].items()
        if id not in removed
    }
    return removed


def _replace_references(value: Any, arns: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replace_references(inner, arns) for inner in value]
    if not isinstance(value, dict):
        return value
    target = value.get("Ref") or value.get("Fn::GetAtt", [None])[0]
    if target in arns:
        return arns[target]
    replaced = {name: _replace_references(inner, arns) for name, inner in value.items()}
    if "DependsOn" in replaced:
        names = replaced["DependsOn"] if isinstance(replaced["DependsOn"], list) else [replaced["DependsOn"]]
        replaced["DependsOn"] = [name for name in names if name not in arns]
    return replaced


def stand_in_arn(stack: str, logical_id: str) -> str:
    """Return the made-up ARN of a removed resource."""
    return f"arn:aws:events:{REGION}:{ACCOUNT}:stand-in/{stack}/{logical_id}"


class Subscriber(NamedTuple):
    """Subscriber of a custom bus: the events that it takes, its topic, and the parameters of a publication."""

    pattern: Mapping[str, list[str]]
    topic_arn: str
    parameters: Mapping[str, str]

    @classmethod
    def read(cls, properties: Mapping[str, Any], physical_ids: Mapping[str, str]) -> "Subscriber":
        (filter,) = properties["FilterConfiguration"]["Filters"]
        invocation = properties["InvokeConfiguration"]
        return cls(
            json.loads(filter["Pattern"]), physical_ids[invocation["TargetArn"]["Ref"]], invocation["SnsParameters"]
        )

    def matches(self, envelope: Mapping[str, Any]) -> bool:
        return all(envelope[name] in values for name, values in self.pattern.items())

    def publication(self, entry: Mapping[str, Any]) -> dict[str, str]:
        """Return the parameters of a publication, each of which is a JSONata expression of the event's metadata."""
        values = {}
        for name, expression in self.parameters.items():
            match = re.fullmatch(r"{% \$events\.SystemMetadata\.(\w+) %}", expression)
            assert match is not None, expression
            values[name] = entry["SystemMetadata"][match[1]]
        return values


class StandIns:
    """Server of the stand-ins, on a free port of the loopback interface."""

    def __init__(self) -> None:
        self.rows: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        """Rows by the names of their database and table, whose columns are Timestream's measures and dimensions."""
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._published_at: dict[tuple[str, str], float] = {}
        self._topics: Any = None
        self._lock = Lock()
        put_events = Session().get_service_model("eventbridgev2").operation_model("PutEvents")
        self._put_events_shape = put_events.input_shape
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.variables = {"AWS_ENDPOINT_URL_EVENTBRIDGEV2": self.url, "AWS_ENDPOINT_URL_TIMESTREAM_WRITE": self.url}
        """Environment variables by which boto3 finds the stand-ins."""

    def connect(self, emulator: Emulator, stack: str, removed: Resources) -> None:
        """Serve the resources that were removed from the template of a deployed stack."""
        physical_ids = emulator.physical_ids(stack)
        self._topics = emulator.client("sns")
        for id, resource in removed.items():
            properties = resource["Properties"]
            if resource["Type"] == "AWS::EventsV2::EventBus":
                self._subscribers[stand_in_arn(stack, id)] = []
            elif resource["Type"] == "AWS::Timestream::Table":
                self.rows[properties["DatabaseName"], properties["TableName"]] = []
        for resource in removed.values():
            properties = resource["Properties"]
            if resource["Type"] == "AWS::EventsV2::Subscriber":
                bus = stand_in_arn(stack, properties["EventBusArn"]["Fn::GetAtt"][0])
                self._subscribers[bus].append(Subscriber.read(properties, physical_ids))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put_events(self, body: bytes) -> tuple[int, bytes]:
        """Answer PutEvents of a custom bus, and publish the events to the topics of its subscribers, in their order."""
        received = {"status_code": 200, "headers": {"smithy-protocol": "rpc-v2-cbor"}, "body": body}
        request = RpcV2CBORParser().parse(received, self._put_events_shape)
        with self._lock:
            subscribers = self._subscribers.get(request["EventBusArn"])
            if subscribers is None:
                return 404, encode_cbor({"__type": "ResourceNotFoundException"})
            results = [self._publish(request["EventBusArn"], subscribers, entry) for entry in request["Entries"]]
        return 200, encode_cbor({"FailedEntryCount": 0, "Entries": results})

    def _publish(self, bus: str, subscribers: list[Subscriber], entry: Mapping[str, Any]) -> dict[str, str]:
        deduplication, now = entry["SystemMetadata"]["DeduplicationId"], time.monotonic()
        if now < self._published_at.get((bus, deduplication), -DEDUPLICATION_SECONDS) + DEDUPLICATION_SECONDS:
            return {"EventId": deduplication, "SuccessCode": "DEDUPLICATED"}
        self._published_at[bus, deduplication] = now
        envelope = {
            "version": "0",
            "id": deduplication,
            "detail-type": entry["DetailType"],
            "source": entry["Source"],
            "account": ACCOUNT,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "region": REGION,
            "resources": [],
            "detail": json.loads(entry["Detail"]),
        }
        for subscriber in subscribers:
            if subscriber.matches(envelope):
                message = json.dumps(envelope)
                self._topics.publish(TopicArn=subscriber.topic_arn, Message=message, **subscriber.publication(entry))
        return {"EventId": deduplication, "SuccessCode": "PUBLISHED"}

    def write_records(self, request: Mapping[str, Any]) -> tuple[int, bytes]:
        """Answer WriteRecords of Timestream, and add the records to the rows of their table."""
        table = request["DatabaseName"], request["TableName"]
        with self._lock:
            if table not in self.rows:
                return 400, json.dumps({"__type": "ResourceNotFoundException"}).encode()
            self.rows[table] += [_row(record, request["CommonAttributes"]) for record in request["Records"]]
        return 200, json.dumps({"RecordsIngested": {"Total": len(request["Records"])}}).encode()


def _row(record: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    dimensions = {one["Name"]: one["Value"] for one in [*common["Dimensions"], *record["Dimensions"]]}
    measures = {one["Name"]: one["Value"] for one in record["MeasureValues"]}
    return {"stage": record["MeasureName"], **dimensions, **measures}


def _handler(stand_ins: StandIns) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/service/AWSEventsV2/operation/PutEvents":
                self._respond(*stand_ins.put_events(body), "application/cbor")
            elif self.headers["x-amz-target"] == "Timestream_20181101.WriteRecords":
                self._respond(*stand_ins.write_records(json.loads(body)), "application/x-amz-json-1.0")
            elif self.headers["x-amz-target"] == "Timestream_20181101.DescribeEndpoints":
                endpoint = {"Address": stand_ins.url, "CachePeriodInMinutes": 60}
                self._respond(200, json.dumps({"Endpoints": [endpoint]}).encode(), "application/x-amz-json-1.0")
            else:
                self.send_error(501)

        def _respond(self, status: int, content: bytes, type: str) -> None:
            self.send_response(status)
            for name, value in (
                ("content-type", type),
                ("content-length", str(len(content))),
                ("smithy-protocol", "rpc-v2-cbor"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def encode_cbor(value: Any) -> bytes:
    """Encode whole numbers below 24, texts, lists and dicts in CBOR (RFC 8949), with lengths of two bytes."""
    if isinstance(value, int):
        assert 0 <= value < 24
        return bytes([value])
    if isinstance(value, str):
        text = value.encode()
        return b"\x79" + len(text).to_bytes(2) + text
    if isinstance(value, list):
        return b"\x99" + len(value).to_bytes(2) + b"".join(map(encode_cbor, value))
    return b"\xb9" + len(value).to_bytes(2) + b"".join(encode_cbor(part) for pair in value.items() for part in pair)

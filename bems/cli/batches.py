"""Batches of events of one stage, sent to a cell in one request, and the results in the response.

Sending is idempotent: a cell recognizes an event by its id.
"""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import click
import msgspec

from bems.cli.client import Client, Reply
from bems.cli.http_errors import NoResponse, ProblemDetails, read_json, read_problem
from bems.embedded.api.access import SENDERS
from bems.tracker.contract import Stage
from bems.tracker.parsing import MAX_BATCH_BYTES
from bems.tracker.responses import BatchResults, Error, EventAccepted, EventResult

Disposition = Literal["accepted", "duplicate", "conflict", "refused", "undelivered"]

MAX_EVENTS_BYTES = MAX_BATCH_BYTES - 1024
"""Maximum size of the events in one request; the rest of MAX_BATCH_BYTES is for the JSON around them."""

_RESULTS = msgspec.json.Decoder(BatchResults)
_ACCEPTANCE = msgspec.json.Decoder(EventAccepted)


class LineResult(NamedTuple):
    """The disposition of the event in a line of the log.

    The pointers of `errors` are relative to the event. `seconds` is the latency of the request that decided, 0 if none
    did.
    """

    line: int
    disposition: Disposition
    event_id: str | None = None
    errors: Sequence[Error] = ()
    seconds: float = 0.0


class BatchItem(NamedTuple):
    """An event as JSON, and the number of its line."""

    line: int
    event: bytes


class OutgoingBatch:
    """Events of one stage for one request. `opened_at` is the monotonic time of its creation, in seconds."""

    def __init__(self, stage: Stage, items: Sequence[BatchItem] = ()) -> None:
        self.stage = stage
        self.items = list(items)
        self.opened_at = time.monotonic()
        self.size = 0

    def add(self, item: BatchItem) -> None:
        self.items.append(item)
        self.size += len(item.event) + 1

    def fits(self, event: bytes) -> bool:
        """Return whether the event fits into the batch. An empty batch takes an event of any size."""
        return not self.items or self.size + len(event) < MAX_EVENTS_BYTES

    def split(self) -> list["OutgoingBatch"]:
        middle = len(self.items) // 2
        return [OutgoingBatch(self.stage, self.items[:middle]), OutgoingBatch(self.stage, self.items[middle:])]


class BatchResponse(NamedTuple):
    """The response to a batch.

    `results`              dispositions of the decided events.
    `retry`                events to send again, `retry_after_seconds` later at the earliest. `retry_reason` says why;
                           it is None if the cell only asks to slow down.
    `must_split`           the whole batch was refused, but its halves may be accepted. `is_too_large`: because of its
                           size.
    `fault`                the error, if no batch can be sent.
    """

    results: Sequence[LineResult] = ()
    retry: Sequence[BatchItem] = ()
    retry_after_seconds: float = 0.0
    retry_reason: str | None = None
    must_split: bool = False
    is_too_large: bool = False
    fault: click.ClickException | None = None


def post_batch(client: Client, batch: OutgoingBatch) -> BatchResponse:
    """Send the batch once."""
    path = f"/invoices/{batch.stage}"
    single = len(batch.items) == 1
    started_at = time.perf_counter()
    try:
        if single:
            reply = client.request("POST", path, batch.items[0].event)
        else:
            events = b",".join([item.event for item in batch.items])
            reply = client.request("POST", path + "/batch", b'{"events":[' + events + b"]}")
    except NoResponse as fault:
        return (
            BatchResponse(retry=batch.items, retry_reason=fault.message)
            if fault.retryable
            else BatchResponse(fault=fault)
        )
    seconds = time.perf_counter() - started_at
    if reply.status == 207 and not single:
        return _read_results(client, batch, reply, seconds)
    if single and reply.status in (202, 409):
        return _read_single(client, batch.items[0], reply, seconds)
    if reply.status in (400, 413):
        return _read_refusal(client, batch, reply, seconds)
    if reply.status in (408, 429) or reply.status >= 500:
        reason = None if reply.status == 429 else client.to_error(reply, SENDERS).message
        return BatchResponse(retry=batch.items, retry_after_seconds=reply.retry_after, retry_reason=reason)
    return BatchResponse(fault=client.to_error(reply, SENDERS))


def _read_results(client: Client, batch: OutgoingBatch, reply: Reply, seconds: float) -> BatchResponse:
    read = read_json(reply.body, _RESULTS)
    if read is None or len(read.results) != len(batch.items):
        return BatchResponse(fault=client.to_error(reply, SENDERS))
    results, retry = [], []
    for item, result in zip(batch.items, read.results, strict=True):
        if result.status == "unavailable":
            retry.append(item)
        else:
            results.append(LineResult(item.line, result.status, result.event_id, _errors(result), seconds))
    reason = f"{client.url}: the cell cannot accept every event now" if retry else None
    return BatchResponse(results, retry, reply.retry_after, reason)


def _read_single(client: Client, item: BatchItem, reply: Reply, seconds: float) -> BatchResponse:
    if reply.status == 409:
        errors = _errors(read_problem(reply.body) or ProblemDetails())
        return BatchResponse([LineResult(item.line, "conflict", event_id(item.event), errors, seconds)])
    acceptance = read_json(reply.body, _ACCEPTANCE)
    if acceptance is None:
        return BatchResponse(fault=client.to_error(reply, SENDERS))
    return BatchResponse([LineResult(item.line, acceptance.status, acceptance.event_id, (), seconds)])


def _read_refusal(client: Client, batch: OutgoingBatch, reply: Reply, seconds: float) -> BatchResponse:
    problem = read_problem(reply.body)
    if problem is None:
        if reply.status == 400:
            return BatchResponse(fault=client.to_error(reply, SENDERS))
        # A proxy in front of the cell answers 413 without JSON.
        problem = ProblemDetails(detail="it is too large")
    if len(batch.items) > 1:
        # API Gateway refuses a whole batch for one event without naming it; an embedded cell names it.
        return BatchResponse(must_split=True, is_too_large=bool(problem.detail) and not problem.errors)
    item = batch.items[0]
    return BatchResponse([LineResult(item.line, "refused", event_id(item.event), _errors(problem), seconds)])


def _errors(result: EventResult | ProblemDetails) -> Sequence[Error]:
    detail = result.detail or (result.message if isinstance(result, ProblemDetails) else None)
    return result.errors or ([Error("", detail)] if detail else ())


class _Identified(msgspec.Struct):
    event_id: str | None = None


_IDENTIFIED = msgspec.json.Decoder(_Identified)


def event_id(event: bytes) -> str | None:
    """Return the event's id; None if it cannot be read."""
    identified = read_json(event, _IDENTIFIED)
    return identified.event_id if identified else None

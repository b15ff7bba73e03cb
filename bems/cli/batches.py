"""Parcels: events of one stage that go to a cell in one request, and what its answer says of each.

Whatever is sent may be sent again: a cell knows an event that it has by its id.
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
"""Bytes of events in one request."""

_RESULTS = msgspec.json.Decoder(BatchResults)
_ACCEPTANCE = msgspec.json.Decoder(EventAccepted)


class LineResult(NamedTuple):
    """What became of the event in a line. `errors` have pointers into the event; `seconds` is the time from the request
    to the answer that told it, 0 where none did."""

    line: int
    disposition: Disposition
    event_id: str | None = None
    errors: Sequence[Error] = ()
    seconds: float = 0.0


class BatchItem(NamedTuple):
    """An event as it is sent, and its line."""

    line: int
    event: bytes


class Batch:
    """Events of one stage that go together. `opened` is when the first was put in, on the monotonic clock."""

    def __init__(self, stage: Stage, items: Sequence[BatchItem] = ()) -> None:
        self.stage = stage
        self.items = list(items)
        self.opened_at = time.monotonic()
        self.size = 0

    def add(self, item: BatchItem) -> None:
        self.items.append(item)
        self.size += len(item.event) + 1

    def fits(self, event: bytes) -> bool:
        """Whether there is room for it."""
        return not self.items or self.size + len(event) < MAX_EVENTS_BYTES

    def split(self) -> list["Batch"]:
        middle = len(self.items) // 2
        return [Batch(self.stage, self.items[:middle]), Batch(self.stage, self.items[middle:])]


class BatchResponse(NamedTuple):
    """What an answer says.

    `told`     of events whose fate is known.
    `again`    those to be sent once more, `pause` seconds later at the earliest; `trouble` says why, unless it is only
               that the cell wants them more slowly.
    `split`    the parcel was refused as a whole: its halves may not be. `size`: because it holds too many.
    `fault`    nothing can be sent like this.
    """

    results: Sequence[LineResult] = ()
    retry: Sequence[BatchItem] = ()
    retry_after_seconds: float = 0.0
    retry_reason: str | None = None
    must_split: bool = False
    is_too_large: bool = False
    fault: click.ClickException | None = None


def post_batch(client: Client, parcel: Batch) -> BatchResponse:
    """Send the parcel, once."""
    path = f"/invoices/{parcel.stage}"
    single = len(parcel.items) == 1
    begun = time.perf_counter()
    try:
        if single:
            reply = client.request("POST", path, parcel.items[0].event)
        else:
            events = b",".join([item.event for item in parcel.items])
            reply = client.request("POST", path + "/batch", b'{"events":[' + events + b"]}")
    except NoResponse as fault:
        return (
            BatchResponse(retry=parcel.items, retry_reason=fault.message)
            if fault.retryable
            else BatchResponse(fault=fault)
        )
    seconds = time.perf_counter() - begun
    if reply.status == 207 and not single:
        return _read_results(client, parcel, reply, seconds)
    if single and reply.status in (202, 409):
        return _read_single(client, parcel.items[0], reply, seconds)
    if reply.status in (400, 413):
        return _read_refusal(client, parcel, reply, seconds)
    if reply.status in (408, 429) or reply.status >= 500:
        trouble = None if reply.status == 429 else client.to_error(reply, SENDERS).message
        return BatchResponse(retry=parcel.items, retry_after_seconds=reply.retry_after, retry_reason=trouble)
    return BatchResponse(fault=client.to_error(reply, SENDERS))


def _read_results(client: Client, parcel: Batch, reply: Reply, seconds: float) -> BatchResponse:
    read = read_json(reply.body, _RESULTS)
    if read is None or len(read.results) != len(parcel.items):
        return BatchResponse(fault=client.to_error(reply, SENDERS))
    told, again = [], []
    for item, result in zip(parcel.items, read.results, strict=True):
        if result.status == "unavailable":
            again.append(item)
        else:
            told.append(LineResult(item.line, result.status, result.event_id, _errors(result), seconds))
    trouble = f"{client.url}: it cannot take everything now" if again else None
    return BatchResponse(told, again, reply.retry_after, trouble)


def _read_single(client: Client, item: BatchItem, reply: Reply, seconds: float) -> BatchResponse:
    if reply.status == 409:
        errors = _errors(read_problem(reply.body) or ProblemDetails())
        return BatchResponse([LineResult(item.line, "conflict", event_id(item.event), errors, seconds)])
    acceptance = read_json(reply.body, _ACCEPTANCE)
    if acceptance is None:
        return BatchResponse(fault=client.to_error(reply, SENDERS))
    return BatchResponse([LineResult(item.line, acceptance.status, acceptance.event_id, (), seconds)])


def _read_refusal(client: Client, parcel: Batch, reply: Reply, seconds: float) -> BatchResponse:
    said = read_problem(reply.body)
    if said is None:
        if reply.status == 400:
            return BatchResponse(fault=client.to_error(reply, SENDERS))
        # Whatever stands before the cell may think it too large, and need not speak JSON.
        said = ProblemDetails(detail="it is too large")
    if len(parcel.items) > 1:
        # API Gateway refuses a batch for one event in it, and does not say for which; our own cells do.
        return BatchResponse(must_split=True, is_too_large=bool(said.detail) and not said.errors)
    item = parcel.items[0]
    return BatchResponse([LineResult(item.line, "refused", event_id(item.event), _errors(said), seconds)])


def _errors(said: EventResult | ProblemDetails) -> Sequence[Error]:
    detail = said.detail or (said.message if isinstance(said, ProblemDetails) else None)
    return said.errors or ([Error("", detail)] if detail else ())


class _Named(msgspec.Struct):
    event_id: str | None = None


_NAMED = msgspec.json.Decoder(_Named)


def event_id(event: bytes) -> str | None:
    """What its sender called it, if that can be read."""
    named = read_json(event, _NAMED)
    return named.event_id if named else None

"""Endpoint of `POST /invoices/{stage}` and `POST /invoices/{stage}/batch`, which accept events.

It is plain ASGI, because nearly all requests come here: Starlette's routing and request objects would take as much time
as parsing the events.
"""

import asyncio
import logging
import time

from starlette.types import Receive, Scope, Send

from bems.embedded.api.access import SENDERS, Access, find_key
from bems.embedded.api.bodies import (
    ClientDisconnected,
    UnfinishedBodies,
    read_body,
    read_headers,
    send_response,
    with_connection_close,
)
from bems.embedded.api.metrics import Metrics
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.storage.errors import QueueFull, StoreFailed, StoreLost
from bems.embedded.writer import Stopped
from bems.tracker import responses
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.decisions import Receipt
from bems.tracker.parsing import MAX_BATCH_BYTES, MAX_EVENT_BYTES, InvalidEvent, parse_batch, parse_event
from bems.tracker.ports import Clock
from bems.tracker.responses import EventResult, HttpResponse

log = logging.getLogger(__name__)

PATHS: dict[str, tuple[Stage, bool]] = {
    f"/invoices/{stage}{'/batch' * batch}": (stage, batch) for stage in STAGES for batch in (False, True)
}
"""Stage and whether the body is a batch, by path."""


class EventEndpoint:
    """ASGI application that accepts events, and answers when they are durable. Create and use it in one event loop."""

    def __init__(
        self,
        bridge: WriterBridge,
        clock: Clock,
        access: Access,
        metrics: Metrics,
        max_batch: int,
        unfinished: UnfinishedBodies | None = None,
    ) -> None:
        self._unfinished = unfinished or UnfinishedBodies()
        self._clock, self._access, self._metrics = clock, access, metrics
        self._max_batch = max_batch
        self._bridge = bridge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST to one of PATHS."""
        stage, is_batch = PATHS[scope["path"]]
        try:
            answer = await self._handle(stage, is_batch, read_headers(scope["headers"]), receive)
        except ClientDisconnected:
            return
        except asyncio.CancelledError:
            # The server is shutting down and the time limit has passed. The event may be accepted nevertheless; sending
            # it again is idempotent.
            answer = with_connection_close(responses.unavailable())
        except Exception:
            log.exception("a request to %s failed", scope["path"])
            answer = responses.internal_error()
        if answer.status in responses.REFUSED_STATUSES:
            self._count(stage, "refused")
        self._metrics.count_request("POST", answer.status)
        await send_response(send, answer)

    async def _handle(
        self, stage: Stage, is_batch: bool, headers: dict[bytes, bytes], receive: Receive
    ) -> HttpResponse:
        key_text = find_key(headers)
        key = self._access.authorize(key_text, SENDERS, stage)
        if isinstance(key, HttpResponse):
            return key
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if not responses.is_json(content_type):
            return responses.unsupported_media_type(content_type)
        limit = MAX_BATCH_BYTES if is_batch else MAX_EVENT_BYTES
        body = await read_body(headers, receive, limit, self._unfinished, key)
        if isinstance(body, HttpResponse):
            return body
        if self._bridge.is_full:
            # Checked before parsing, which takes longer than a turn of the writer: an overloaded cell would spend most
            # of its time parsing events that it then refuses.
            self._count(stage, "unavailable")
            return responses.unavailable(1)
        started = time.perf_counter()
        answer = await (self._accept_batch(stage, body, key_text) if is_batch else self._accept_event(stage, body))
        self._metrics.send_seconds.observe(time.perf_counter() - started)
        return answer

    async def _accept_event(self, stage: Stage, body: bytes) -> HttpResponse:
        event = parse_event(stage, body, self._clock.now())
        if isinstance(event, InvalidEvent):
            return responses.bad_request(event)
        try:
            receipt = await self._bridge.submit(event)
        except Exception as error:
            self._count(stage, "unavailable")
            return _unavailable_response(error)
        self._count(stage, receipt.result)
        if receipt.result == "accepted":
            return responses.accepted(event.event_id)
        if receipt.result == "duplicate":
            return responses.duplicate(event.event_id)
        return responses.conflict(event.event_id)

    async def _accept_batch(self, stage: Stage, body: bytes, key_text: bytes | None) -> HttpResponse:
        events = parse_batch(stage, body, self._clock.now(), self._max_batch)
        if isinstance(events, InvalidEvent):
            return responses.bad_request(events)
        if len(events) > 1:
            key = self._access.authorize(key_text, SENDERS, stage, len(events))
            if isinstance(key, HttpResponse):
                return key
        submitted = [self._submit(event) if isinstance(event, Event) else event for event in events]
        results = []
        for event, answer in zip(events, submitted, strict=True):
            if isinstance(event, InvalidEvent):
                results.append(responses.invalid_event_result(event))
            else:
                assert not isinstance(answer, InvalidEvent)
                results.append(await self._await_result(event, answer))
        for result in results:
            self._count(stage, result.status)
        return responses.batch_results(results)

    def _submit(self, event: Event) -> "asyncio.Future[Receipt] | Exception":
        try:
            return self._bridge.submit(event)
        except (QueueFull, Stopped) as error:
            return error

    async def _await_result(self, event: Event, answer: "asyncio.Future[Receipt] | Exception") -> EventResult:
        try:
            if isinstance(answer, Exception):
                raise answer
            receipt = await answer
        except Exception as error:
            _unavailable_response(error)
            return responses.event_result(event.event_id, "unavailable", _public_reason(error))
        assert receipt.result != "refused" and receipt.result != "requested", "only commands are"
        return responses.event_result(event.event_id, receipt.result)

    def _count(self, stage: Stage, result: str) -> None:
        self._metrics.events[stage, result].inc()


def _unavailable_response(error: Exception) -> HttpResponse:
    """Return the 503 for an event that was not accepted. Log unexpected errors; the writer has logged the others."""
    if not isinstance(error, QueueFull | Stopped | StoreFailed):
        log.error("an event could not be accepted", exc_info=error)
    return responses.unavailable(1 if isinstance(error, QueueFull) else 5, _public_reason(error))


def _public_reason(error: Exception) -> str:
    """Return the part of the reason that a sender may see."""
    return str(error) if isinstance(error, StoreLost) else ""

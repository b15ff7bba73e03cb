"""The intake: `POST /invoices/{stage}` and `POST /invoices/{stage}/batch`, where events come in.

It is plain ASGI, because nearly every request comes here: a routing table and a request object would cost as much as
the gate.
"""

import asyncio
import logging
import time

from starlette.types import Receive, Scope, Send

from bems.embedded.api.access import SEND, Access, find_key
from bems.embedded.api.bodies import Gone, Unfinished, closing, read_body, read_headers, respond
from bems.embedded.api.landing import Landing
from bems.embedded.api.metrics import Metrics
from bems.embedded.reader import StoreFailed, StoreLost
from bems.embedded.writer import Busy, Stopped
from bems.tracker import answers
from bems.tracker.answers import HttpAnswer, Result
from bems.tracker.contract import STAGES, Event, Stage
from bems.tracker.decisions import Receipt
from bems.tracker.gate import BATCH_LIMIT, EVENT_LIMIT, Refusal, read_batch, read_event
from bems.tracker.ports import Clock

log = logging.getLogger(__name__)

PATHS: dict[str, tuple[Stage, bool]] = {
    f"/invoices/{stage}{'/batch' * batch}": (stage, batch) for stage in STAGES for batch in (False, True)
}
"""Stage, and whether it takes a batch, by path."""


class Intake:
    """Takes events, and answers when they are durable. It belongs to the event loop in which it is made."""

    def __init__(
        self,
        landing: Landing,
        clock: Clock,
        access: Access,
        metrics: Metrics,
        max_batch: int,
        unfinished: Unfinished | None = None,
    ) -> None:
        self._unfinished = unfinished or Unfinished()
        self._clock, self._access, self._metrics = clock, access, metrics
        self._max_batch = max_batch
        self._landing = landing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A POST to one of PATHS."""
        stage, batch = PATHS[scope["path"]]
        try:
            answer = await self._answer(stage, batch, read_headers(scope["headers"]), receive)
        except Gone:
            return
        except asyncio.CancelledError:
            # The server ends, and this took too long. Should it have been accepted after all, a repeat is harmless.
            answer = closing(answers.unavailable())
        except Exception:
            log.exception("a request to %s failed", scope["path"])
            answer = answers.failed()
        if answer.status in answers.REFUSED_WHOLE:
            self._count(stage, "refused")
        self._metrics.answered("POST", answer.status)
        await respond(send, answer)

    async def _answer(self, stage: Stage, batch: bool, headers: dict[bytes, bytes], receive: Receive) -> HttpAnswer:
        text = find_key(headers)
        admitted = self._access.admit(text, SEND, stage)
        if isinstance(admitted, HttpAnswer):
            return admitted
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if not answers.is_json(content_type):
            return answers.unsupported_media_type(content_type)
        limit = BATCH_LIMIT if batch else EVENT_LIMIT
        body = await read_body(headers, receive, limit, self._unfinished, admitted)
        if isinstance(body, HttpAnswer):
            return body
        if self._landing.full:
            # Before the gate, which takes longer than a turn: under more than it can take, a cell would do little else.
            self._count(stage, "unavailable")
            return answers.unavailable(1)
        begun = time.perf_counter()
        answer = await (self._batch(stage, body, text) if batch else self._event(stage, body))
        self._metrics.seconds.observe(time.perf_counter() - begun)
        return answer

    async def _event(self, stage: Stage, body: bytes) -> HttpAnswer:
        event = read_event(stage, body, self._clock.now())
        if isinstance(event, Refusal):
            return answers.refused(event)
        try:
            receipt = await self._landing.hand_in(event)
        except Exception as error:
            self._count(stage, "unavailable")
            return _unavailable(error)
        self._count(stage, receipt.result)
        if receipt.result == "accepted":
            return answers.accepted(event.event_id)
        if receipt.result == "duplicate":
            return answers.duplicate(event.event_id)
        return answers.conflict(event.event_id)

    async def _batch(self, stage: Stage, body: bytes, key: bytes | None) -> HttpAnswer:
        read = read_batch(stage, body, self._clock.now(), self._max_batch)
        if isinstance(read, Refusal):
            return answers.refused(read)
        if len(read) > 1:
            admitted = self._access.admit(key, SEND, stage, len(read))
            if isinstance(admitted, HttpAnswer):
                return admitted
        submitted = [self._submit(event) if isinstance(event, Event) else event for event in read]
        results = []
        for event, answer in zip(read, submitted, strict=True):
            if isinstance(event, Refusal):
                results.append(answers.refused_result(event))
            else:
                assert not isinstance(answer, Refusal)
                results.append(await self._result(event, answer))
        for result in results:
            self._count(stage, result.status)
        return answers.batch(results)

    def _submit(self, event: Event) -> "asyncio.Future[Receipt] | Exception":
        try:
            return self._landing.hand_in(event)
        except (Busy, Stopped) as error:
            return error

    async def _result(self, event: Event, answer: "asyncio.Future[Receipt] | Exception") -> Result:
        try:
            if isinstance(answer, Exception):
                raise answer
            receipt = await answer
        except Exception as error:
            _unavailable(error)
            return answers.result(event.event_id, "unavailable", _cause(error))
        assert receipt.result != "refused", "the core refuses no event"
        return answers.result(event.event_id, receipt.result)

    def _count(self, stage: Stage, result: str) -> None:
        self._metrics.events[stage, result].inc()


def _unavailable(error: Exception) -> HttpAnswer:
    """The event was not accepted. Why is in the log already, but for what nobody expects."""
    if not isinstance(error, Busy | Stopped | StoreFailed):
        log.error("an event could not be accepted", exc_info=error)
    return answers.unavailable(1 if isinstance(error, Busy) else 5, _cause(error))


def _cause(error: Exception) -> str:
    """What a sender, who has a key, may know of it."""
    return str(error) if isinstance(error, StoreLost) else ""

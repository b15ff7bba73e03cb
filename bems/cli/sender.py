"""Sending: events to a cell, in parcels, several at a time, until each has its answer or none is to be had."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bems.cli.batches import Batch, BatchItem, BatchResponse, LineResult, post_batch
from bems.cli.client import Client
from bems.cli.errors import Failure
from bems.cli.send_summary import SendSummary
from bems.tracker.contract import Stage
from bems.tracker.parsing import InvalidEvent
from bems.tracker.responses import to_error_list

LINGER_SECONDS = 0.1
"""Seconds that an event waits for company."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""Seconds before a request is repeated, where the cell does not say; doubled each time."""

PACING_SLACK_SECONDS = 0.005
"""Seconds that sending may be ahead of its rate: shorter naps are not worth taking."""


class Sender:
    """Sends events, `batch` in a request at most, `in_flight` requests at once, `rate` events a second at most.

    What fails in passing (no connection, 408, 429, 5xx) is tried again for `retries_for` seconds, as slowly as the cell
    asks for; if nothing at all gets through in that time, everything is given up, and `fault` says why. `told` hears
    what became of every event and `troubled` why something is tried again, one at a time, in threads of the sender's.

    `send` and `finish` are for one thread, and block while as much is under way as may be: memory stays bounded.
    """

    def __init__(
        self,
        client: Client,
        *,
        batch: int = 100,
        in_flight: int = 4,
        rate: float | None = None,
        retries_for: float = 300.0,
        on_result: Callable[[LineResult], object] | None = None,
        on_retry: Callable[[str], object] | None = None,
    ) -> None:
        self.summary = SendSummary()
        self.fault: Exception | None = None
        self._client, self._batch, self._in_flight = client, batch, in_flight
        self._rate, self._retries_for = rate, retries_for
        self._told, self._troubled = on_result or _nothing, on_retry or _nothing
        self._begun: float | None = None
        self._next = 0.0
        self._progress = time.monotonic()
        self._queue = threading.Lock()
        self._not_empty, self._not_full = threading.Condition(self._queue), threading.Condition(self._queue)
        self._open: dict[Stage, Batch] = {}
        self._ready: deque[Batch] = deque()
        self._closing = False
        self._ended = threading.Event()
        self._telling = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"bems-send-{number}", daemon=True) for number in range(in_flight)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, stage: Stage, event: bytes, line: int) -> bool:
        """Have the event sent; False if all has been given up. It is told of as that of `line`."""
        self._pace()
        with self._queue:
            while len(self._ready) >= self._in_flight and not self._ended.is_set():
                self._not_full.wait()
            if self._ended.is_set():
                return False
            parcel = self._open.get(stage)
            if parcel is not None and not parcel.fits(event):
                self._close(parcel)
                parcel = None
            if parcel is None:
                parcel = self._open[stage] = Batch(stage)
                self._not_empty.notify()
            parcel.add(BatchItem(line, event))
            if len(parcel.items) >= self._batch:
                self._close(parcel)
        return True

    def refuse(self, line: int, refusal: InvalidEvent) -> None:
        """Count a line that is not even worth sending, and tell of it like the others."""
        self._start()
        self._report([LineResult(line, "refused", refusal.event_id, to_error_list(refusal.errors))])

    def finish(self) -> SendSummary:
        """Wait until every event has its answer, or is given up. Twice is harmless."""
        with self._queue:
            self._closing = True
            self._not_empty.notify_all()
        for thread in self._threads:
            # In steps, so that a person can interrupt it on every system.
            while thread.is_alive():
                thread.join(0.5)
        self.summary.seconds = time.monotonic() - self._begun if self._begun is not None else 0.0
        return self.summary

    def abandon(self, fault: Exception | None = None) -> None:
        """Send no more: requests under way are waited for by `finish`, all else is undelivered."""
        with self._queue:
            self.fault = self.fault or fault
            self._ended.set()
            left = [item for parcel in (*self._ready, *self._open.values()) for item in parcel.items]
            self._ready.clear()
            self._open.clear()
            self._not_empty.notify_all()
            self._not_full.notify_all()
        self._mark_undelivered(left)

    def _start(self) -> None:
        if self._begun is None:
            self._begun = self._next = self._progress = time.monotonic()

    def _pace(self) -> None:
        self._start()
        if self._rate is not None:
            ahead = self._next - time.monotonic()
            if ahead > PACING_SLACK_SECONDS:
                self._ended.wait(ahead)
            # Time that was not used is not made up for.
            self._next = max(self._next, time.monotonic() - 2 * PACING_SLACK_SECONDS) + 1 / self._rate

    def _close(self, parcel: Batch) -> None:
        del self._open[parcel.stage]
        self._ready.append(parcel)
        self._not_empty.notify()

    # -- the threads

    def _run(self) -> None:
        try:
            while parcel := self._next_batch():
                self._deliver(parcel)
        except Exception as error:
            self.abandon(error)

    def _next_batch(self) -> Batch | None:
        """The next parcel to send; None at the end."""
        with self._queue:
            while True:
                oldest = min(self._open.values(), key=lambda parcel: parcel.opened_at, default=None)
                wait = None if oldest is None else oldest.opened_at + LINGER_SECONDS - time.monotonic()
                if self._ready:
                    parcel = self._ready.popleft()
                elif oldest is not None and (self._closing or (wait is not None and wait <= 0)):
                    parcel = self._open.pop(oldest.stage)
                elif self._closing or self._ended.is_set():
                    return None
                else:
                    self._not_empty.wait(wait)
                    continue
                self._not_full.notify()
                # Another one has to look after the parcels that are open.
                self._not_empty.notify()
                return parcel

    def _deliver(self, parcel: Batch) -> None:
        waiting = [parcel]
        while waiting:
            parcel = waiting.pop()
            outcome = self._send_with_retries(parcel)
            if outcome.must_split:
                if outcome.is_too_large:
                    self._batch = max(1, min(self._batch, len(parcel.items) // 2))
                waiting += parcel.split()

    def _send_with_retries(self, parcel: Batch) -> BatchResponse:
        """Send it until there is nothing left to repeat."""
        pause, since = MIN_PAUSE_SECONDS, 0.0
        while not self._ended.is_set():
            begun = time.monotonic()
            outcome = post_batch(self._client, parcel)
            self._report(outcome.results, outcome)
            if outcome.fault is not None:
                self.abandon(outcome.fault)
                break
            if not outcome.retry:
                return outcome
            parcel = Batch(parcel.stage, outcome.retry)
            since = since or begun
            wait = outcome.retry_after_seconds + pause * random.uniform(0.5, 1)
            if time.monotonic() + wait > since + self._retries_for:
                if self._progress < since:
                    self.abandon(self._too_long(outcome.retry_reason))
                break
            if outcome.retry_reason:
                with self._telling:
                    self._troubled(outcome.retry_reason)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self._ended.wait(wait)
        self._mark_undelivered(parcel.items)
        return BatchResponse()

    def _too_long(self, trouble: str | None) -> Failure:
        trouble = trouble or f"{self._client.url}: too many requests"
        return Failure(f"{trouble} (given up after {self._retries_for:.0f} seconds)")

    def _mark_undelivered(self, items: Iterable[BatchItem]) -> None:
        self._report([LineResult(item.line, "undelivered") for item in items])

    def _report(self, several: Sequence[LineResult], outcome: BatchResponse | None = None) -> None:
        with self._telling:
            if several and outcome is not None:
                self._progress = time.monotonic()
                self.summary.requests.add(several[0].seconds)
            if outcome is not None and outcome.retry:
                self.summary.retries += 1
            for told in several:
                self.summary.add(told)
                self._told(told)


def _nothing(_: object) -> None:
    pass

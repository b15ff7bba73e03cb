"""Sends events to a cell in batches, several concurrently, and retries until each is answered or given up."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bems.cli.batches import BatchItem, BatchResponse, LineResult, OutgoingBatch, post_batch
from bems.cli.client import Client
from bems.cli.errors import Failure
from bems.cli.send_summary import SendSummary
from bems.tracker.contract import Stage
from bems.tracker.parsing import InvalidEvent
from bems.tracker.responses import to_error_list

LINGER_SECONDS = 0.1
"""Maximum number of seconds that an event waits for its batch to fill."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0
"""Bounds of the pause before a retry, in addition to the cell's Retry-After; it doubles each time."""

PACING_SLACK_SECONDS = 0.005
"""Seconds that sending may be ahead of its rate, because shorter sleeps are inefficient."""


class Sender:
    """Sends events with at most `batch` per request, `in_flight` concurrent requests and `rate` events per second.

    Temporary errors (no connection, 408, 429, 5xx) are retried for `retries_for` seconds, no faster than the cell's
    Retry-After. If no event is decided in that time, the sender gives up and `fault` says why. Its own threads call
    `on_result` with the result of each event and `on_retry` with the reason of a retry, one call at a time.

    Call `send` and `finish` from one thread. They block while `in_flight` batches wait, so memory is bounded.
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
        self._client, self._max_batch_events, self._in_flight = client, batch, in_flight
        self._rate, self._retries_for = rate, retries_for
        self._on_result, self._on_retry = on_result or _do_nothing, on_retry or _do_nothing
        self._started_at: float | None = None
        self._next_send_at = 0.0
        self._last_progress_at = time.monotonic()
        self._lock = threading.Lock()
        self._not_empty, self._not_full = threading.Condition(self._lock), threading.Condition(self._lock)
        self._open_batches: dict[Stage, OutgoingBatch] = {}
        self._full_batches: deque[OutgoingBatch] = deque()
        self._closing = False
        self._stopped = threading.Event()
        self._callback_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"bems-send-{number}", daemon=True) for number in range(in_flight)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, stage: Stage, event: bytes, line: int) -> bool:
        """Queue the event of line number `line`; return False if the sender has given up."""
        self._pace()
        with self._lock:
            while len(self._full_batches) >= self._in_flight and not self._stopped.is_set():
                self._not_full.wait()
            if self._stopped.is_set():
                return False
            batch = self._open_batches.get(stage)
            if batch is not None and not batch.fits(event):
                self._close(batch)
                batch = None
            if batch is None:
                batch = self._open_batches[stage] = OutgoingBatch(stage)
                self._not_empty.notify()
            batch.add(BatchItem(line, event))
            if len(batch.items) >= self._max_batch_events:
                self._close(batch)
        return True

    def refuse(self, line: int, refusal: InvalidEvent) -> None:
        """Count and report a line as refused without sending it."""
        self._start()
        self._report([LineResult(line, "refused", refusal.event_id, to_error_list(refusal.errors))])

    def finish(self) -> SendSummary:
        """Wait until every event is decided or given up, and return the summary. Idempotent."""
        with self._lock:
            self._closing = True
            self._not_empty.notify_all()
        for thread in self._threads:
            # Join with a timeout, so that Ctrl-C can interrupt it on every system.
            while thread.is_alive():
                thread.join(0.5)
        self.summary.seconds = time.monotonic() - self._started_at if self._started_at is not None else 0.0
        return self.summary

    def abandon(self, fault: Exception | None = None) -> None:
        """Stop sending. `finish` still waits for the requests in flight; all other events are undelivered."""
        with self._lock:
            self.fault = self.fault or fault
            self._stopped.set()
            left = [item for batch in (*self._full_batches, *self._open_batches.values()) for item in batch.items]
            self._full_batches.clear()
            self._open_batches.clear()
            self._not_empty.notify_all()
            self._not_full.notify_all()
        self._mark_undelivered(left)

    def _start(self) -> None:
        if self._started_at is None:
            self._started_at = self._next_send_at = self._last_progress_at = time.monotonic()

    def _pace(self) -> None:
        self._start()
        if self._rate is not None:
            ahead = self._next_send_at - time.monotonic()
            if ahead > PACING_SLACK_SECONDS:
                self._stopped.wait(ahead)
            # Do not catch up on unused time.
            self._next_send_at = max(self._next_send_at, time.monotonic() - 2 * PACING_SLACK_SECONDS) + 1 / self._rate

    def _close(self, batch: OutgoingBatch) -> None:
        del self._open_batches[batch.stage]
        self._full_batches.append(batch)
        self._not_empty.notify()

    # -- threads

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._deliver(batch)
        except Exception as error:
            self.abandon(error)

    def _next_batch(self) -> OutgoingBatch | None:
        """Return the next batch to send; None at the end."""
        with self._lock:
            while True:
                oldest = min(self._open_batches.values(), key=lambda batch: batch.opened_at, default=None)
                wait = None if oldest is None else oldest.opened_at + LINGER_SECONDS - time.monotonic()
                if self._full_batches:
                    batch = self._full_batches.popleft()
                elif oldest is not None and (self._closing or (wait is not None and wait <= 0)):
                    batch = self._open_batches.pop(oldest.stage)
                elif self._closing or self._stopped.is_set():
                    return None
                else:
                    self._not_empty.wait(wait)
                    continue
                self._not_full.notify()
                # Wake another thread to watch the open batches.
                self._not_empty.notify()
                return batch

    def _deliver(self, batch: OutgoingBatch) -> None:
        waiting = [batch]
        while waiting:
            batch = waiting.pop()
            outcome = self._send_with_retries(batch)
            if outcome.must_split:
                if outcome.is_too_large:
                    self._max_batch_events = max(1, min(self._max_batch_events, len(batch.items) // 2))
                waiting += batch.split()

    def _send_with_retries(self, batch: OutgoingBatch) -> BatchResponse:
        """Send the batch, and again those of its events that must be retried, until all are decided or given up."""
        pause, since = MIN_PAUSE_SECONDS, 0.0
        while not self._stopped.is_set():
            started_at = time.monotonic()
            outcome = post_batch(self._client, batch)
            self._report(outcome.results, outcome)
            if outcome.fault is not None:
                self.abandon(outcome.fault)
                break
            if not outcome.retry:
                return outcome
            batch = OutgoingBatch(batch.stage, outcome.retry)
            since = since or started_at
            wait = outcome.retry_after_seconds + pause * random.uniform(0.5, 1)
            if time.monotonic() + wait > since + self._retries_for:
                if self._last_progress_at < since:
                    self.abandon(self._to_timeout_failure(outcome.retry_reason))
                break
            if outcome.retry_reason:
                with self._callback_lock:
                    self._on_retry(outcome.retry_reason)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self._stopped.wait(wait)
        self._mark_undelivered(batch.items)
        return BatchResponse()

    def _to_timeout_failure(self, reason: str | None) -> Failure:
        reason = reason or f"{self._client.url}: too many requests"
        return Failure(f"{reason} (given up after {self._retries_for:.0f} seconds)")

    def _mark_undelivered(self, items: Iterable[BatchItem]) -> None:
        self._report([LineResult(item.line, "undelivered") for item in items])

    def _report(self, results: Sequence[LineResult], outcome: BatchResponse | None = None) -> None:
        with self._callback_lock:
            if results and outcome is not None:
                self._last_progress_at = time.monotonic()
                self.summary.requests.add(results[0].seconds)
            if outcome is not None and outcome.retry:
                self.summary.retries += 1
            for result in results:
                self.summary.add(result)
                self._on_result(result)


def _do_nothing(_: object) -> None:
    pass

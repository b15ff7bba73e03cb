"""Dispatcher of one destination: a thread that takes due deliveries from the outbox and sends a few at a time.

A failed delivery is retried with increasing delays. During an outage of the whole destination (no answer, overload),
only one delivery at a time is attempted, as a probe for all others, with a backoff of the destination's own in between.
An hour of outage therefore costs about a dozen attempts, whatever the number of waiting deliveries. The first success
ends the outage.
"""

import logging
import threading
import time
import traceback
from typing import NamedTuple

import apsw
from msgspec import structs

from bems.embedded.alerting.delivery import Delivery, Destination, NotDelivered, Now
from bems.embedded.alerting.outbox import Outbox
from bems.tracker.instants import DAY, LATEST, MINUTE, SECOND, Instant

log = logging.getLogger(__name__)

RETRY_DELAYS = (SECOND, 5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE)
"""Delay after each failed attempt, in microseconds; the last one repeats."""

GIVE_UP_AFTER = DAY
"""Time from the first attempt until a delivery is given up, in microseconds."""

MAX_IN_FLIGHT = 4
"""Maximum number of concurrent requests to a destination."""

POLL_SECONDS = 1.0
"""Interval of polling when nothing seems due, because the system clock may jump."""

MAX_IDS_IN_LOG = 10


class _Attempt(NamedTuple):
    delivery: Delivery
    started_at: Instant
    is_probe: bool


class _Outage(NamedTuple):
    """Number of consecutive failures, and the instant of the next attempt."""

    failures: int = 0
    until: Instant = 0


_NO_OUTAGE = _Outage()


class Dispatcher:
    """Sends the deliveries of one destination, from `start` to `stop`."""

    def __init__(self, destination: Destination, outbox: Outbox, now: Now, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.key = destination.key
        self._destination = destination
        self._outbox = outbox
        self._now = now
        self._max_in_flight = max_in_flight
        self._outage = _NO_OUTAGE
        self._delivery_error: str | None = None
        """Error of the last delivery, if it failed."""
        self._outbox_error: str | None = None
        """Error of the last access to the outbox, if it failed."""
        self._in_flight: dict[int, _Attempt] = {}
        self._completed: list[tuple[_Attempt, NotDelivered | None]] = []
        self._changed = threading.Condition()
        self._woken = False
        self._skip_backoff = False
        self._stop_deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"bems-{self.key}"[:60], daemon=True)

    # -- for any thread

    @property
    def failure(self) -> str | None:
        """The errors of the outbox and of the last delivery; None if neither failed."""
        return "; ".join(filter(None, (self._outbox_error, self._delivery_error))) or None

    def start(self) -> None:
        self._thread.start()

    def wake(self, *, skip_backoff: bool = False) -> None:
        """Check for due deliveries now. `skip_backoff` also sends one during an outage's backoff."""
        with self._changed:
            self._woken = True
            self._skip_backoff = self._skip_backoff or skip_backoff
            self._changed.notify()

    def stop(self, deadline: float) -> None:
        """Stop sending. Requests in flight have until `deadline`, a value of `time.monotonic()`."""
        with self._changed:
            self._stop_deadline = deadline
            self._changed.notify()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    # -- the dispatcher's thread

    def _run(self) -> None:
        while True:
            next_poll = self.poll()
            if self._stop_deadline is not None:
                expired = time.monotonic() >= self._stop_deadline
                if next_poll is None or not self._in_flight or expired:
                    return
            self._sleep(next_poll)

    def poll(self) -> Instant | None:
        """Record results and send due deliveries.

        Returns the instant of the next poll, or None if the outbox cannot be used. Runs in the dispatcher's thread; a
        caller that uses no threads calls it instead of `start`.
        """
        try:
            self._record_results()
            next_poll = self._dispatch() if self._stop_deadline is None else LATEST
        except Exception as error:
            # The results are kept until they are recorded. Nothing is sent in the meantime: it would be sent again and
            # again.
            message = f"the outbox cannot be used: {error}"
            # Log it once, because the poll is repeated every second.
            if message != self._outbox_error:
                log.error("%s: %s", self.key, message, exc_info=not isinstance(error, apsw.Error))
            self._outbox_error = message
            return None
        self._outbox_error = None
        return next_poll

    def _sleep(self, next_poll: Instant | None) -> None:
        """Wait for a result, a call of `wake` or `next_poll`. If that is None, wait for the poll interval or `stop`."""
        with self._changed:
            if next_poll is None:
                self._changed.wait_for(lambda: self._stop_deadline is not None, POLL_SECONDS)
                return
            seconds = min(POLL_SECONDS, (next_poll - self._now()) / SECOND)
            if self._stop_deadline is not None:
                seconds = min(seconds, self._stop_deadline - time.monotonic())
            if seconds > 0 and not self._woken and not self._completed:
                self._changed.wait(seconds)
            self._woken = False

    # -- sending

    def _dispatch(self) -> Instant:
        """Send due deliveries within the limits. Returns the instant of the next poll if no result arrives earlier."""
        now, outage = self._now(), self._outage
        free = (1 if outage.failures else self._max_in_flight) - len(self._in_flight)
        if free <= 0:
            return LATEST
        if now < outage.until and not self._skip_backoff:
            return outage.until
        self._skip_backoff = False
        for delivery in self._outbox.next_per_invoice(self.key, free + len(self._in_flight)):
            if delivery.seq in self._in_flight:
                continue
            if delivery.due > now:
                return delivery.due
            attempt = _Attempt(delivery, now, is_probe=outage.failures > 0)
            threading.Thread(target=self._send, args=[attempt], name="bems-send", daemon=True).start()
            self._in_flight[delivery.seq] = attempt
            free -= 1
            if not free:
                break
        return LATEST

    def _send(self, attempt: _Attempt) -> None:
        failure: NotDelivered | None = None
        try:
            self._destination.send(attempt.delivery.alert)
        except NotDelivered as error:
            failure = error
        except Exception as error:
            # The exception's text is not logged, because it may hold a secret.
            kind, where = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            log.error("%s: %s while sending alert %s\n%s", self.key, kind, attempt.delivery.alert.id, where)
            failure = NotDelivered(f"sending failed ({kind})", outage=False)
        with self._changed:
            self._completed.append((attempt, failure))
            self._changed.notify()

    # -- results

    def _record_results(self) -> None:
        with self._changed:
            results = self._completed[:]
        if not results:
            return
        now, outage, last_error = self._now(), self._outage, self._delivery_error
        given_up: list[str] = []
        with self._outbox.transaction():
            for attempt, failure in results:
                if failure is None:
                    self._outbox.remove(attempt.delivery)
                    # Reset it even without an outage: after a restart, only the outbox knows of the earlier one.
                    self._outbox.reset_giveup_timer(self.key)
                    outage, last_error = _NO_OUTAGE, None
                    continue
                last_error = str(failure)
                delivery = _after_failure(attempt, failure, now)
                self._outbox.update(delivery)
                if delivery.state == "failed":
                    given_up.append(delivery.alert.id)
                if failure.outage and (attempt.is_probe or not outage.failures):
                    outage = _Outage(outage.failures + 1, now + _retry_delay(outage.failures + 1, failure))
                    self._outbox.start_giveup_timer(self.key, attempt.started_at)
                    given_up += self._outbox.give_up(self.key, now - GIVE_UP_AFTER, last_error)
        self._log_outcome(outage, last_error, given_up)
        self._outage, self._delivery_error = outage, last_error
        with self._changed:
            del self._completed[: len(results)]
        for attempt, _ in results:
            del self._in_flight[attempt.delivery.seq]

    def _log_outcome(self, outage: _Outage, last_error: str | None, given_up: list[str]) -> None:
        if given_up:
            more = f" and {len(given_up) - MAX_IDS_IN_LOG} more" if len(given_up) > MAX_IDS_IN_LOG else ""
            ids = ", ".join(given_up[:MAX_IDS_IN_LOG]) + more
            log.error("%s: given up after a day: alert %s: %s", self.key, ids, last_error)
        elif last_error and not self._delivery_error:
            log.warning("%s: an alert was not delivered and will be retried: %s", self.key, last_error)
        if self._outage.failures and not outage.failures:
            log.warning("%s: alerts are delivered again", self.key)


def _retry_delay(failures: int, failure: NotDelivered) -> Instant:
    """Return the delay after the nth failure, or the pause that the receiver asked for if that is longer."""
    return max(RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1], failure.retry_after or 0)


def _after_failure(attempt: _Attempt, failure: NotDelivered, now: Instant) -> Delivery:
    """Return the delivery after a failed attempt. The last attempt happens at the end of the give-up period."""
    delivery = attempt.delivery
    attempts = delivery.attempts + 1
    tried_at = delivery.tried_at if delivery.tried_at is not None else attempt.started_at
    give_up_at = tried_at + GIVE_UP_AFTER
    return structs.replace(
        delivery,
        attempts=attempts,
        due=min(now + _retry_delay(attempts, failure), give_up_at),
        tried_at=tried_at,
        state="failed" if now >= give_up_at else "waiting",
        error=str(failure),
    )

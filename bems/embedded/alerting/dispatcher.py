"""The courier of one destination: a thread that takes what is due from the outbox and has it sent, a few at a time.

A delivery that fails is tried again with backoff. While the destination as a whole fails (nobody answers, it is
overloaded), one at a time is tried, in turn, and stands for all, with a backoff of the destination's own in between. So
an hour without it costs a dozen attempts, however many wait. The first that it takes sets all going again.
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
"""How long to wait after each failure; after all further ones, the last."""

GIVE_UP_AFTER = DAY
"""Since it was first tried."""

MAX_IN_FLIGHT = 4
"""So many are sent at a time."""

POLL_SECONDS = 1.0
"""Seconds after which it looks again though nothing seems due: a machine's clock may jump."""

_NAMED = 10


class _Sending(NamedTuple):
    delivery: Delivery
    began: Instant
    probe: bool


class _Outage(NamedTuple):
    """So many failures in a row; before `until` nothing is sent."""

    failures: int = 0
    until: Instant = 0


_NONE = _Outage()


class Dispatcher:
    """Brings the deliveries of a destination to it, from `start` to `stop`."""

    def __init__(self, destination: Destination, outbox: Outbox, now: Now, at_once: int = MAX_IN_FLIGHT) -> None:
        self.key = destination.key
        self._destination = destination
        self._outbox = outbox
        self._now = now
        self._at_once = at_once
        self._outage = _NONE
        self._refusal: str | None = None
        """Why the destination did not take what it was sent last."""
        self._outbox_error: str | None = None
        """Why the outbox could not be used the last time."""
        self._in_flight: dict[int, _Sending] = {}
        self._completed: list[tuple[_Sending, NotDelivered | None]] = []
        self._changed = threading.Condition()
        self._poked = False
        self._hurry = False
        self._stop_by: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"bems-{self.key}"[:60], daemon=True)

    # -- for any thread

    @property
    def failure(self) -> str | None:
        """Why the destination did not take what it was sent last, and why the outbox cannot be used; None while all
        goes well."""
        return "; ".join(filter(None, (self._outbox_error, self._refusal))) or None

    def start(self) -> None:
        self._thread.start()

    def poke(self, *, hurry: bool = False) -> None:
        """Look: there is something new, or the clock was moved. `hurry`: try at once, though the destination fails."""
        with self._changed:
            self._poked = True
            self._hurry = self._hurry or hurry
            self._changed.notify()

    def stop(self, by: float) -> None:
        """Send nothing more. What is being sent has until `by`, of time.monotonic()."""
        with self._changed:
            self._stop_by = by
            self._changed.notify()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    # -- its own thread

    def _run(self) -> None:
        while True:
            wake = self.poll()
            if self._stop_by is not None and (not wake or not self._in_flight or time.monotonic() >= self._stop_by):
                return
            self._sleep(wake)

    def poll(self) -> Instant | None:
        """Settle what came back, send what is due; when to look again, None where the outbox cannot be used.

        For its own thread, or for whoever is in its place before `start`.
        """
        try:
            self._settle()
            wake = self._dispatch() if self._stop_by is None else LATEST
        except Exception as error:
            # What came back is kept until it is settled, and nothing is sent meanwhile: it would be sent for ever.
            trouble = f"the outbox cannot be used: {error}"
            # Once: it is tried again every second.
            if trouble != self._outbox_error:
                log.error("%s: %s", self.key, trouble, exc_info=not isinstance(error, apsw.Error))
            self._outbox_error = trouble
            return None
        self._outbox_error = None
        return wake

    def _sleep(self, wake: Instant | None) -> None:
        """Until something comes back or is new, or `wake` is reached; for a moment, whatever comes, if that is None."""
        with self._changed:
            if wake is None:
                self._changed.wait_for(lambda: self._stop_by is not None, POLL_SECONDS)
                return
            seconds = min(POLL_SECONDS, (wake - self._now()) / SECOND)
            if self._stop_by is not None:
                seconds = min(seconds, self._stop_by - time.monotonic())
            if seconds > 0 and not self._poked and not self._completed:
                self._changed.wait(seconds)
            self._poked = False

    # -- what goes out

    def _dispatch(self) -> Instant:
        """Send what is due, as far as may be; when to look again, if nothing comes back before."""
        now, outage = self._now(), self._outage
        free = (1 if outage.failures else self._at_once) - len(self._in_flight)
        if free <= 0:
            return LATEST
        if now < outage.until and not self._hurry:
            return outage.until
        self._hurry = False
        for delivery in self._outbox.next_per_invoice(self.key, free + len(self._in_flight)):
            if delivery.seq in self._in_flight:
                continue
            if delivery.due > now:
                return delivery.due
            sending = _Sending(delivery, now, probe=outage.failures > 0)
            threading.Thread(target=self._send, args=[sending], name="bems-send", daemon=True).start()
            self._in_flight[delivery.seq] = sending
            free -= 1
            if not free:
                break
        return LATEST

    def _send(self, sending: _Sending) -> None:
        failure: NotDelivered | None = None
        try:
            self._destination.send(sending.delivery.alert)
        except NotDelivered as error:
            failure = error
        except Exception as error:
            # Its text is not logged: nobody knows what is in it.
            kind, where = type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
            log.error("%s: %s in sending alert %s\n%s", self.key, kind, sending.delivery.alert.id, where)
            failure = NotDelivered(f"it could not be sent ({kind})", outage=False)
        with self._changed:
            self._completed.append((sending, failure))
            self._changed.notify()

    # -- what comes back

    def _settle(self) -> None:
        with self._changed:
            returned = self._completed[:]
        if not returned:
            return
        now, outage, refusal = self._now(), self._outage, self._refusal
        given_up: list[str] = []
        with self._outbox.transaction():
            for sending, failure in returned:
                if failure is None:
                    self._outbox.remove(sending.delivery)
                    # Also after a restart, which forgets the outage and not since when it is.
                    self._outbox.reset_giveup_timer(self.key)
                    outage, refusal = _NONE, None
                    continue
                refusal = str(failure)
                tried = _tried(sending, failure, now)
                self._outbox.update(tried)
                if tried.state == "failed":
                    given_up.append(tried.alert.id)
                if failure.outage and (sending.probe or not outage.failures):
                    outage = _Outage(outage.failures + 1, now + _pause(outage.failures + 1, failure))
                    self._outbox.start_giveup_timer(self.key, sending.began)
                    given_up += self._outbox.give_up(self.key, now - GIVE_UP_AFTER, refusal)
        self._log_outcome(outage, refusal, given_up)
        self._outage, self._refusal = outage, refusal
        with self._changed:
            del self._completed[: len(returned)]
        for sending, _ in returned:
            del self._in_flight[sending.delivery.seq]

    def _log_outcome(self, outage: _Outage, refusal: str | None, given_up: list[str]) -> None:
        if given_up:
            more = f" and {len(given_up) - _NAMED} more" if len(given_up) > _NAMED else ""
            named = ", ".join(given_up[:_NAMED]) + more
            log.error("%s: given up after a day: alert %s: %s", self.key, named, refusal)
        elif refusal and not self._refusal:
            log.warning("%s: an alert was not taken, and is tried again: %s", self.key, refusal)
        if self._outage.failures and not outage.failures:
            log.warning("%s: alerts are taken again", self.key)


def _pause(failures: int, failure: NotDelivered) -> Instant:
    """How long to wait after so many failures: what the receiver asked for, if that is longer."""
    return max(RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1], failure.retry_after or 0)


def _tried(sending: _Sending, failure: NotDelivered, now: Instant) -> Delivery:
    """The delivery after an attempt that failed. The last attempt is made when its day is over."""
    delivery = sending.delivery
    attempts = delivery.attempts + 1
    tried_at = delivery.tried_at if delivery.tried_at is not None else sending.began
    last = tried_at + GIVE_UP_AFTER
    return structs.replace(
        delivery,
        attempts=attempts,
        due=min(now + _pause(attempts, failure), last),
        tried_at=tried_at,
        state="failed" if now >= last else "waiting",
        error=str(failure),
    )

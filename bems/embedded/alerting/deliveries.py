"""Delivery of every alert in the store to the destinations of its severity, at least once.

One thread copies new alerts from the store into the outbox; one dispatcher per destination sends them. A destination
receives the alerts of one invoice in order. Invoices do not wait for each other, and neither do destinations.

A delivery is removed from the outbox after the alert was sent. If the process crashes in between, the alert is sent
again, with the same id, so that receivers can recognize it.

A delivery that fails for a day is given up and kept until an operator retries it. The same applies to deliveries whose
destination is no longer configured.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bems.embedded.alerting.delivery import Delivery, DeliveryState, Destination, Now, time_of_day
from bems.embedded.alerting.dispatcher import MAX_IN_FLIGHT, POLL_SECONDS, Dispatcher
from bems.embedded.alerting.outbox import DATABASE, Outbox
from bems.embedded.storage.database_files import StoreUnusable
from bems.tracker.actions import Severity
from bems.tracker.control_totals import AlertMessage

log = logging.getLogger(__name__)

MAX_ALERTS_PER_READ = 1_000
"""Maximum number of alerts that are read from the store at a time."""

STOP_GRACE_SECONDS = 5.0
"""Seconds that `stop` waits for requests in flight. Those that take longer are sent again after the next start."""

DESTINATION_REMOVED = "the destination is no longer configured"


class AlertSource(Protocol):
    """Source of alerts: a store, or a reader of one."""

    def alert_messages(self, after: int = 0, limit: int = 1_000) -> Sequence[tuple[int, AlertMessage]]:
        """Return committed alerts with a number greater than `after`, each with its number, in ascending order."""
        ...

    def close(self) -> None: ...


class Deliveries:
    """Deliveries of the cell in `folder`, whose lock the caller holds.

    `source` opens the source of alerts. It is called in a separate thread, which is the only one to use the result. A
    destination that is listed under both severities must be one object. `now` gives the time that retries depend on;
    call `wake` when it jumps.

    Raises StoreUnusable if `Outbox` does.
    """

    def __init__(
        self,
        folder: Path,
        source: Callable[[], AlertSource],
        destinations: Mapping[Severity, Sequence[Destination]],
        *,
        now: Now = time_of_day,
        max_in_flight: int = MAX_IN_FLIGHT,
        grace_seconds: float = STOP_GRACE_SECONDS,
    ) -> None:
        self._outbox = Outbox(folder)
        self._folder = folder
        self._open_source = source
        self._keys = {severity: [one.key for one in several] for severity, several in destinations.items()}
        by_key = {one.key: one for several in destinations.values() for one in several}
        self.dispatchers = [Dispatcher(one, self._outbox, now, max_in_flight) for one in by_key.values()]
        self._now = now
        self._grace_seconds = grace_seconds
        self._source: AlertSource | None = None
        self._read_error: str | None = None
        self._changed = threading.Condition()
        self._woken = False
        self._running = True
        self._thread = threading.Thread(target=self._run, name="bems-deliveries", daemon=True)
        self._opened: Future[None] = Future()

    def start(self) -> "Deliveries":
        """Start the threads; call it once.

        Raises StoreUnusable if the outbox belongs to another store, and any exception of the source.
        """
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.stop()
            raise
        for dispatcher in self.dispatchers:
            dispatcher.start()
        return self

    def wake(self) -> None:
        """Check for new alerts and due deliveries now; call it after new alerts or a change of the clock."""
        with self._changed:
            self._woken = True
            self._changed.notify()
        for dispatcher in self.dispatchers:
            dispatcher.wake()

    def stop(self) -> None:
        """Stop sending. Waits for requests in flight until the grace period ends. Idempotent."""
        with self._changed:
            self._running = False
            self._changed.notify()
        deadline = time.monotonic() + self._grace_seconds
        for dispatcher in self.dispatchers:
            dispatcher.stop(deadline)
        if self._thread.ident is not None:
            self._thread.join()
        for dispatcher in self.dispatchers:
            dispatcher.join()
        self._outbox.close()

    # -- for operators, between construction and stop; apsw.Error if the outbox cannot be read

    @property
    def failure(self) -> str | None:
        """The destinations whose last delivery failed, each with its error; None if there is none."""
        errors = [f"{dispatcher.key}: {dispatcher.failure}" for dispatcher in self.dispatchers if dispatcher.failure]
        return "; ".join(([self._read_error] if self._read_error else []) + errors) or None

    def waiting(self) -> int:
        """Return the number of outstanding deliveries: one for each alert and destination."""
        return self._outbox.count("waiting")

    def failed(self) -> int:
        """Return the number of deliveries that were given up."""
        return self._outbox.count("failed")

    def delivered(self) -> int:
        """Return the number of successful deliveries since the outbox was created."""
        return self._outbox.delivered()

    def entries(self, state: DeliveryState, limit: int = 1_000, after: tuple[int, str] = (-1, "")) -> list[Delivery]:
        """Return deliveries in a state, sorted by (seq, destination), beginning after that pair."""
        return self._outbox.entries(state, limit, after)

    def retry(self) -> int:
        """Retry all failed deliveries for another day and return their number.

        Waiting deliveries are retried immediately too. Deliveries whose destination is not configured stay failed.
        """
        count = self._outbox.retry(self._destinations, self._now())
        for dispatcher in self.dispatchers:
            dispatcher.wake(skip_backoff=True)
        return count

    @property
    def _destinations(self) -> list[str]:
        return [dispatcher.key for dispatcher in self.dispatchers]

    # -- the thread that reads new alerts

    def _run(self) -> None:
        try:
            self.open_source()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        while self._running:
            if not self.read_new_alerts():
                self._sleep()
        if self._source:
            self._source.close()

    def open_source(self) -> None:
        """Open the source.

        Runs in the reading thread. A caller that uses no threads calls it and `read_new_alerts` instead of `start`.
        """
        orphans = self._outbox.fail_removed_destinations(self._destinations, DESTINATION_REMOVED)
        if orphans:
            log.error("%d deliveries failed: %s", orphans, DESTINATION_REMOVED)
        self._source = self._open_and_check()

    def read_new_alerts(self) -> bool:
        """Copy new alerts into the outbox. Returns whether there may be more."""
        try:
            self._source = self._source or self._open_source()
            more = self._enqueue_new_alerts(self._source)
            self._read_error = None
            return more
        except Exception as error:
            if not self._read_error:
                log.exception("new alerts cannot be queued; retrying")
            self._read_error = f"new alerts cannot be queued: {error}"
            source, self._source = self._source, None
            if source:
                with suppress(Exception):
                    source.close()
            return False

    def _open_and_check(self) -> AlertSource:
        """Open the source and check that it is the store that the outbox was filled from.

        Another store numbers its alerts from 1 again. Continuing at the old number would skip some of them for good.
        """
        source = self._open_source()
        seq, alert_id = self._outbox.last_enqueued()
        if seq:
            found = source.alert_messages(seq - 1, 1)
            if not found or (found[0][0] == seq and found[0][1].id != alert_id):
                source.close()
                path = self._folder / DATABASE
                raise StoreUnusable(
                    f"{path} belongs to another store, or to a later state of this one: move it away; "
                    "every alert of this store is then sent, even if it was sent before"
                )
        return source

    def _enqueue_new_alerts(self, source: AlertSource) -> bool:
        seq, _ = self._outbox.last_enqueued()
        alerts = source.alert_messages(seq, MAX_ALERTS_PER_READ)
        if alerts:
            self._outbox.enqueue(alerts, self._keys, self._now())
            for dispatcher in self.dispatchers:
                dispatcher.wake()
        return len(alerts) == MAX_ALERTS_PER_READ

    def _sleep(self) -> None:
        with self._changed:
            if self._running and not self._woken:
                self._changed.wait(POLL_SECONDS)
            self._woken = False

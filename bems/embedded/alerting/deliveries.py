"""Deliveries: every alert of the store is brought to the destinations of its severity, at least once.

A thread takes new alerts from the store into the outbox; a courier per destination brings them there. The alerts of one
invoice reach a destination in their order; invoices do not wait for one another, nor destinations. An alert that was
sent is forgotten after that, so one whose sending a crash cuts off is sent again: receivers know it by its id.

What is not taken within a day is given up, and kept until somebody has it tried again; so is what was meant for a
destination that is there no more.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bems.embedded.alerting.delivery import Delivery, Destination, Now, State, time_of_day
from bems.embedded.alerting.dispatcher import MAX_IN_FLIGHT, POLL_SECONDS, Dispatcher
from bems.embedded.alerting.outbox import DATABASE, Outbox
from bems.embedded.storage.database_files import StoreUnusable
from bems.tracker.actions import Alert, Severity

log = logging.getLogger(__name__)

TAKEN = 1_000
"""So many alerts at most are taken from the store at a time."""

GRACE = 5.0
"""Seconds that what is being sent has when it is to stop. It is sent again after the next start."""

REMOVED = "the destination is no longer configured"


class Source(Protocol):
    """Where alerts come from: a store, or a reader of one."""

    def alerts(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Alert]]:
        """The committed alerts behind a number, with theirs, which ascend."""
        ...

    def close(self) -> None: ...


class Deliveries:
    """The deliveries of the cell in a folder, whose lock the caller holds. StoreRefused: see `Outbox`.

    `source` is called in a thread of its own, which alone uses what it gives. A destination that stands under both
    severities is one object. `now` is the world's time, by which is retried; `poke` has it looked at again.
    """

    def __init__(
        self,
        folder: Path,
        source: Callable[[], Source],
        destinations: Mapping[Severity, Sequence[Destination]],
        *,
        now: Now = time_of_day,
        at_once: int = MAX_IN_FLIGHT,
        grace: float = GRACE,
    ) -> None:
        self._outbox = Outbox(folder)
        self._folder = folder
        self._open_source = source
        self._keys = {severity: [one.key for one in several] for severity, several in destinations.items()}
        named = {one.key: one for several in destinations.values() for one in several}
        self.couriers = [Dispatcher(one, self._outbox, now, at_once) for one in named.values()]
        self._now = now
        self._grace = grace
        self._source: Source | None = None
        self._trouble: str | None = None
        self._changed = threading.Condition()
        self._poked = False
        self._open = True
        self._thread = threading.Thread(target=self._run, name="bems-deliveries", daemon=True)
        self._opened: Future[None] = Future()

    def start(self) -> "Deliveries":
        """Begin; once. StoreRefused, or what the source raises, where the alerts cannot be read, or are not those that
        the outbox goes on from."""
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.stop()
            raise
        for courier in self.couriers:
            courier.start()
        return self

    def poke(self) -> None:
        """There are new alerts, or the clock was moved."""
        with self._changed:
            self._poked = True
            self._changed.notify()
        for courier in self.couriers:
            courier.poke()

    def stop(self) -> None:
        """Send nothing more; returns when what is being sent is done, or has had its grace. Twice is harmless."""
        with self._changed:
            self._open = False
            self._changed.notify()
        by = time.monotonic() + self._grace
        for courier in self.couriers:
            courier.stop(by)
        if self._thread.ident is not None:
            self._thread.join()
        for courier in self.couriers:
            courier.join()
        self._outbox.close()

    # -- for operators, between construction and stop; apsw.Error where the outbox cannot be read

    @property
    def failure(self) -> str | None:
        """Which destinations did not take what they were sent last, and why; None while all goes well."""
        couriers = [f"{courier.key}: {courier.failure}" for courier in self.couriers if courier.failure]
        return "; ".join(([self._trouble] if self._trouble else []) + couriers) or None

    def waiting(self) -> int:
        """How many deliveries are to be made: one for each alert and destination."""
        return self._outbox.count("waiting")

    def failed(self) -> int:
        """How many were given up."""
        return self._outbox.count("failed")

    def delivered(self) -> int:
        """How many were made since the outbox was made."""
        return self._outbox.delivered()

    def entries(self, state: State, limit: int = 1_000, after: tuple[int, str] = (-1, "")) -> list[Delivery]:
        """Those that wait or failed, behind (seq, destination), the oldest alerts first."""
        return self._outbox.entries(state, limit, after)

    def retry(self) -> int:
        """Try again what failed, for another day; how many deliveries. What waits is tried again at once, too; what was
        meant for a destination that is not configured stays as it is."""
        count = self._outbox.retry(self._destinations, self._now())
        for courier in self.couriers:
            courier.poke(hurry=True)
        return count

    @property
    def _destinations(self) -> list[str]:
        return [courier.key for courier in self.couriers]

    # -- the thread that takes new alerts

    def _run(self) -> None:
        try:
            self.begin()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        while self._open:
            if not self.look():
                self._sleep()
        if self._source:
            self._source.close()

    def begin(self) -> None:
        """Open the source. For its own thread, or for whoever is in its place instead of `start`; so is `look`."""
        orphans = self._outbox.fail_removed_destinations(self._destinations, REMOVED)
        if orphans:
            log.error("%d deliveries failed: %s", orphans, REMOVED)
        self._source = self._open_and_check()

    def look(self) -> bool:
        """Take over what is new; whether there may be more."""
        try:
            self._source = self._source or self._open_source()
            more = self._take(self._source)
            self._trouble = None
            return more
        except Exception as error:
            if not self._trouble:
                log.exception("new alerts cannot be taken over; this is tried again")
            self._trouble = f"new alerts cannot be taken over: {error}"
            source, self._source = self._source, None
            if source:
                with suppress(Exception):
                    source.close()
            return False

    def _open_and_check(self) -> Source:
        """A store that was put in the place of another one counts its alerts anew; going on from the old number would
        leave out some for good."""
        source = self._open_source()
        seq, alert_id = self._outbox.last()
        if seq:
            found = source.alerts(seq - 1, 1)
            if not found or (found[0][0] == seq and found[0][1].id != alert_id):
                source.close()
                path = self._folder / DATABASE
                raise StoreUnusable(
                    f"{path} goes with another store, or a later state of this one: move it away, "
                    "and every alert of this store is sent, again or for the first time"
                )
        return source

    def _take(self, source: Source) -> bool:
        """Take new alerts over; whether there may be more."""
        seq, _ = self._outbox.last()
        alerts = source.alerts(seq, TAKEN)
        if alerts:
            self._outbox.enqueue(alerts, self._keys, self._now())
            for courier in self.couriers:
                courier.poke()
        return len(alerts) == TAKEN

    def _sleep(self) -> None:
        with self._changed:
            if self._open and not self._poked:
                self._changed.wait(POLL_SECONDS)
            self._poked = False

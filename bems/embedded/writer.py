"""Writer: the one thread that owns a durable cell.

The writer commits in groups. A group is everything that arrived since the last one (events, commands) and what is due.
The cell handles each item, one transaction commits them all, and only then do the callers get their results. So an
answered event is durable. Groups grow with the load, or by a wait of milliseconds when several senders send at once.

Items fail alone: when handling one raises, its changes are undone and the others stand. A failed event is accepted all
the same, because it is durable. It becomes a dead letter, is retried with backoff, and is then set aside until an
operator redrives it. A timer or a check is never set aside, because its invoice would be forgotten: its retries only
become rarer.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from bems.embedded.cell import Cell
from bems.embedded.clock import CellClock
from bems.embedded.definition import load_machine, read_resolved_definition
from bems.embedded.storage.errors import QueueFull, StoreFailed
from bems.embedded.storage.policy_history import PROGRAM_SOURCE, PolicyInForce, PolicyOrDefault, choose_policy
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import DeadLetter, DueItem
from bems.tracker.commands import Command, Confirmation
from bems.tracker.contract import Event
from bems.tracker.control_totals import ControlTotal, EventTotals, on_count, on_statement
from bems.tracker.decisions import ACCEPTED, Receipt
from bems.tracker.instants import HOUR, MINUTE, SECOND, Instant

log = logging.getLogger(__name__)

MAX_QUEUED_ITEMS = 10_000
"""Maximum number of items that wait in the queue: a few seconds' work."""

MAX_GROUP_ITEMS = 1_000
"""Maximum number of queued items in a group."""

MAX_DUE_PER_GROUP = 100
"""Maximum number of due items of each kind in a group. When 100,000 timers are due at once, an event waits for no more
than these."""

COALESCE_BELOW_ITEMS, COALESCE_SECONDS = 32, 0.003
"""When several senders send, and fewer items than this arrived during a commit, the writer waits this long for more: a
small group costs nearly as much as a large one. A sender that sends one event after the other never waits."""

MIN_SLEEP_SECONDS = 0.001
"""Minimum duration of a sleep."""

POLL_SECONDS = 1.0
"""Interval at which the idle writer reads the clock, even if nothing is due: a machine's clock may jump."""

RETRY_DELAYS = (SECOND, 10 * SECOND, MINUTE, 10 * MINUTE, HOUR)
"""Delays after the first, second, … failure of an item. An event that fails once more is set aside; a timer keeps the
last delay."""


class Stopped(Exception):
    """The writer is stopping or has died. The item was not accepted."""


class Redrive:
    """A request to handle a dead letter again."""

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id


class EventCount(NamedTuple):
    """Count of the events of a control total."""

    total: ControlTotal
    found: EventTotals


Item = Event | Command | Confirmation | Redrive | ControlTotal | EventCount


ItemResult = Receipt | Exception
"""Receipt of a durable item, or the error why it could not be stored. In that case the item was not accepted and must
be sent again. Sending is idempotent: a repeat gets a receipt that says so."""

OnResult = Callable[[ItemResult], None]
"""Callback that notifies the waiting caller. It runs in the writer's thread."""


def open_writer(
    folder: Path,
    policy: PolicyOrDefault,
    clock: CellClock,
    *,
    policy_source: str = PROGRAM_SOURCE,
    inspect: Callable[[Path], object] = lambda _: None,
) -> "Writer":
    """Return the writer of the durable cell in `folder`, which is created if it does not exist.

    If `policy` is a function, the cell continues with the stored policy, and the function is called only if there is
    none. Raises StoreUnusable as `SqliteStore` does, and if the stored policy cannot be read. For `inspect`, see
    `SqliteStore`.
    """
    store = SqliteStore(folder, inspect=inspect)
    try:
        machine = load_machine()
        store.store_definition(machine.digest, read_resolved_definition())
        in_force = choose_policy(policy, policy_source, next(iter(store.policies(limit=1)), None))
        return Writer(Cell(in_force.policy, machine, store), store, clock, in_force=in_force)
    except BaseException:
        store.close()
        raise


class Writer:
    """Accepts events and commands from any thread, and answers each once it is durable.

    The writer owns `store`, and `cell` over it, from `start` to `stop`. Items that came due while no writer ran are
    fired first, at the present instant.
    """

    def __init__(
        self,
        cell: Cell,
        store: SqliteStore,
        clock: CellClock,
        *,
        max_queued_items: int = MAX_QUEUED_ITEMS,
        max_group_items: int = MAX_GROUP_ITEMS,
        in_force: PolicyInForce | None = None,
    ) -> None:
        self.in_force = in_force or PolicyInForce(cell.policy, PROGRAM_SOURCE)
        self._cell = cell
        self._store = store
        self._clock = clock
        self._max_queued_items = max_queued_items
        self._max_group_items = max_group_items
        self._queue: deque[tuple[Item, OnResult]] = deque()
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_open = True
        self._backoff_until = 0.0
        self._failures: dict[tuple[str, str], int] = {}
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="bems-writer")

    # -- called from any thread

    def start(self) -> "Writer":
        """Store the policy in force and start the thread. Items submitted earlier wait for this.

        A writer can be started once. Raises StoreFailed if the policy cannot be stored.
        """
        if not self.in_force.is_resumed:
            policy, source = self.in_force.policy, self.in_force.source
            self.in_force = PolicyInForce(policy, source, self._store.store_policy(policy, source, self._clock.now()))
        self._thread.start()
        return self

    def submit(self, item: Item, on_result: OnResult) -> None:
        """Queue a valid event, a command, a redrive, a control total or its count. `on_result` gets its result.

        The receipt of a redrive that failed again is `refused`, with the reason. Raises QueueFull or Stopped at once.
        """
        with self._changed:
            if not self._is_open:
                raise Stopped("the cell is stopping")
            if len(self._queue) >= self._max_queued_items:
                raise QueueFull(f"{self._max_queued_items} items are queued already")
            self._queue.append((item, on_result))
            if len(self._queue) == 1:
                self._changed.notify()

    def wake(self) -> None:
        """Make the writer read the clock now. Call it after moving the clock."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def latest(self) -> Instant:
        """Return the latest instant at which something was recorded. Call it before `start` only."""
        return self._store.latest()

    @property
    def is_alive(self) -> bool:
        """Whether the writer accepts items."""
        return self._is_open

    @property
    def failure(self) -> str | None:
        """Why the last group could not be stored. None if it was stored."""
        return self._failure

    @property
    def loss(self) -> str | None:
        """Why nothing can be stored until the cell is started again: its files were moved, removed or replaced."""
        return self._store.loss

    @property
    def queued(self) -> int:
        """Number of items in the queue."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether `submit` would raise QueueFull now."""
        return len(self._queue) >= self._max_queued_items

    def finish(self) -> None:
        """Accept nothing more, and finish the queued items. The folder stays locked, and the store can still be read.

        A writer that was never started answers its queued items with Stopped.
        """
        with self._changed:
            self._is_open = False
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        while self._queue:
            _, on_result = self._queue.popleft()
            on_result(Stopped("the writer was never started"))

    def stop(self) -> None:
        """Finish the queued items, then close the store and release the folder. Idempotent."""
        self.finish()
        self._store.close()

    def __enter__(self) -> "Writer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- called from the writer's own thread

    def commit_group(self) -> bool:
        """Commit one group of queued and due items, and return whether more is due at once.

        Runs in the writer's thread. A test may call it instead of `start`.
        """
        return self._commit_group(self._take())

    def _run(self) -> None:
        try:
            while not self._is_finished():
                more = self.commit_group()
                if 0 < len(self._queue) < COALESCE_BELOW_ITEMS:
                    time.sleep(COALESCE_SECONDS)
                elif not more:
                    self._sleep()
        except BaseException:
            log.critical("the writer died and accepts nothing more", exc_info=True)
            self._failure = "the writer died: start the cell again"
        with self._changed:
            self._is_open = False
            left = list(self._queue)
            self._queue.clear()
        for _, on_result in left:
            on_result(Stopped("the writer died before it handled this item"))

    def _is_finished(self) -> bool:
        with self._changed:
            return not self._is_open and not self._queue

    def _take(self) -> list[tuple[Item, OnResult]]:
        with self._changed:
            self._is_woken = False
            count = min(len(self._queue), self._max_group_items)
            return [self._queue.popleft() for _ in range(count)]

    def _sleep(self) -> None:
        """Sleep until an item arrives or is due."""
        seconds = POLL_SECONDS
        try:
            at, now = self._store.next_due_hint, self._clock.now()
            if at <= now:
                at = self._store.refresh_next_due()
            seconds = min(seconds, (at - now) / SECOND / self._clock.speed)
        except StoreFailed as error:
            log.error("the next due item cannot be read: %s", error)
            self._backoff_until = time.monotonic() + POLL_SECONDS
        seconds = max(seconds, self._backoff_until - time.monotonic())
        if seconds > 0:
            # An accelerated clock may stand just before the due instant: do not spin.
            seconds = max(seconds, MIN_SLEEP_SECONDS)
        with self._changed:
            if seconds > 0 and self._is_open and not self._queue and not self._is_woken:
                self._changed.wait(seconds)

    def _commit_group(self, taken: list[tuple[Item, OnResult]]) -> bool:
        """Commit one group, and return whether more is due at once."""
        now, results, more = self._clock.now(), list[tuple[OnResult, ItemResult]](), False
        try:
            self._store.prefetch([item for item, _ in taken if isinstance(item, Event)])
            for item, on_result in taken:
                results.append((on_result, self._handle(item, now)))
            if self._store.next_due_hint <= now and time.monotonic() >= self._backoff_until:
                more = self._fire_due(now)
            self._store.commit()
        except Exception as error:
            self._abort_group(error, [on_result for _, on_result in taken])
            return False
        for on_result, result in results:
            on_result(result)
        try:
            if self._failure:
                self._store.check_writable()
            if self._store.next_due_hint <= now:
                self._store.refresh_next_due()
        except StoreFailed as error:
            self._abort_group(error, [])
            return False
        if self._failure:
            log.warning("the store is writable again")
            self._failure = None
        return more

    def _abort_group(self, error: Exception, taken: list[OnResult]) -> None:
        """Roll the group back and answer its items with the error. No caller has been told otherwise yet."""
        # Log it once: while a disk is full, every group fails with the same error.
        if self._failure != str(error):
            log.error("a group of %d items failed: %s", len(taken), error, exc_info=not isinstance(error, StoreFailed))
        self._store.rollback()
        self._failure = str(error)
        self._backoff_until = time.monotonic() + POLL_SECONDS
        for on_result in taken:
            on_result(error)

    def _handle(self, item: Item, now: Instant) -> ItemResult:
        try:
            if isinstance(item, Redrive):
                return self._redrive(item.event_id, now)
            with self._store.savepoint():
                if isinstance(item, Event):
                    return self._cell.handle_event(item, now)
                if isinstance(item, Command):
                    return self._cell.handle_command(item, now)
                if isinstance(item, Confirmation):
                    return self._cell.handle_confirmation(item, now)
                return self._handle_control_total(item, now)
        except StoreFailed:
            raise
        except Exception as error:
            if not isinstance(item, Event):
                log.exception("%s failed", item)
                return Receipt("refused", f"it could not be carried out: {_describe(error)}")
            log.exception("the event %s of %s failed", item.event_id, item.invoice_id)
            return self._store_dead_letter(item, now, error)

    def _handle_control_total(self, item: ControlTotal | EventCount, now: Instant) -> Receipt:
        """Store a control total, or its count with the alert that results from it.

        Both belong to no invoice, so the cell, which decides about invoices, has no part in them.
        """
        if isinstance(item, ControlTotal):
            self._store.put_control_total(on_statement(self._store.control_total(item.id), item, now))
            return ACCEPTED
        known = self._store.control_total(item.total.id)
        if known is None:
            return Receipt("refused", "there is no such control total")
        state, alert = on_count(known, item.total, item.found, now)
        self._store.put_control_total(state)
        if alert is not None:
            self._store.add_completeness_alert(alert)
        return ACCEPTED

    def _store_dead_letter(self, event: Event, now: Instant, error: Exception) -> ItemResult:
        """Store the event and its dead letter, and accept it. An event that cannot even be stored is not accepted."""
        try:
            with self._store.savepoint():
                self._store.add_event(event)
                self._put_dead_letter(event.event_id, event.invoice_id, 1, now, error)
        except StoreFailed:
            raise
        except Exception as fatal:
            return fatal
        return ACCEPTED

    def _redrive(self, event_id: str, now: Instant) -> Receipt:
        dead_letter = self._store.dead_letter(event_id)
        if dead_letter is None:
            return Receipt("refused", f"there is no dead letter {event_id}")
        return self._retry(dead_letter, now)

    def _retry(self, dead_letter: DeadLetter, now: Instant) -> Receipt:
        try:
            with self._store.savepoint():
                event = self._store.event(dead_letter.event_id)
                assert event is not None, "a dead letter is written with its event"
                self._cell.redrive(event, now)
                self._store.drop_dead_letter(dead_letter.event_id)
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("the event %s of %s failed again", dead_letter.event_id, dead_letter.invoice_id)
            with self._store.savepoint():
                self._put_dead_letter(
                    dead_letter.event_id, dead_letter.invoice_id, dead_letter.attempts + 1, now, error
                )
            return Receipt("refused", _describe(error))
        return ACCEPTED

    def _put_dead_letter(self, event_id: str, invoice_id: str, attempts: int, now: Instant, error: Exception) -> None:
        retry_at = now + RETRY_DELAYS[attempts - 1] if attempts <= len(RETRY_DELAYS) else None
        self._store.put_dead_letter(DeadLetter(event_id, invoice_id, attempts, now, retry_at, _describe(error)))

    def _fire_due(self, now: Instant) -> bool:
        """Fire due items and retry dead letters. Return whether more is due than fits into a group."""
        due = self._store.due(now + 1, MAX_DUE_PER_GROUP)[:MAX_DUE_PER_GROUP]
        for one in due:
            self._fire(one, now)
        dead_letters = self._store.dead_letters_due(now + 1, MAX_DUE_PER_GROUP)
        for dead_letter in dead_letters:
            self._retry(dead_letter, now)
        return max(len(due), len(dead_letters)) == MAX_DUE_PER_GROUP

    def _fire(self, due: DueItem, now: Instant) -> None:
        key = (due.kind, due.key)
        try:
            with self._store.savepoint():
                self._cell.fire_due(due, now)
            self._failures.pop(key, None)
        except StoreFailed:
            raise
        except Exception:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            log.exception("the %s of %s failed", due.kind, due.key)
            with self._store.savepoint():
                self._store.postpone(due, now + RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1])


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

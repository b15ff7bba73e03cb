"""The writer: the one thread that owns a durable cell.

Each turn takes all that came in since the last one (events, commands, what is due), asks the cell, and commits it in
one transaction; only then are the callers answered. So an answered event is durable, and batches come from load, or
from a wait of milliseconds for more, where several senders send.

Each item is for itself: one whose handling raises is undone and leaves the others alone. Such an event is accepted all
the same, for it is durable: it is tried again with backoff, and then set aside until somebody has it redriven. A timer
or a sweep is never set aside; it is tried again ever more seldom, for without it an invoice would be forgotten.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bems.embedded.cell import Cell
from bems.embedded.clock import RunningClock
from bems.embedded.definition import embedded_text, load_machine
from bems.embedded.policies import PROGRAM, PolicyInForce, PolicyOrDefault, choose_policy
from bems.embedded.reader import StoreFailed
from bems.embedded.sqlite import SqliteStore
from bems.embedded.store import Due, Letter
from bems.tracker.commands import Command
from bems.tracker.contract import Event
from bems.tracker.decisions import ACCEPTED, Receipt
from bems.tracker.instants import HOUR, MINUTE, SECOND, Instant

log = logging.getLogger(__name__)

QUEUED = 10_000
"""So many items may wait; at the longest for some seconds."""

TURN = 1_000
"""So many items make a turn at most."""

DUE = 100
"""And so much of what is due: where a hundred thousand timers are, whoever sends an event waits for no more of them."""

FEW, GATHER = 32, 0.003
"""Where several senders send and fewer items than this came in during a turn, so many seconds are waited for more: a
turn of few costs nearly as much as one of many. Whoever sends one after the other never waits."""

SHORTEST = 0.001
"""Seconds that it sleeps at the least, if it sleeps at all."""

LOOK_EVERY = 1.0
"""Seconds after which it looks at the clock again though nothing seems due: a machine's clock may jump."""

RETRIES = (SECOND, 10 * SECOND, MINUTE, 10 * MINUTE, HOUR)
"""How long to wait after each failure. An event that fails once more is set aside; a timer stays with the last."""


class Busy(Exception):
    """The queue is full. Nothing was taken; send it again later."""


class Stopped(Exception):
    """The writer is stopping, or has died. Nothing was taken."""


class Redrive:
    """A request to handle a dead letter again."""

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id


Item = Event | Command | Redrive


Answer = Receipt | Exception
"""What became of an item, which is durable; or why it could not be stored: then it was not accepted, and is to be sent
again. A repeat is harmless, and is told so."""

Tell = Callable[[Answer], None]
"""Tells somebody who waits. Called in the writer's thread."""


def open_writer(
    folder: Path,
    policy: PolicyOrDefault,
    clock: RunningClock,
    *,
    policy_source: str = PROGRAM,
    inspect: Callable[[Path], object] = lambda _: None,
) -> "Writer":
    """The writer of the durable cell in a folder, which is made if there is none. Without a policy that is named it
    goes on with the one that the folder keeps. StoreRefused and `inspect`: see `SqliteStore`; StoreRefused also where
    the kept policy cannot be read."""
    store = SqliteStore(folder, inspect=inspect)
    try:
        machine = load_machine()
        store.keep_definition(machine.digest, embedded_text())
        in_force = choose_policy(policy, policy_source, next(iter(store.policies(limit=1)), None))
        return Writer(Cell(in_force.policy, machine, store), store, clock, in_force=in_force)
    except BaseException:
        store.close()
        raise


class Writer:
    """Takes events and commands from any thread, and answers each when it is durable.

    It owns `store`, and `cell` over it, from `start` to `stop`. What came due while no writer ran is done first, at the
    present instant.
    """

    def __init__(
        self,
        cell: Cell,
        store: SqliteStore,
        clock: RunningClock,
        *,
        queued: int = QUEUED,
        turn: int = TURN,
        in_force: PolicyInForce | None = None,
    ) -> None:
        self.in_force = in_force or PolicyInForce(cell.policy, PROGRAM)
        self._cell = cell
        self._store = store
        self._clock = clock
        self._queued = queued
        self._limit = turn
        self._queue: deque[tuple[Item, Tell]] = deque()
        self._changed = threading.Condition()
        self._poked = False
        self._open = True
        self._rest_until = 0.0
        self._failures: dict[tuple[str, str], int] = {}
        self._failing: str | None = None
        self._thread = threading.Thread(target=self._run, name="bems-writer")

    # -- for any thread

    def start(self) -> "Writer":
        """Begin, and keep the policy that is in force from here on. A writer is started once; what was handed in before
        waits for it. StoreFailed: the policy cannot be stored."""
        if not self.in_force.is_resumed:
            policy, source = self.in_force.policy, self.in_force.source
            self.in_force = PolicyInForce(policy, source, self._store.keep_policy(policy, source, self._clock.now()))
        self._thread.start()
        return self

    def submit(self, item: Item, tell: Tell) -> None:
        """Hand in an event that passed the gate, a command, or a redrive, whose answer says why it failed again if it
        is `refused`. Busy or Stopped at once."""
        with self._changed:
            if not self._open:
                raise Stopped("the cell is stopping")
            if len(self._queue) >= self._queued:
                raise Busy(f"{self._queued} items are waiting already")
            self._queue.append((item, tell))
            if len(self._queue) == 1:
                self._changed.notify()

    def poke(self) -> None:
        """Look at the clock: it was moved."""
        with self._changed:
            self._poked = True
            self._changed.notify()

    def latest(self) -> Instant:
        """The latest instant at which something was recorded; before `start` only."""
        return self._store.latest()

    @property
    def alive(self) -> bool:
        """Whether it still takes anything."""
        return self._open

    @property
    def failing(self) -> str | None:
        """Why nothing can be stored; None as far as is known that it can."""
        return self._failing

    @property
    def lost(self) -> str | None:
        """Why nothing can be stored any more, until the cell is started again: its files are not where they were."""
        return self._store.lost

    @property
    def queued(self) -> int:
        """How many items wait for their turn."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether nothing more would be taken now."""
        return len(self._queue) >= self._queued

    def finish(self) -> None:
        """Take nothing more, and finish what was taken. The folder is still held, and what is in it can be read.

        Of a writer that was never started, what was handed in is not accepted: Stopped.
        """
        with self._changed:
            self._open = False
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        while self._queue:
            _, tell = self._queue.popleft()
            tell(Stopped("the writer was never started"))

    def stop(self) -> None:
        """Finish, and give the folder up. Returns when that is done; twice is harmless."""
        self.finish()
        self._store.close()

    def __enter__(self) -> "Writer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- its own thread

    def turn(self) -> bool:
        """One turn of what came in and what is due; whether there is more to be done at once.

        For its own thread, or for whoever is in its place before `start`.
        """
        return self._turn(self._take())

    def _run(self) -> None:
        try:
            while not self._finished():
                more = self.turn()
                if 0 < len(self._queue) < FEW:
                    time.sleep(GATHER)
                elif not more:
                    self._sleep()
        except BaseException:
            log.critical("the writer died; nothing more is taken", exc_info=True)
            self._failing = "the writer died: start the cell again"
        with self._changed:
            self._open = False
            left = list(self._queue)
            self._queue.clear()
        for _, tell in left:
            tell(Stopped("the writer died before it came to this"))

    def _finished(self) -> bool:
        with self._changed:
            return not self._open and not self._queue

    def _take(self) -> list[tuple[Item, Tell]]:
        with self._changed:
            self._poked = False
            count = min(len(self._queue), self._limit)
            return [self._queue.popleft() for _ in range(count)]

    def _sleep(self) -> None:
        """Until something comes in, or something is due."""
        seconds = LOOK_EVERY
        try:
            at, now = self._store.earliest, self._clock.now()
            if at <= now:
                at = self._store.find_earliest()
            seconds = min(seconds, (at - now) / SECOND / self._clock.speed)
        except StoreFailed as error:
            log.error("what is due next is not known: %s", error)
            self._rest_until = time.monotonic() + LOOK_EVERY
        seconds = max(seconds, self._rest_until - time.monotonic())
        if seconds > 0:
            # An accelerated clock may be held just before what is due.
            seconds = max(seconds, SHORTEST)
        with self._changed:
            if seconds > 0 and self._open and not self._queue and not self._poked:
                self._changed.wait(seconds)

    def _turn(self, taken: list[tuple[Item, Tell]]) -> bool:
        """One turn; whether there is more to be done at once."""
        now, answers, more = self._clock.now(), list[tuple[Tell, Answer]](), False
        try:
            self._store.expect([item for item, _ in taken if isinstance(item, Event)])
            for item, tell in taken:
                answers.append((tell, self._handle(item, now)))
            if self._store.earliest <= now and time.monotonic() >= self._rest_until:
                more = self._do_what_is_due(now)
            self._store.commit()
        except Exception as error:
            self._fail(error, [tell for _, tell in taken])
            return False
        for tell, answer in answers:
            tell(answer)
        try:
            if self._failing:
                self._store.probe()
            if self._store.earliest <= now:
                self._store.find_earliest()
        except StoreFailed as error:
            self._fail(error, [])
            return False
        if self._failing:
            log.warning("turns are stored again")
            self._failing = None
        return more

    def _fail(self, error: Exception, taken: list[Tell]) -> None:
        """The turn is void: nobody was told that it was not."""
        # Once: while a disk is full, every turn would say the same.
        if self._failing != str(error):
            log.error("a turn of %d items failed: %s", len(taken), error, exc_info=not isinstance(error, StoreFailed))
        self._store.rollback()
        self._failing = str(error)
        self._rest_until = time.monotonic() + LOOK_EVERY
        for tell in taken:
            tell(error)

    def _handle(self, item: Item, now: Instant) -> Answer:
        try:
            if isinstance(item, Redrive):
                return self._redrive(item.event_id, now)
            with self._store.item():
                return self._cell.event(item, now) if isinstance(item, Event) else self._cell.command(item, now)
        except StoreFailed:
            raise
        except Exception as error:
            if not isinstance(item, Event):
                log.exception("the command %s failed", item)
                return Receipt("refused", f"it could not be carried out: {_describe(error)}")
            log.exception("the event %s of %s failed", item.event_id, item.invoice_id)
            return self._accept_for_later(item, now, error)

    def _accept_for_later(self, event: Event, now: Instant, error: Exception) -> Answer:
        """The event is durable, though nothing has come of it yet. One that cannot even be stored was not accepted."""
        try:
            with self._store.item():
                self._store.add_event(event)
                self._put_letter(event.event_id, event.invoice_id, 1, now, error)
        except StoreFailed:
            raise
        except Exception as fatal:
            return fatal
        return ACCEPTED

    def _redrive(self, event_id: str, now: Instant) -> Receipt:
        letter = self._store.letter(event_id)
        if letter is None:
            return Receipt("refused", f"there is no dead letter {event_id}")
        return self._try_again(letter, now)

    def _try_again(self, letter: Letter, now: Instant) -> Receipt:
        try:
            with self._store.item():
                event = self._store.event(letter.event_id)
                assert event is not None, "a letter is written with its event"
                self._cell.redrive(event, now)
                self._store.drop_letter(letter.event_id)
        except StoreFailed:
            raise
        except Exception as error:
            log.exception("the event %s of %s failed again", letter.event_id, letter.invoice_id)
            with self._store.item():
                self._put_letter(letter.event_id, letter.invoice_id, letter.attempts + 1, now, error)
            return Receipt("refused", _describe(error))
        return ACCEPTED

    def _put_letter(self, event_id: str, invoice_id: str, attempts: int, now: Instant, error: Exception) -> None:
        retry_at = now + RETRIES[attempts - 1] if attempts <= len(RETRIES) else None
        self._store.put_letter(Letter(event_id, invoice_id, attempts, now, retry_at, _describe(error)))

    def _do_what_is_due(self, now: Instant) -> bool:
        """Fire what is due and try again what failed; whether more is due than fits into a turn."""
        due = self._store.due(now + 1, DUE)[:DUE]
        for one in due:
            self._fire(one, now)
        letters = self._store.letters_due(now + 1, DUE)
        for letter in letters:
            self._try_again(letter, now)
        return max(len(due), len(letters)) == DUE

    def _fire(self, due: Due, now: Instant) -> None:
        key = (due.kind, due.key)
        try:
            with self._store.item():
                self._cell.fire(due, now)
            self._failures.pop(key, None)
        except StoreFailed:
            raise
        except Exception:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            log.exception("the %s of %s failed", due.kind, due.key)
            with self._store.item():
                self._store.postpone(due, now + RETRIES[min(failures, len(RETRIES)) - 1])


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

"""One life of the cell as a process, from its folder to its requests, all in one thread that the simulation leads.

The parts are the real ones. What they would do in threads of their own is done here, turn by turn.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import apsw
from msgspec import json

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.alerting.delivery import Destination
from bems.embedded.api.access import Access
from bems.embedded.api.event_endpoint import EventEndpoint
from bems.embedded.api.metrics import Metrics
from bems.embedded.api.writer_bridge import WriterBridge
from bems.embedded.auth.keys import Key
from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine, resolved_text
from bems.embedded.storage import compression
from bems.embedded.storage.errors import StoreFailed
from bems.embedded.storage.reader import Reader, open_reader
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.writer import Writer
from bems.tracker.actions import Severity
from bems.tracker.contract import Stage
from bems.tracker.instants import HOUR, LATEST, Instant
from bems.tracker.policy import Policy
from tests.faults.disk import Disk, close_all
from tests.faults.reference_model import JournalRecorder, ReferenceModel

C = TypeVar("C")

MACHINE = load_machine()
METRICS = Metrics()
KEY = cast(Key, object())
MAX_GROUPS = 1_000
LOOP_ITERATIONS = 8
"""Of the event loop, after which a request that can be answered is answered."""


class AllowAll(Access):
    """Access that authorizes every request. Other tests cover keys and rate limits."""

    def __init__(self) -> None:
        """Needs neither keys nor limits."""

    def authorize(self, *_args: Any, **_options: Any) -> Key:
        return KEY


class Options(NamedTuple):
    """What is otherwise so large that no seed would come up against it."""

    cached: int
    queued: int
    turn: int
    checkpoint: int
    pages: int
    lesson: int


class Request:
    """A POST to the intake, and its answer once there is one."""

    def __init__(self, stage: Stage, bodies: list[bytes], batch: bool) -> None:
        self.path = f"/invoices/{stage}{'/batch' * batch}"
        self.batch = batch
        self.body = b'{"events":[' + b",".join(bodies) + b"]}" if batch else bodies[0]
        self.status: int | None = None
        self.answer: Any = None

    @property
    def scope(self) -> dict[str, Any]:
        headers = [(b"x-api-key", b"key"), (b"content-type", b"application/json")]
        return {"type": "http", "method": "POST", "path": self.path, "headers": headers}

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.answer = json.decode(message["body"])


class SimulatedCell:
    """It opens what is in the folder, or raises what the parts raise. `now` is the cell's clock."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        clock: Any,
        disk: Disk,
        model: ReferenceModel,
        options: Options,
        poison: Callable[[str, str], None],
        destinations: Mapping[Severity, Sequence[Destination]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._disk, self._model, self._loop, self._clock = disk, model, loop, clock
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: list[Any] = []
        self.commits = 0
        self._checkpoint = options.checkpoint
        compression.TRAINING_SAMPLES = compression.FIRST_TRAINING_AFTER = options.lesson
        compression.NEXT_TRAINING_AFTER = 4 * options.lesson
        try:
            self.store = self._close_later(SqliteStore(folder, cached=options.cached))
            self.store.store_definition(MACHINE.digest, resolved_text())
            # SQLite passes over what fails there, once it has committed; an exception of ours would make it a failure.
            self.store._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self.store._connection.execute(f"PRAGMA cache_size = {options.pages}")
            cell = Cell(policy, MACHINE, self.store)
            self._handler = JournalRecorder(cell, self.store, poison)
            self._commit = self.store.commit
            self.store.commit = self.commit  # type: ignore[method-assign]
            self.writer = Writer(cell, self.store, clock, queued=options.queued, turn=options.turn)
            self.reader: Reader = self._close_later(open_reader(folder))
            self.deliveries = Deliveries(
                folder, lambda: self._close_later(open_reader(folder)), destinations, now=clock.now
            )
            self._close_later(self.deliveries._outbox)
            self.deliveries.begin()
        except BaseException:
            self.abandon()
            raise
        self._intake = loop.run_until_complete(self._make_intake(clock))

    def _close_later(self, closable: C) -> C:
        self._closing.append(closable)
        return closable

    async def _make_intake(self, clock: Any) -> EventEndpoint:
        return EventEndpoint(WriterBridge(self.writer, asyncio.get_running_loop()), clock, AllowAll(), METRICS, 100)

    # -- what comes in

    def post(self, request: Request) -> None:
        self._tasks.append(self._loop.create_task(self._intake(request.scope, request.receive, request.send)))

    def run_loop(self) -> None:
        """Whatever can be done before the writer's next turn."""
        if self._tasks:
            self._loop.run_until_complete(_rounds())
            self._tasks = [task for task in self._tasks if not task.done()]

    # -- its threads' work

    def commit(self) -> None:
        journal = self._handler.take()
        try:
            self._commit()
        except BaseException:
            self._model.mark_uncertain(journal)
            raise
        if self._disk.is_dead:
            self._model.mark_uncertain(journal)
        else:
            self._model.commit(journal)
            self.commits += bool(journal)
            if self.commits % self._checkpoint == 0:
                with suppress(apsw.Error):
                    self.store._connection.execute("PRAGMA wal_checkpoint").fetchall()

    def run_writer(self) -> None:
        """The writer's turns, until there is nothing to be done at once."""
        self.run_loop()
        turns = 0
        while not self._disk.is_dead:
            more = self.writer.commit_group() or self.writer.queued > 0
            self._handler.take()
            turns += 1
            if not more:
                break
            if turns == MAX_GROUPS:
                raise RuntimeError("the writer finds no rest")
        self.run_loop()

    def deliver(self) -> Instant:
        """A round of the deliveries; when they want to look again."""
        while self.deliveries.look():
            pass
        wakes = [courier.poll() for courier in self.deliveries.couriers]
        # Where the outbox cannot be used, it would try every second.
        return min(wake if wake is not None else self._clock.now() + HOUR for wake in wakes)

    def next_due(self) -> Instant | None:
        """When the writer would wake; None where nothing is due or that cannot be read."""
        try:
            due, letters = self.store.next_due(), self.store.dead_letters_due(LATEST, 1)
        except StoreFailed:
            return None
        instants = [due.at] if due else []
        instants += [letter.retry_at for letter in letters if letter.retry_at is not None]
        return min(instants, default=None)

    # -- its end

    def in_flight(self) -> list[tuple[str, str]]:
        """What is under way to a destination: destination and alert."""
        couriers = self.deliveries.couriers
        return [
            (courier.key, sending.delivery.alert.id) for courier in couriers for sending in courier._in_flight.values()
        ]

    def stop(self) -> None:
        """As it should end: what was taken is stored."""
        while self.writer.queued and not self._disk.is_dead:
            self.run_writer()
        self.writer.finish()
        self.run_loop()
        self._close()

    def abandon(self) -> None:
        """It is dead, and so is what it would still say."""
        assert self._disk.is_dead or not hasattr(self, "_intake"), "else closing would write"
        self._close()

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(_rounds())
        close_all(*reversed(self._closing))


async def _rounds() -> None:
    for _ in range(LOOP_ITERATIONS):
        await asyncio.sleep(0)

"""A cell process in the simulation, from start to stop or crash, in the simulation's thread.

Uses the real components. The simulation runs the work of their threads step by step.
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
from bems.embedded.definition import load_machine, read_resolved_definition
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
"""Iterations of the event loop after which every request that can be answered has been answered."""


class AllowAll(Access):
    """Access that authorizes every request. Other tests cover keys and rate limits."""

    def __init__(self) -> None:
        """Needs neither keys nor limits."""

    def authorize(self, *_args: Any, **_options: Any) -> Key:
        return KEY


class Options(NamedTuple):
    """Limits of the cell, reduced so that scenarios reach them."""

    cached: int
    queued: int
    turn: int
    checkpoint: int
    pages: int
    training_samples: int


class Request:
    """A POST of events, and the answer once it has arrived."""

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
    """Opens the cell in a folder. Raises what the components raise."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        clock: Any,
        disk: Disk,
        model: ReferenceModel,
        options: Options,
        maybe_raise: Callable[[str, str], None],
        destinations: Mapping[Severity, Sequence[Destination]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._disk, self._model, self._loop, self._clock = disk, model, loop, clock
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: list[Any] = []
        self.commits = 0
        self._checkpoint = options.checkpoint
        compression.TRAINING_SAMPLES = compression.FIRST_TRAINING_AFTER_VALUES = options.training_samples
        compression.NEXT_TRAINING_AFTER_VALUES = 4 * options.training_samples
        try:
            self.store = self._close_later(SqliteStore(folder, max_cached_items=options.cached))
            self.store.store_definition(MACHINE.digest, read_resolved_definition())
            # SQLite ignores errors of an automatic checkpoint after a commit, but an exception of our VFS would fail
            # the commit. So `commit` checkpoints explicitly.
            self.store._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self.store._connection.execute(f"PRAGMA cache_size = {options.pages}")
            cell = Cell(policy, MACHINE, self.store)
            self._recorder = JournalRecorder(cell, self.store, maybe_raise)
            self._commit = self.store.commit
            self.store.commit = self.commit  # type: ignore[method-assign]
            self.writer = Writer(cell, self.store, clock, max_queued_items=options.queued, max_group_items=options.turn)
            self.reader: Reader = self._close_later(open_reader(folder))
            self.deliveries = Deliveries(
                folder, lambda: self._close_later(open_reader(folder)), destinations, now=clock.now
            )
            self._close_later(self.deliveries._outbox)
            self.deliveries.open_source()
        except BaseException:
            self.abandon()
            raise
        self._endpoint = loop.run_until_complete(self._make_endpoint(clock))

    def _close_later(self, closable: C) -> C:
        self._closing.append(closable)
        return closable

    async def _make_endpoint(self, clock: Any) -> EventEndpoint:
        return EventEndpoint(WriterBridge(self.writer, asyncio.get_running_loop()), clock, AllowAll(), METRICS, 100)

    # -- requests

    def post(self, request: Request) -> None:
        self._tasks.append(self._loop.create_task(self._endpoint(request.scope, request.receive, request.send)))

    def run_loop(self) -> None:
        """Run the event loop until it waits for the writer."""
        if self._tasks:
            self._loop.run_until_complete(_run_loop_iterations())
            self._tasks = [task for task in self._tasks if not task.done()]

    # -- work of the threads

    def commit(self) -> None:
        journal = self._recorder.take()
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
        """Commit groups until the writer has nothing to do."""
        self.run_loop()
        groups = 0
        while not self._disk.is_dead:
            more = self.writer.commit_group() or self.writer.queued > 0
            self._recorder.take()
            groups += 1
            if not more:
                break
            if groups == MAX_GROUPS:
                raise RuntimeError("the writer does not become idle")
        self.run_loop()

    def deliver(self) -> Instant:
        """Run the deliveries once. Returns when to run them again."""
        while self.deliveries.read_new_alerts():
            pass
        wakes = [dispatcher.poll() for dispatcher in self.deliveries.dispatchers]
        # A dispatcher whose outbox fails retries every second; an hour keeps the number of steps small.
        return min(wake if wake is not None else self._clock.now() + HOUR for wake in wakes)

    def next_due(self) -> Instant | None:
        """Return when the writer wakes up, or None if nothing is due or the store cannot be read."""
        try:
            due, letters = self.store.next_due(), self.store.dead_letters_due(LATEST, 1)
        except StoreFailed:
            return None
        instants = [due.at] if due else []
        instants += [letter.retry_at for letter in letters if letter.retry_at is not None]
        return min(instants, default=None)

    # -- stop and crash

    def in_flight(self) -> list[tuple[str, str]]:
        """Return the destination and alert id of every delivery that is being sent."""
        dispatchers = self.deliveries.dispatchers
        return [
            (dispatcher.key, sending.delivery.alert.id)
            for dispatcher in dispatchers
            for sending in dispatcher._in_flight.values()
        ]

    def stop(self) -> None:
        """Stop in an orderly way, and store everything that was accepted."""
        while self.writer.queued and not self._disk.is_dead:
            self.run_writer()
        self.writer.finish()
        self.run_loop()
        self._close()

    def abandon(self) -> None:
        """Release the resources of a crashed process, without answers or writes."""
        assert self._disk.is_dead or not hasattr(self, "_endpoint"), "closing a live cell would write"
        self._close()

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(_run_loop_iterations())
        close_all(*reversed(self._closing))


async def _run_loop_iterations() -> None:
    for _ in range(LOOP_ITERATIONS):
        await asyncio.sleep(0)

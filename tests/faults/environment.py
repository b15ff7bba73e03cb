"""The world of a seed: the cell, its disk, its clock and everybody around it, and what happens to them one after the
other."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import apsw

from bems.embedded.storage.database_files import StoreUnusable
from bems.embedded.storage.errors import StoreFailed
from bems.tracker.instants import DAY, HOUR, LATEST, MINUTE, SECOND, Instant, render
from bems.tracker.transitions import Transition
from tests.faults.disk import NEVER, Disk
from tests.faults.fault_injector import FaultInjector
from tests.faults.invariants import check_drained, check_recovered, require
from tests.faults.network import Network
from tests.faults.receiver import Receiver
from tests.faults.reference_model import ReferenceModel
from tests.faults.scenario import START, WEEKS
from tests.faults.simulated_cell import MACHINE, Options, SimulatedCell
from tests.tracker.samples import plain_policy

POLICY = plain_policy("2d", "1d", 2, 4)
"""A wait lasts five days at the most: then it is given up."""

MAX_STEPS = 20_000
"""Steps, after which a story is one without an end."""


class Clock:
    """The machine's clock: the true time, and what it is ahead of that."""

    speed = 1.0

    def __init__(self) -> None:
        self.true = START
        self.ahead = 0

    def now(self) -> Instant:
        return self.true + self.ahead


class Environment:
    """All of it. `play` tells the story to its end, or raises Broken."""

    def __init__(self, seed: int, folder: Path, say: Callable[[str], None] | None = None) -> None:
        def draw(what: str) -> Random:
            return Random(f"{what} {seed}")

        self.random = draw("world")
        self.clock = Clock()
        self.steps = 0
        self.starts = 0
        self.crashes = 0
        self.failures = 0
        self.digest = blake2b(digest_size=8)
        self.model = ReferenceModel(POLICY, MACHINE)
        self.disk = Disk(draw("disk"))
        self.cell: SimulatedCell | None = None
        self.network = Network(self, draw("network"))
        self.receivers = [Receiver(key, draw(key)) for key in ("hook", "pager")]
        self._say = say
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._schedule: list[tuple[Instant, int, Callable[[], None]]] = []
        self._planned = 0
        self._in_flight: dict[int, Callable[[], None]] = {}
        self._faults_stopped = False
        self._faults = FaultInjector(self)
        self._options = Options(
            cached=self.random.choice((1, 3, 20_000)),
            queued=self.random.choice((3, 30, 10_000)),
            turn=self.random.choice((1, 3, 1_000)),
            checkpoint=self.random.choice((1, 3, 20, 4_000)),
            pages=self.random.choice((10, -65_536)),
            lesson=self.random.choice((10, 50, 1_000)),
        )
        self.followed: list[Transition] = []

    # -- for those who act

    def trace(self, what: str) -> None:
        line = f"{self.steps:5} {render(self.clock.true)} {what}"
        self.digest.update(line.encode())
        if self._say:
            self._say(line)

    def schedule(self, after: Instant, what: Callable[[], None]) -> None:
        """Something will happen."""
        self._planned += 1
        heappush(self._schedule, (self.clock.true + after, self._planned, what))

    def start_thread(self, target: Callable[..., None], args: Any = (), **_: object) -> Any:
        """A courier sends an alert: that is done some time later, or when the cell's cell ends, if ever."""

        def start() -> None:
            self._planned += 1
            number = self._planned
            self._in_flight[number] = lambda: target(*args)
            self.schedule(
                self.random.choice((0, SECOND, MINUTE, HOUR)), lambda: self._in_flight.pop(number, _already_sent)()
            )

        return SimpleNamespace(start=start, ident=None)

    # -- the story

    def run(self) -> None:
        self.network.schedule_traffic()
        for number in range(WEEKS * 7 * 3):
            self.schedule(number * 8 * HOUR + self.random.randrange(8 * HOUR), self._faults.next_fault)
        self._open()
        end = START + WEEKS * 7 * DAY
        while self._schedule and self.clock.true < end:
            self._step()
        self._drain()
        assert self.cell
        check_recovered(self.cell, self.model, self.network.answered, self.followed)
        check_drained(self.cell, self.clock.now())
        for receiver in self.receivers:
            kept = [alert for alert in self.model.alerts if receiver.key == "hook" or alert.severity == "critical"]
            receiver.check(kept)
        self.network.check()
        self.cell.stop()
        if self.disk.simulation_error:
            raise self.disk.simulation_error
        self.trace(f"END after {self.disk.operations} operations of the disk")
        require({path.name for path in self._folder.iterdir()} >= {"cell.db", "deliveries.db"}, "1: a file is missing")

    def close(self) -> None:
        """Whatever came of it."""
        if self.cell:
            self.disk.is_dead = True
            self.cell.abandon()
        self.disk.unregister()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _step(self) -> None:
        """Go on to whatever happens next, and have the cell do what it would."""
        self.steps += 1
        require(self.steps < MAX_STEPS, "the story has no end")
        at = self._schedule[0][0] if self._schedule else LATEST
        wake = self._next_wake()
        if wake is not None and wake < at:
            self.clock.true = wake
        else:
            self.clock.true = max(at, self.clock.true)
            heappop(self._schedule)[2]()
        self._run_cell()

    def _next_wake(self) -> Instant | None:
        """When the cell would wake by itself, in true time. A machine may sleep over that."""
        if self.cell is None or (not self._faults_stopped and self.random.random() < 0.2):
            return None
        if self.cell.writer.failure:
            # It would try every second.
            return self.clock.true + HOUR
        instants = [at for at in (self.cell.next_due(), self._courier_wakes) if at is not None and at < LATEST]
        if not instants:
            return None
        return max(min(instants) - self.clock.ahead, self.clock.true + SECOND)

    _courier_wakes: Instant | None = None

    def _run_cell(self) -> None:
        cell = self.cell
        if cell is None:
            return
        cell.run_writer()
        self.network.collect_answers()
        if not self.disk.is_dead:
            self._courier_wakes = cell.deliver()
            self._note_given_up(cell)
        if not self.disk.is_dead and self.random.random() < 0.2:
            self._follow(cell)
        if self.disk.is_dead:
            self._crash()

    def _note_given_up(self, cell: SimulatedCell) -> None:
        with self._failing_only_with_the_disk("1: the outbox cannot be read"):
            for delivery in cell.deliveries.entries("failed"):
                for receiver in self.receivers:
                    if receiver.key == delivery.destination:
                        receiver.given_up.add(delivery.alert.id)

    def _follow(self, cell: SimulatedCell) -> None:
        """As analytics does: read the rows behind the watermark."""
        rows: list[tuple[int, Transition]] = []
        with self._failing_only_with_the_disk("1: the store cannot be read"):
            rows = cell.reader.transitions(len(self.followed))
        require(
            [seq for seq, _ in rows] == list(range(len(self.followed) + 1, len(self.followed) + len(rows) + 1)), "6"
        )
        self.followed += [row for _, row in rows]

    @contextmanager
    def _failing_only_with_the_disk(self, promise: str) -> Iterator[None]:
        failures = self.disk.failures
        try:
            yield
        except (StoreFailed, apsw.Error):
            require(self.disk.is_dead or self.disk.failures > failures, promise)

    # -- what goes wrong

    def restart_cell(self) -> None:
        """An operator stops the cell, and starts it again."""
        cell = self.cell
        assert cell
        self._settle_in_flight(cell)
        cell.stop()
        self.network.collect_answers()
        if self.disk.is_dead:
            self._crash()
        else:
            self.cell = None
            self.schedule(self.random.choice((0, MINUTE, DAY)), self._open)

    def _crash(self) -> None:
        cell, self.cell = self.cell, None
        self.crashes += 1
        if cell:
            self._settle_in_flight(cell)
            cell.abandon()
        power = self.random.random() < 0.5
        if not power and self.random.random() < 0.5:
            # The next cell sees what this one left, but has not much time to say so.
            self.schedule(self.random.randrange(3 * HOUR), self._kill_cell)
        self.trace(
            f"CRASH, {'the power is cut' if power else 'the process dies'}, after {self.disk.operations} operations"
        )
        self.network.drop_pending()
        if power:
            self.disk.cut_power()
        else:
            self.disk.restart()
        self.schedule(self.random.choice((0, SECOND, SECOND, HOUR, 2 * DAY)), self._open)

    def _kill_cell(self) -> None:
        if self.cell and not self._faults_stopped:
            self.disk.is_dead = True

    def _settle_in_flight(self, cell: SimulatedCell) -> None:
        """What is being sent arrives now or never; nobody hears of it, and it is sent again."""
        for key, alert_id in cell.in_flight():
            for receiver in self.receivers:
                receiver.allowed_repeats[alert_id] += receiver.key == key
        for number in sorted(self._in_flight):
            send = self._in_flight.pop(number)
            if self.random.random() < 0.5:
                send()

    def _open(self) -> None:
        if self.cell:
            return
        failures, refusal = self.disk.failures, ""
        self._faults.before_opening()
        hook, pager = self.receivers
        try:
            cell = SimulatedCell(
                self._folder, POLICY, self.clock, self.disk, self.model, self._options, self._faults.maybe_raise,
                {"warning": [hook], "critical": [hook, pager]}, self._loop,
            )  # fmt: skip
        except (StoreUnusable, StoreFailed, apsw.Error, OSError) as error:
            refusal = f"{type(error).__name__}: {str(error).replace(str(self._folder), '')}"
        if refusal:
            self.trace(f"does not open: {refusal}")
            if self.disk.is_dead:
                self._crash()
            else:
                require(self.disk.failures > failures, f"1: it does not open, for no reason: {refusal}")
                # The process is at its end.
                self.disk.restart()
                self.schedule(HOUR, self._open)
            return
        self.cell = cell
        self.starts += 1
        with self._without_faults():
            self.trace(f"OPEN with {cell.reader.counts()}")
            check_recovered(cell, self.model, self.network.answered, self.followed)

    @contextmanager
    def _without_faults(self) -> Iterator[None]:
        """Who examines is not part of the story."""
        disk = self.disk
        before = disk.rates, disk.free_bytes, disk.dies_at, disk.operations
        disk.rates, disk.free_bytes, disk.dies_at = {}, None, NEVER
        yield
        disk.rates, disk.free_bytes, disk.dies_at, disk.operations = before

    def retry_deliveries(self) -> None:
        if self.cell:
            with self._failing_only_with_the_disk("9: deliveries cannot be tried again"):
                self.cell.deliveries.retry()

    # -- the end

    def _drain(self) -> None:
        """Nothing goes wrong any more: what is left is sent, redriven, delivered, waited for."""
        self.trace("CALM")
        self._faults_stopped = True
        self._faults.stop()
        self.network.stop_losses()
        if self.cell is None:
            self.schedule(0, self._open)
        busy = True
        while busy:
            self.steps += 1
            require(self.steps < MAX_STEPS, "it does not come to rest")
            while self._schedule or self._next_wake() is not None:
                self._step()
            assert self.cell
            busy = self.network.redrive_all() or self.cell.deliveries.failed() > 0
            self.retry_deliveries()
            self._run_cell()
            busy |= bool(self._schedule) or self._next_wake() is not None


def _already_sent() -> None:
    """What was on its way has arrived already."""

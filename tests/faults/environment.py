"""Environment of a simulated cell: its disk, clock, network and receivers, and the schedule of what happens to them.

A seed determines everything.
"""

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
"""A wait is given up after at most five days."""

MAX_STEPS = 20_000
"""Maximum number of steps; a scenario that takes more does not terminate."""


class Clock:
    """The machine's clock. `true` is the real time; `ahead` is the clock's error. Both in microseconds."""

    speed = 1.0

    def __init__(self) -> None:
        self.true = START
        self.ahead = 0

    def now(self) -> Instant:
        return self.true + self.ahead


class Environment:
    """All parts of a simulation.

    `run` executes the scenario, and raises InvariantViolated if the cell breaks a promise.
    """

    def __init__(self, seed: int, folder: Path, print_line: Callable[[str], None] | None = None) -> None:
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
        self._print_line = print_line
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._schedule: list[tuple[Instant, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._in_flight: dict[int, Callable[[], None]] = {}
        self._faults_stopped = False
        self._faults = FaultInjector(self)
        self._options = Options(
            cached=self.random.choice((1, 3, 20_000)),
            queued=self.random.choice((3, 30, 10_000)),
            turn=self.random.choice((1, 3, 1_000)),
            checkpoint=self.random.choice((1, 3, 20, 4_000)),
            pages=self.random.choice((10, -65_536)),
            training_samples=self.random.choice((10, 50, 1_000)),
        )
        self.followed: list[Transition] = []

    # -- schedule

    def trace(self, what: str) -> None:
        line = f"{self.steps:5} {render(self.clock.true)} {what}"
        self.digest.update(line.encode())
        if self._print_line:
            self._print_line(line)

    def schedule(self, delay: Instant, call: Callable[[], None]) -> None:
        """Schedule a call, at a delay from now in real time."""
        self._scheduled += 1
        heappush(self._schedule, (self.clock.true + delay, self._scheduled, call))

    def start_thread(self, target: Callable[..., None], args: Any = (), **_: object) -> Any:
        """Replace threading.Thread for a dispatcher, which sends each alert in a thread.

        The alert is sent after a random delay, or when the cell ends, or never.
        """

        def start() -> None:
            self._scheduled += 1
            number = self._scheduled
            self._in_flight[number] = lambda: target(*args)
            self.schedule(
                self.random.choice((0, SECOND, MINUTE, HOUR)), lambda: self._in_flight.pop(number, _already_sent)()
            )

        return SimpleNamespace(start=start, ident=None)

    # -- run

    def run(self) -> None:
        """Run the scenario to its end and check all invariants."""
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
        self.trace(f"END after {self.disk.operations} disk operations")
        require({path.name for path in self._folder.iterdir()} >= {"cell.db", "deliveries.db"}, "1: a file is missing")

    def close(self) -> None:
        """Release all resources, also after a violation."""
        if self.cell:
            self.disk.is_dead = True
            self.cell.abandon()
        self.disk.unregister()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _step(self) -> None:
        """Advance the clock to the next scheduled call or wake-up of the cell, and let the cell work."""
        self.steps += 1
        require(self.steps < MAX_STEPS, "the scenario does not end")
        at = self._schedule[0][0] if self._schedule else LATEST
        wake = self._next_wake()
        if wake is not None and wake < at:
            self.clock.true = wake
        else:
            self.clock.true = max(at, self.clock.true)
            heappop(self._schedule)[2]()
        self._run_cell()

    def _next_wake(self) -> Instant | None:
        """Return when the cell wakes up, in real time. Sometimes None, as if the machine slept."""
        if self.cell is None or (not self._faults_stopped and self.random.random() < 0.2):
            return None
        if self.cell.writer.failure:
            # The cell retries every second; an hour keeps the number of steps small.
            return self.clock.true + HOUR
        instants = [at for at in (self.cell.next_due(), self._dispatchers_wake) if at is not None and at < LATEST]
        if not instants:
            return None
        return max(min(instants) - self.clock.ahead, self.clock.true + SECOND)

    _dispatchers_wake: Instant | None = None

    def _run_cell(self) -> None:
        cell = self.cell
        if cell is None:
            return
        cell.run_writer()
        self.network.collect_answers()
        if not self.disk.is_dead:
            self._dispatchers_wake = cell.deliver()
            self._collect_given_up(cell)
        if not self.disk.is_dead and self.random.random() < 0.2:
            self._follow(cell)
        if self.disk.is_dead:
            self._crash()

    def _collect_given_up(self, cell: SimulatedCell) -> None:
        with self._failing_only_with_disk("1: the outbox cannot be read"):
            for delivery in cell.deliveries.entries("failed"):
                for receiver in self.receivers:
                    if receiver.key == delivery.destination:
                        receiver.given_up.add(delivery.alert.id)

    def _follow(self, cell: SimulatedCell) -> None:
        """Read the rows after the last one that was read, as analytics does."""
        rows: list[tuple[int, Transition]] = []
        with self._failing_only_with_disk("1: the store cannot be read"):
            rows = cell.reader.transitions(len(self.followed))
        require(
            [seq for seq, _ in rows] == list(range(len(self.followed) + 1, len(self.followed) + len(rows) + 1)), "6"
        )
        self.followed += [row for _, row in rows]

    @contextmanager
    def _failing_only_with_disk(self, promise: str) -> Iterator[None]:
        """Allow store errors in the block only if the disk failed."""
        failures = self.disk.failures
        try:
            yield
        except (StoreFailed, apsw.Error):
            require(self.disk.is_dead or self.disk.failures > failures, promise)

    # -- stops and crashes

    def restart_cell(self) -> None:
        """Stop the cell in an orderly way, and start it again later."""
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
            # Kill the next process soon, after it has read what this one wrote and may have reported it to a client.
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
        """Deliver or drop each alert that is being sent. The cell gets no response, so it will send them again."""
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
                require(
                    self.disk.failures > failures,
                    f"1: the cell does not open although the disk did not fail: {refusal}",
                )
                # The process has ended.
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
        """Disable disk faults in the block, so that checks do not change the scenario."""
        disk = self.disk
        before = disk.rates, disk.free_bytes, disk.dies_at, disk.operations
        disk.rates, disk.free_bytes, disk.dies_at = {}, None, NEVER
        yield
        disk.rates, disk.free_bytes, disk.dies_at, disk.operations = before

    def retry_deliveries(self) -> None:
        if self.cell:
            with self._failing_only_with_disk("9: deliveries cannot be retried"):
                self.cell.deliveries.retry()

    # -- end

    def _drain(self) -> None:
        """Stop all faults, and run until everything is sent, redriven and delivered and every wait has ended."""
        self.trace("FAULTS STOP")
        self._faults_stopped = True
        self._faults.stop()
        self.network.stop_losses()
        if self.cell is None:
            self.schedule(0, self._open)
        busy = True
        while busy:
            self.steps += 1
            require(self.steps < MAX_STEPS, "the cell does not become idle")
            while self._schedule or self._next_wake() is not None:
                self._step()
            assert self.cell
            busy = self.network.redrive_all() or self.cell.deliveries.failed() > 0
            self.retry_deliveries()
            self._run_cell()
            busy |= bool(self._schedule) or self._next_wake() is not None


def _already_sent() -> None:
    """Stand in for an alert that `_settle_in_flight` has handled."""

"""Replay: runs a log of past events through the lifecycle at the events' own times.

The clock is the running maximum of `occurred_at` in file order. Timers that are due before an event fire before it; at
the same instant the event comes first. At the end, all timers that are due by then fire.

Invoices are independent of each other, so they can be distributed over processes. The distribution does not change any
result.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple, Protocol

from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.clock import VirtualClock
from bems.embedded.definition import load_machine
from bems.embedded.replay.report import Report
from bems.embedded.storage.store import MemoryStore
from bems.tracker.actions import execution_name
from bems.tracker.contract import Event
from bems.tracker.decisions import ACCEPTED, CONFLICT, classify_duplicate
from bems.tracker.instants import Instant
from bems.tracker.parsing import MAX_LINE_BYTES, InvalidEvent, parse_line
from bems.tracker.policy import Policy
from bems.validation.field_errors import FieldError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WORKER_KILLED = "a worker process of the replay was killed: it may have run out of memory"
ID_REUSED = FieldError("/event/event_id", "it was sent before with another content: use an event_id only once")
EVENTS_PER_MESSAGE = 200
"""Number of events in a message to a worker process."""


class ReplayError(Exception):
    """The replay could not be completed."""


class Refusal(NamedTuple):
    """A line that is not a valid event, or an event whose id was sent before with other content."""

    line: int
    event_id: str | None
    errors: list[FieldError]


def replay(
    lines: Iterable[bytes],
    policy: Policy,
    today: Instant,
    until: Instant | None = None,
    processes: int = 1,
    on_refused: Callable[[Refusal], object] | None = None,
) -> Report:
    """Replay a log and return the report.

    `lines` are the lines of an event log file; blank ones are ignored. `today` is the current time: events that
    occurred more than a day later are refused. With `until`, events that occurred later are left out, and the clock
    advances to `until` at the end. `on_refused` is called with every refused line.

    Raises ReplayError if a worker process was killed.
    """
    report, clock = Report(), VirtualClock()
    digests: dict[str, str] = {}
    with WorkerPool(policy, processes) as workers:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) <= MAX_LINE_BYTES and not line.strip():
                continue
            event = parse_line(line, today)
            if isinstance(event, InvalidEvent):
                report.count_refused(event.reasons)
                if on_refused:
                    on_refused(Refusal(number, event.event_id, event.errors))
                continue
            if until is not None and event.occurred_at > until:
                report.left_out += 1
                continue
            repeat = classify_duplicate(digests.get(event.event_id), event.digest)
            if repeat is None:
                digests[event.event_id] = event.digest
                report.note_clock(number, clock.now(), event.occurred_at)
                clock.move_to(event.occurred_at)
                workers.feed(event, line, clock.now())
            elif repeat is CONFLICT and on_refused:
                on_refused(Refusal(number, event.event_id, [ID_REUSED]))
            report.count_receipt(repeat or ACCEPTED, event.occurred_at)
        report.end = clock.now() if until is None else until
        for worker_report in workers.finish(report.end):
            report.merge(worker_report)
    report.invoices.sort(key=lambda invoice: invoice.invoice_id)
    return report


class Worker(Protocol):
    """Replays a part of the invoices."""

    def feed(self, event: Event, line: bytes, now: Instant) -> None:
        """Advance the clock to `now` and handle an event."""
        ...

    def finish(self, end: Instant) -> None:
        """Advance the clock to `end` and fire all timers that are due by then."""
        ...

    def report(self) -> Report: ...


class LocalWorker:
    """Worker that runs in this process."""

    def __init__(self, policy: Policy) -> None:
        self._store = MemoryStore()
        self._cell = Cell(policy, load_machine(), self._store)
        self._report = Report()

    def feed(self, event: Event, line: bytes, now: Instant) -> None:  # noqa: ARG002
        self._pass_time(now)
        self._cell.handle_event(structs.replace(event, received_at=now), now)
        self._report.add_transitions(self._store.drain_transitions())

    def finish(self, end: Instant) -> None:
        self._pass_time(end + 1)
        # A state machine's timer has whole seconds, so one for an alert that is due by the end may expire after it.
        for record in list(self._store.records()):
            if record.wait and record.wait.due <= end:
                execution = self._store.execution(execution_name(record.invoice_id, record.run.number))
                if execution and execution.due is not None:
                    self._cell.executions.fire(execution.id, execution.due)
        self._report.finish(self._store.records(), self._store.alerts, end)

    def report(self) -> Report:
        return self._report

    def _pass_time(self, before: Instant) -> None:
        while self._cell.fire_next(before) is not None:
            pass
        self._report.add_transitions(self._store.drain_transitions())


class ProcessWorker:
    """Worker that runs in a separate process. Sending blocks when the process falls behind, which limits memory."""

    def __init__(self, policy: Policy, others: list["ProcessWorker"]) -> None:
        # Forking is fast, but unsafe while other threads run.
        can_fork = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork") if can_fork else multiprocessing.get_context("spawn")
        self._connection, worker_end = context.Pipe()
        inherited = [self._connection, *(other._connection for other in others)] if can_fork else []
        self._batch: list[tuple[bytes, Instant]] = []
        self._process = context.Process(target=_worker_main, args=(worker_end, policy, inherited), daemon=True)
        self._process.start()
        worker_end.close()

    def feed(self, event: Event, line: bytes, now: Instant) -> None:  # noqa: ARG002
        self._batch.append((line, now))
        if len(self._batch) == EVENTS_PER_MESSAGE:
            self._send(self._batch)
            self._batch = []

    def finish(self, end: Instant) -> None:
        self._send(self._batch)
        self._send(end)

    def report(self) -> Report:
        try:
            report = self._connection.recv()
        except (OSError, EOFError) as error:
            raise ReplayError(WORKER_KILLED) from error
        assert isinstance(report, Report)
        self._process.join()
        return report

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise ReplayError(WORKER_KILLED) from error


def _worker_main(connection: Connection, policy: Policy, inherited: list[Connection]) -> None:
    """Entry point of a worker process. Receives batches of lines with their clock, then the end, and sends the report.

    It closes the parent's ends of the pipes that a fork inherited. Otherwise it would not notice the parent's end.
    """
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    worker = LocalWorker(policy)
    try:
        while not isinstance(batch := connection.recv(), int):
            for line, now in batch:
                event = parse_line(line, now)
                assert isinstance(event, Event)
                worker.feed(event, line, now)
    except EOFError:
        return
    worker.finish(batch)
    connection.send(worker.report())


class WorkerPool:
    """Workers that share the invoices of a log by id."""

    def __init__(self, policy: Policy, processes: int) -> None:
        self._processes: list[ProcessWorker] = []
        for _ in range(processes if processes > 1 else 0):
            self._processes.append(ProcessWorker(policy, self._processes))
        self._workers: list[Worker] = [*self._processes] or [LocalWorker(policy)]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()

    def feed(self, event: Event, line: bytes, now: Instant) -> None:
        # `hash` is salted. With a plain checksum the distribution would be uneven if the log is a sample of invoices
        # that was drawn by the same checksum.
        self._workers[hash(event.invoice_id) % len(self._workers)].feed(event, line, now)

    def finish(self, end: Instant) -> list[Report]:
        for worker in self._workers:
            worker.finish(end)
        return [worker.report() for worker in self._workers]

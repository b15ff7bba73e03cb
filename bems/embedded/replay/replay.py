"""Replay: a log of past events, run through the lifecycle at the events' own times.

The clock is the running maximum of occurred_at in file order. What is due before an event happens before it; at the
same instant the event comes first. At the end, what is due by then happens.

Invoices do not touch one another, so they may be shared out over processes: which process an invoice runs in changes
nothing of what becomes of it.
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
ENDED_EARLY = "a process of the replay was killed before its end; was there too little memory?"
ID_REUSED = FieldError("/event/event_id", "it was sent before with another content: use an event_id only once")
EVENTS_PER_MESSAGE = 200
"""Events that go to another process at once."""


class ReplayError(Exception):
    """The replay did not come to its end."""


class Refused(NamedTuple):
    """A line that is no event, or an event whose id was sent before with another content."""

    line: int
    event_id: str | None
    faults: list[FieldError]


def replay(
    lines: Iterable[bytes],
    policy: Policy,
    today: Instant,
    until: Instant | None = None,
    processes: int = 1,
    refused: Callable[[Refused], object] | None = None,
) -> Report:
    """Run a log and report on it. ReplayError when one of its processes was killed.

    `lines` are those of an event log file; blank ones are passed over. `today` is when it is replayed: an event that
    occurred more than a day later is refused. With `until`, events that occurred after it are left out, and the clock
    goes on to it at the end. `refused` is told of every refused line as it comes.
    """
    report, clock = Report(), VirtualClock()
    digests: dict[str, str] = {}
    with WorkerPool(policy, processes) as shares:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) <= MAX_LINE_BYTES and not line.strip():
                continue
            event = parse_line(line, today)
            if isinstance(event, InvalidEvent):
                report.refuse(event.reasons)
                if refused:
                    refused(Refused(number, event.event_id, event.errors))
                continue
            if until is not None and event.occurred_at > until:
                report.left_out += 1
                continue
            repeat = classify_duplicate(digests.get(event.event_id), event.digest)
            if repeat is None:
                digests[event.event_id] = event.digest
                report.advance(number, clock.now(), event.occurred_at)
                clock.move_to(event.occurred_at)
                shares.feed(event, line, clock.now())
            elif repeat is CONFLICT and refused:
                refused(Refused(number, event.event_id, [ID_REUSED]))
            report.receive(repeat or ACCEPTED, event.occurred_at)
        report.end = clock.now() if until is None else until
        for share in shares.finish(report.end):
            report.add(share)
    report.invoices.sort(key=lambda invoice: invoice.invoice_id)
    return report


class Shard(Protocol):
    """Some of the invoices."""

    def feed(self, event: Event, line: bytes, now: Instant) -> None:
        """Time has come to `now`, and this event with it."""
        ...

    def finish(self, end: Instant) -> None:
        """Time goes on to `end`, and what is due by then happens."""
        ...

    def report(self) -> Report: ...


class LocalWorker:
    """A share that runs here."""

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
        # A state machine's timer counts whole seconds, so that of an alert due by the end may run out just after it.
        for record in list(self._store.records()):
            if record.wait and record.wait.due <= end:
                execution = self._store.execution(execution_name(record.invoice_id, record.run.number))
                if execution and execution.due is not None:
                    self._cell.executions.fire(execution.id, execution.due)
        self._report.finish(self._store.records(), self._store.alerts)

    def report(self) -> Report:
        return self._report

    def _pass_time(self, before: Instant) -> None:
        while self._cell.fire_next(before) is not None:
            pass
        self._report.add_transitions(self._store.drain_transitions())


class ProcessWorker:
    """A share that runs in a process of its own. Sending waits when that falls behind, so memory stays bounded."""

    def __init__(self, policy: Policy, others: list["ProcessWorker"]) -> None:
        # Forking is quick, but not safe beside threads.
        quick = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork") if quick else multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        inherited = [self._connection, *(other._connection for other in others)] if quick else []
        self._batch: list[tuple[bytes, Instant]] = []
        self._process = context.Process(target=_worker_main, args=(theirs, policy, inherited), daemon=True)
        self._process.start()
        theirs.close()

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
        except (OSError, EOFError) as fault:
            raise ReplayError(ENDED_EARLY) from fault
        assert isinstance(report, Report)
        self._process.join()
        return report

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()

    def _send(self, what: object) -> None:
        try:
            self._connection.send(what)
        except OSError as fault:
            raise ReplayError(ENDED_EARLY) from fault


def _worker_main(connection: Connection, policy: Policy, inherited: list[Connection]) -> None:
    """The other process: batches of lines with their clock, then the end, for which a report goes back.

    It closes what a fork left it of the first process's ends of the pipes: else it would not see that process end.
    """
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    course = LocalWorker(policy)
    try:
        while not isinstance(batch := connection.recv(), int):
            for line, now in batch:
                event = parse_line(line, now)
                assert isinstance(event, Event)
                course.feed(event, line, now)
    except EOFError:
        return
    course.finish(batch)
    connection.send(course.report())


class WorkerPool:
    """The invoices of a log, shared out by their ids."""

    def __init__(self, policy: Policy, processes: int) -> None:
        self._remotes: list[ProcessWorker] = []
        for _ in range(processes if processes > 1 else 0):
            self._remotes.append(ProcessWorker(policy, self._remotes))
        self._shares: list[Shard] = [*self._remotes] or [LocalWorker(policy)]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for remote in self._remotes:
            remote.close()

    def feed(self, event: Event, line: bytes, now: Instant) -> None:
        # Salted, unlike a checksum: a log may be a sample that was drawn by that very checksum of its ids.
        self._shares[hash(event.invoice_id) % len(self._shares)].feed(event, line, now)

    def finish(self, end: Instant) -> list[Report]:
        for share in self._shares:
            share.finish(end)
        return [share.report() for share in self._shares]

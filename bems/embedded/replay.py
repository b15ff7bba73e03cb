"""Replay: a log of past events, run through the lifecycle at the events' own times.

The clock is the running maximum of occurred_at in file order. What is due before an event happens before it; at the
same instant the event comes first. At the end, what is due by then happens.

Invoices do not touch one another, so they may be shared out over processes: which process an invoice runs in changes
nothing of what becomes of it.
"""

import multiprocessing
import threading
from collections.abc import Iterable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol
from zlib import crc32

from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.report import Report
from bems.embedded.store import MemoryStore
from bems.tracker.contract import Event
from bems.tracker.decisions import ACCEPTED, repeated
from bems.tracker.gate import Refusal, read_line
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BATCH = 200
"""Events that go to another process at once."""


def replay(
    lines: Iterable[bytes], policy: Policy, today: Instant, until: Instant | None = None, processes: int = 1
) -> Report:
    """Run a log and report on it.

    `lines` are those of an event log file; blank ones are passed over. `today` is when it is replayed: an event that
    occurred more than a day later is refused, so that one wrong date does not run the clock ahead. With `until`, events
    that occurred after it are left out, and the clock goes on to it at the end.
    """
    report, clock = Report(), 0
    digests: dict[str, str] = {}
    with Shares(policy, processes) as shares:
        for number, line in enumerate(lines):
            if number == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            event = read_line(line, today)
            if isinstance(event, Refusal):
                report.refuse(event.reasons)
                continue
            if until is not None and event.occurred_at > until:
                report.left_out += 1
                continue
            repeat = repeated(digests.get(event.event_id), event.digest)
            if repeat is None:
                digests[event.event_id] = event.digest
                clock = max(clock, event.occurred_at)
                shares.take(event, line, clock)
            report.receive(repeat or ACCEPTED, event.occurred_at)
        report.end = clock if until is None else max(until, clock)
        for share in shares.finish(report.end):
            report.add(share)
    report.invoices.sort()
    return report


class Share(Protocol):
    """Some of the invoices."""

    def take(self, event: Event, line: bytes, now: Instant) -> None:
        """Time has come to `now`, and this event with it."""
        ...

    def finish(self, end: Instant) -> None:
        """Time goes on to `end`, and what is due by then happens."""
        ...

    def report(self) -> Report: ...


class Course:
    """A share that runs here."""

    def __init__(self, policy: Policy) -> None:
        self._store = MemoryStore()
        self._cell = Cell(policy, load_machine(), self._store)
        self._report = Report()

    def take(self, event: Event, line: bytes, now: Instant) -> None:  # noqa: ARG002
        self._pass_time(now)
        self._cell.event(structs.replace(event, received_at=now), now)
        self._report.add_transitions(self._store.take_transitions())

    def finish(self, end: Instant) -> None:
        self._pass_time(end + 1)
        self._report.finish(self._store.records(), self._store.alerts)

    def report(self) -> Report:
        return self._report

    def _pass_time(self, before: Instant) -> None:
        while self._cell.fire_next(before) is not None:
            pass
        self._report.add_transitions(self._store.take_transitions())


class Remote:
    """A share that runs in a process of its own. Sending waits when that falls behind, so memory stays bounded."""

    def __init__(self, policy: Policy) -> None:
        # Forking is quick, but not safe beside threads.
        quick = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork") if quick else multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._batch: list[tuple[bytes, Instant]] = []
        self._process = context.Process(target=_serve, args=(theirs, policy), daemon=True)
        self._process.start()
        theirs.close()

    def take(self, event: Event, line: bytes, now: Instant) -> None:  # noqa: ARG002
        self._batch.append((line, now))
        if len(self._batch) == BATCH:
            self._connection.send(self._batch)
            self._batch = []

    def finish(self, end: Instant) -> None:
        self._connection.send(self._batch)
        self._connection.send(end)

    def report(self) -> Report:
        report = self._connection.recv()
        assert isinstance(report, Report)
        self._process.join()
        return report

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()


def _serve(connection: Connection, policy: Policy) -> None:
    """The other process: batches of lines with their clock, then the end, for which a report goes back."""
    course = Course(policy)
    while not isinstance(batch := connection.recv(), int):
        for line, now in batch:
            event = read_line(line, now)
            assert isinstance(event, Event)
            course.take(event, line, now)
    course.finish(batch)
    connection.send(course.report())


class Shares:
    """The invoices of a log, shared out by their ids."""

    def __init__(self, policy: Policy, processes: int) -> None:
        self._remotes = [Remote(policy) for _ in range(processes)] if processes > 1 else []
        self._shares: list[Share] = [*self._remotes] or [Course(policy)]

    def __enter__(self) -> "Shares":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for remote in self._remotes:
            remote.close()

    def take(self, event: Event, line: bytes, now: Instant) -> None:
        self._shares[crc32(event.invoice_id.encode()) % len(self._shares)].take(event, line, now)

    def finish(self, end: Instant) -> list[Report]:
        for share in self._shares:
            share.finish(end)
        return [share.report() for share in self._shares]

"""Replay: a log of past events, run through the lifecycle at the events' own times.

The clock is the running maximum of occurred_at in file order. What is due before an event happens before it; at the
same instant the event comes first. At the end, what is due by then happens.
"""

from collections.abc import Iterable

from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.clock import VirtualClock
from bems.embedded.definition import load_machine
from bems.embedded.report import Report
from bems.embedded.store import MemoryStore
from bems.tracker.gate import Refusal, read_line
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def replay(lines: Iterable[bytes], policy: Policy, today: Instant, until: Instant | None = None) -> Report:
    """Run a log and report on it.

    `lines` are those of an event log file; blank ones are passed over. `today` is when it is replayed: an event that
    occurred more than a day later is refused, so that one wrong date does not run the clock ahead. With `until`, events
    that occurred after it are left out, and the clock goes on to it at the end.
    """
    store, clock, report = MemoryStore(), VirtualClock(), Report()
    cell = Cell(policy, load_machine(), store)

    def pass_time(before: Instant) -> None:
        while (at := cell.fire_next(before)) is not None:
            clock.move_to(at)
        report.add_transitions(store.take_transitions())

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
        pass_time(event.occurred_at)
        clock.move_to(event.occurred_at)
        now = clock.now()
        receipt = cell.event(structs.replace(event, received_at=now), now)
        report.receive(receipt, event.occurred_at)
        report.add_transitions(store.take_transitions())
    end = clock.now() if until is None else max(until, clock.now())
    pass_time(end + 1)
    report.finish(store.records(), store.alerts, end)
    return report

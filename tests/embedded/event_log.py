"""Logs of events to send to a cell."""

import dataclasses

from bems.generator.event_log import EVERYDAY, generate
from bems.tracker.contract import Event
from bems.tracker.instants import parse
from bems.tracker.parsing import parse_line

TODAY = parse("2027-01-01T00:00:00Z")


def make_log(seed: int, invoices: int) -> dict[str, bytes]:
    """Return valid lines by event id, in the order in which they are sent. Each id has one content."""
    profile = dataclasses.replace(EVERYDAY, malformed=0.0, conflicting=0.0, stuck=0.1, disputed=0.15, orphaned=0.05)
    lines: dict[str, bytes] = {}
    for line in generate(invoices, seed, days=40, profile=profile):
        lines.setdefault(parse_event(line).event_id, line)
    return lines


def parse_event(line: bytes) -> Event:
    event = parse_line(line, TODAY)
    assert isinstance(event, Event), event
    return event

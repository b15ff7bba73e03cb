"""Events: the generator's, four an invoice, as the bytes of a request's body. Every engine gets the same ones."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from bems.generator.event_log import CLEAN, generate
from bems.tracker.contract import STAGES

SEED = 20
OCCURRED_AT = re.compile(r'"occurred_at":"[^"]*"')


class Event(NamedTuple):
    """What is sent. `number` is how many events the body holds."""

    stage: str
    invoice_id: str
    event_id: str
    body: bytes
    number: int = 1


def lifecycles(invoices: int, *, prefix: str = "INV", seed: int = SEED) -> list[Event]:
    """The events of so many invoices in the order of their arrival: those of one lie far apart, with others between.

    They occur now, so that no deadline has passed; the generator tells a month of the past. `prefix` begins the
    invoices' and the events' ids, which are those of no other prefix.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    occurred = f'"occurred_at":"{now}"'
    events = []
    for line in generate(invoices, seed, profile=CLEAN):
        read = json.loads(line)
        event = read["event"]
        event["invoice_id"] = f"{prefix}/{event['invoice_id'].partition('/')[2]}"
        event["event_id"] = f"{prefix}-{event['event_id']}"
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        ids = event["invoice_id"], event["event_id"]
        events.append(Event(read["stage"], *ids, OCCURRED_AT.sub(occurred, text, count=1).encode()))
    return events


def ingestions(events: Iterable[Event]) -> Iterator[Event]:
    """Those that begin an invoice."""
    return (event for event in events if event.stage == STAGES[0])


def batches(events: Iterable[Event], size: int = 100) -> Iterator[Event]:
    """The same events, as the bodies of batches: each of one stage, in the order in which they come together."""
    waiting: dict[str, list[Event]] = {}
    for event in events:
        gathered = waiting.setdefault(event.stage, [])
        gathered.append(event)
        if len(gathered) == size:
            yield _batch(gathered)
            gathered.clear()
    for gathered in waiting.values():
        if gathered:
            yield _batch(gathered)


def _batch(events: list[Event]) -> Event:
    body = b'{"events":[' + b",".join(event.body for event in events) + b"]}"
    return Event(f"{events[0].stage}/batch", "", "", body, len(events))

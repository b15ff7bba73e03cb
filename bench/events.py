"""Events from the generator, four per invoice, as bytes of request bodies. Every engine gets the same events."""

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
    """A request body. `number` is the number of events in it."""

    stage: str
    invoice_id: str
    event_id: str
    body: bytes
    number: int = 1


def lifecycles(invoices: int, *, prefix: str = "INV", seed: int = SEED) -> list[Event]:
    """Return the events of a number of invoices in the order of arrival; events of different invoices are interleaved.

    They occur now, so that no deadline has passed, although the generator makes a month in the past. Invoice ids and
    event ids begin with `prefix`.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    occurred = f'"occurred_at":"{now}"'
    events = []
    for line in generate(invoices, seed, profile=CLEAN):
        parsed = json.loads(line)
        event = parsed["event"]
        event["invoice_id"] = f"{prefix}/{event['invoice_id'].partition('/')[2]}"
        event["event_id"] = f"{prefix}-{event['event_id']}"
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        ids = event["invoice_id"], event["event_id"]
        events.append(Event(parsed["stage"], *ids, OCCURRED_AT.sub(occurred, text, count=1).encode()))
    return events


def ingestions(events: Iterable[Event]) -> Iterator[Event]:
    """Return the events that begin an invoice."""
    return (event for event in events if event.stage == STAGES[0])


def batches(events: Iterable[Event], size: int = 100) -> Iterator[Event]:
    """Return the same events in batches of one stage each. A batch is yielded when it is full."""
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

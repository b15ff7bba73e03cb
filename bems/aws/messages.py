"""Messages that carry events from the producer over a bus, a topic and a queue to the processor.

The `detail` is JSON for any subscriber: `stage`; `event`, as in the contract, plus its `digest`; and `metadata` with
the cell, Region and account that received it and the time (`received_at`, RFC 3339). The processor validates it with
the same parser as the producer, because others may write to the bus too.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bems.tracker.contract import Event, Stage
from bems.tracker.instants import MINUTE, Instant, clamp, parse, render
from bems.tracker.parsing import InvalidEvent, parse_event

MAX_CLOCK_SKEW = 5 * MINUTE
"""Maximum difference between the clocks of AWS services and functions, in microseconds. A time stated further in the
future is false."""

# Keys under which an envelope holds the message, outermost envelope first: SNS without raw delivery, the custom bus
# (two spellings), EventBridge.
_ENVELOPE_KEYS = ("Message", "Data", "data", "detail")


class Origin(NamedTuple):
    """Where events are received: the cell's name, AWS Region and account."""

    cell: str
    region: str
    account: str


class Metadata(Struct, frozen=True):
    """Where and when an event was received."""

    cell: str
    region: str
    account: str
    received_at: str


class InvalidMessage(Exception):
    """A message that is not a valid event. Permanent."""


class TooEarly(Exception):
    """An event that the producer accepted by a clock ahead of this one. Valid at a later attempt."""


class _Detail(Struct, frozen=True):
    stage: Stage
    event: dict[str, Any]
    metadata: Metadata


def encode_detail(event: Event, origin: Origin) -> str:
    """Return the `detail` of an event: at most 40,000 bytes. All services on the path accept 256 KiB."""
    metadata = Metadata(*origin, render(event.received_at))
    detail = {"stage": event.stage, "event": {**event.to_body(), "digest": event.digest}, "metadata": metadata}
    return msgspec.json.encode(detail).decode()


def decode_message(body: str, now: Instant) -> Event:
    """Return the event in a queue's message. Raises InvalidMessage or TooEarly.

    Others may write to the bus, so the times in a message are not trusted: an event received after `now` counts as
    received now, and an event that occurred more than a day after it was received is invalid. A time in the past is
    accepted, because a message may wait in a queue or be replayed from an archive.
    """
    try:
        detail = msgspec.convert(_unwrap(body), _Detail)
        stated = parse(detail.metadata.received_at)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise InvalidMessage(f"not a message of a producer: {error}") from None
    content = dict(detail.event)
    digest = content.pop("digest", None)
    encoded, received_at = msgspec.json.encode(content), clamp(stated, now)
    event = parse_event(detail.stage, encoded, received_at)
    if isinstance(event, InvalidEvent):
        if now < stated <= now + MAX_CLOCK_SKEW and isinstance(parse_event(detail.stage, encoded, stated), Event):
            raise TooEarly(f"{event.summary}: {', '.join(event.reasons)}")
        raise InvalidMessage(f"{event.summary}: {', '.join(event.reasons)}")
    if event.digest != digest:
        raise InvalidMessage("the event is not the one that its digest was made of")
    return event


def _unwrap(body: str) -> Any:
    content: Any = msgspec.json.decode(body)
    for wrapping in _ENVELOPE_KEYS:
        if isinstance(content, dict) and "stage" not in content and wrapping in content:
            content = content[wrapping]
            if isinstance(content, str):
                content = msgspec.json.decode(content)
    return content

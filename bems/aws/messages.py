"""Messages: an event on its way from the producer over bus, topic and queue to the processor.

The `detail` is JSON for everybody who subscribes: `stage`; `event`, as the contract has it, and its `digest`;
`metadata` with the cell, Region and account that took it in, and when (`received_at`, RFC 3339). The processor reads
it through the gate that let it in, so what somebody else puts on the bus is held to the same contract.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bems.tracker.contract import Event, Stage
from bems.tracker.instants import MINUTE, Instant, clamp, parse, render
from bems.tracker.parsing import InvalidEvent, parse_event

MAX_CLOCK_SKEW = 5 * MINUTE
"""The clocks of AWS's services and functions differ by less. What a message states beyond this, nobody's clock said."""

# What a message may be wrapped in on its way, outermost first, with the name under which the wrapping holds it: SNS
# without raw delivery, a custom bus's envelope (under either of its names), EventBridge's envelope.
_ENVELOPE_KEYS = ("Message", "Data", "data", "detail")


class Origin(NamedTuple):
    """Where events come in: the cell's name, AWS Region and account."""

    cell: str
    region: str
    account: str


class Metadata(Struct, frozen=True):
    """Where an event came in, and when."""

    cell: str
    region: str
    account: str
    received_at: str


class InvalidMessage(Exception):
    """No event, and none will it become by trying again."""


class TooEarly(Exception):
    """An event that the gate took by a clock ahead of this one. A little later it can be read."""


class _Detail(Struct, frozen=True):
    stage: Stage
    event: dict[str, Any]
    metadata: Metadata


def encode_detail(event: Event, origin: Origin) -> str:
    """The `detail` of an event. At most some 40,000 bytes, within the 256 KiB that every service on the way takes."""
    metadata = Metadata(*origin, render(event.received_at))
    detail = {"stage": event.stage, "event": {**event.to_body(), "digest": event.digest}, "metadata": metadata}
    return msgspec.json.encode(detail).decode()


def decode_message(body: str, now: Instant) -> Event:
    """The event in a queue's message; Unreadable or TooEarly says why there is none.

    Others may write on the bus: no event was received after `now`, and none occurred later than a day after it was
    received, whatever the message says. One that waited long, or was replayed from an archive, is as old as it says.
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

"""Buses: where the producer publishes events, EventBridge's classic bus or its custom one.

Both answer 200 although they did not take every entry, so each entry's own answer counts. One that was not taken is
put again a few times; what is still not taken is for the sender to send again. An entry put twice is an event that
comes twice, and is known by its event_id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bems.aws.batching import put_with_retries
from bems.aws.messages import Origin, encode_detail
from bems.tracker.contract import Event
from bems.tracker.eventbridge_names import detail_type, source

MAX_CLASSIC_ENTRIES = 10
"""Entries of one PutEvents call to a classic bus (service model)."""

MAX_CUSTOM_ENTRIES = 100
"""Entries of one PutEvents call to a custom bus (service model)."""

MAX_CALL_BYTES = 250_000
"""Of the entries of one call together. The limit was 256 KiB, and 1 MiB since 2026; an event takes a fifth at most."""

Entry = dict[str, Any]


class Bus(Protocol):
    """Takes events."""

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """For each event, in order: None if it is on the bus, else the code of the error that kept it off."""
        ...


class ClassicBus:
    """A classic event bus, by name. Its rules know an event by `source` and `detail-type`."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """As of `Bus`."""
        entries = [{**_entry(event, origin), "EventBusName": self._name} for event in events]
        return _publish(entries, MAX_CLASSIC_ENTRIES, self._put)

    def _put(self, entries: list[Entry]) -> list[str | None]:
        answer = self._client.put_events(Entries=entries)
        return [result.get("ErrorCode") for result in answer["Entries"]]


class CustomBus:
    """A Custom Event Bus, by ARN. Events of one invoice stay in order, and one put twice within five minutes is one."""

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """As of `Bus`."""
        # The digest is made of the event_id too: a conflicting event has another one, and comes through.
        entries = [
            {
                **_entry(event, origin),
                "SystemMetadata": {"EventGroupId": event.invoice_id, "DeduplicationId": event.digest},
            }
            for event in events
        ]
        return _publish(entries, MAX_CUSTOM_ENTRIES, self._put)

    def _put(self, entries: list[Entry]) -> list[str | None]:
        answer = self._client.put_events(EventBusArn=self._arn, Entries=entries)
        # PUBLISHED and DEDUPLICATED are both on the bus; an answer with neither is not.
        return [None if "SuccessCode" in one else one.get("ErrorCode") or "Unknown" for one in answer["Entries"]]


def _publish(entries: list[Entry], most: int, call: Callable[[list[Entry]], list[str | None]]) -> list[str | None]:
    """Put entries in calls of at most `most` and CALL_BYTES; each one's error code, None where it was taken."""
    return [error for together in _split_into_calls(entries, most) for error in put_with_retries(together, call)]


def _entry(event: Event, origin: Origin) -> Entry:
    return {
        "Source": source(origin.cell),
        "DetailType": detail_type(event.stage),
        "Detail": encode_detail(event, origin),
    }


def _split_into_calls(entries: list[Entry], most: int) -> list[list[Entry]]:
    calls: list[list[Entry]] = []
    room = 0
    for entry in entries:
        # As AWS counts (user guide, "Calculating PutEvents event entry size"), and some for what it adds.
        size = 200 + sum(len(str(value).encode()) for value in entry.values())
        if not calls or size > room or len(calls[-1]) >= most:
            calls.append([])
            room = MAX_CALL_BYTES
        calls[-1].append(entry)
        room -= size
    return calls

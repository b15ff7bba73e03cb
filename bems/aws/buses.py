"""Event buses that the producer publishes to: EventBridge's classic event bus or its Custom Event Bus.

PutEvents returns 200 even if it did not accept every entry, so the result of each entry is checked. An entry that was
not accepted is retried a few times; after that the sender must send the event again. An entry that was put twice is
recognized by its event_id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bems.aws.batching import put_with_retries
from bems.aws.messages import Origin, encode_detail
from bems.tracker.contract import Event
from bems.tracker.eventbridge_names import detail_type, source

MAX_CLASSIC_ENTRIES = 10
"""Maximum number of entries in a PutEvents call to a classic bus (service model)."""

MAX_CUSTOM_ENTRIES = 100
"""Maximum number of entries in a PutEvents call to a custom bus (service model)."""

MAX_CALL_BYTES = 250_000
"""Maximum total size of the entries in a call, in bytes. AWS's limit was 256 KiB, and is 1 MiB since 2026. The largest
event takes a fifth of this."""

Entry = dict[str, Any]


class Bus(Protocol):
    """An event bus."""

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """Publish events. Returns for each, in order, None if the bus accepted it, else an error code."""
        ...


class ClassicBus:
    """A classic event bus, given by name. Its rules match `source` and `detail-type`."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """See `Bus`."""
        entries = [{**_entry(event, origin), "EventBusName": self._name} for event in events]
        return _publish(entries, MAX_CLASSIC_ENTRIES, self._put)

    def _put(self, entries: list[Entry]) -> list[str | None]:
        answer = self._client.put_events(Entries=entries)
        return [result.get("ErrorCode") for result in answer["Entries"]]


class CustomBus:
    """A Custom Event Bus, given by ARN.

    It keeps the order of each invoice's events, and drops repeats within five minutes.
    """

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    def publish(self, events: Sequence[Event], origin: Origin) -> list[str | None]:
        """See `Bus`."""
        # The digest covers event_id and content, so the bus drops neither a conflicting event nor another event with
        # equal content.
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
        # The SuccessCodes PUBLISHED and DEDUPLICATED both mean that the event is on the bus.
        return [
            None if "SuccessCode" in result else result.get("ErrorCode") or "Unknown" for result in answer["Entries"]
        ]


def _publish(
    entries: list[Entry], max_entries: int, call: Callable[[list[Entry]], list[str | None]]
) -> list[str | None]:
    """Put entries in calls of at most `max_entries` and MAX_CALL_BYTES. Returns each entry's error code or None."""
    return [error for part in _split_into_calls(entries, max_entries) for error in put_with_retries(part, call)]


def _entry(event: Event, origin: Origin) -> Entry:
    return {
        "Source": source(origin.cell),
        "DetailType": detail_type(event.stage),
        "Detail": encode_detail(event, origin),
    }


def _split_into_calls(entries: list[Entry], max_entries: int) -> list[list[Entry]]:
    calls: list[list[Entry]] = []
    free_bytes = 0
    for entry in entries:
        # The size as AWS counts it (user guide, "Calculating PutEvents event entry size"), plus 200 for what AWS adds.
        size = 200 + sum(len(str(value).encode()) for value in entry.values())
        if not calls or size > free_bytes or len(calls[-1]) >= max_entries:
            calls.append([])
            free_bytes = MAX_CALL_BYTES
        calls[-1].append(entry)
        free_bytes -= size
    return calls

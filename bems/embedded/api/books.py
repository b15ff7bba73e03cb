"""The books: whether every accepted event is accounted for, and the series is the same in both places."""

import duckdb
from msgspec import Struct

from bems.embedded.analytics import Analytics
from bems.embedded.api.parts import Parts
from bems.embedded.time_series import NotOpen


class Books(Struct, frozen=True):
    """The cell's events and rows, counted where they are.

    `accepted`      events in the archive.
    `dead_letters`  those of them that have not been applied: their handling failed; `set_aside` will stay so until they
                    are redriven.
    `transitions`   rows of the series in the store; `analytics` those in DuckDB, which is at most two seconds behind.
    `applied`       rows of events in DuckDB: each accepted event has one, unless it is a dead letter.
    `balanced`      accepted = applied + dead_letters, and transitions = analytics; null where that is not so, but they
                    were not seen at one moment: DuckDB is behind or not open, or more came in meanwhile.
    """

    accepted: int
    applied: int
    dead_letters: int
    set_aside: int
    transitions: int
    analytics: int
    alerts: int
    alert_rows: int
    balanced: bool | None


async def balance(parts: Parts, key: str) -> Books:
    """The books as they are now. `key` is the id of the key that asks."""
    counts = await parts.readers.ask(lambda reader: reader.counts(), key)
    fed = parts.analytics.watermark
    kinds = await parts.readers.run(lambda: _kinds(parts.analytics), key)
    # DuckDB had all of a store that did not change while it was asked: only then is what differs a difference.
    still = fed == counts.transitions and await parts.readers.ask(lambda reader: reader.counts(), key) == counts
    rows = sum(kinds.values()) if kinds else 0
    applied, alert_rows = (kinds.get("event", 0), kinds.get("alert", 0)) if kinds else (0, 0)
    even = counts.events == applied + counts.letters and counts.transitions == rows and counts.alerts == alert_rows
    return Books(
        counts.events,
        applied,
        counts.letters,
        counts.set_aside,
        counts.transitions,
        rows,
        counts.alerts,
        alert_rows,
        True if even else False if still and kinds is not None else None,
    )


def _kinds(analytics: Analytics) -> dict[str, int] | None:
    """How many rows of each kind DuckDB has; None where it cannot tell now."""
    try:
        return analytics.kinds()
    except (NotOpen, duckdb.Error):
        return None

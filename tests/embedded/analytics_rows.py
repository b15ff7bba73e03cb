"""Source of transitions for analytics, and direct reads of the analytics database."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import duckdb

from bems.embedded.analytics.feeder import ANALYTICS, AnalyticsFeeder
from bems.tracker.contract import STAGES
from bems.tracker.transitions import Transition, TransitionKind
from tests.tracker.samples import NOW
from tests.waiting import until

NEVER = 3600.0
"""Seconds between feeds, so long that only `wake` and `stop` cause one."""

KINDS: tuple[TransitionKind, ...] = get_args(TransitionKind)


class Rows:
    """Transition source backed by a list. It is its own factory."""

    def __init__(self, count: int = 0) -> None:
        self.rows: list[Transition] = []
        self.errors: list[Exception] = []
        self.tries: list[float] = []
        self.opened = self.closed = 0
        self.grow(count)

    def grow(self, count: int) -> None:
        first = len(self.rows) + 1
        self.rows += [transition(number) for number in range(first, first + count)]

    def __call__(self) -> "Rows":
        self.tries.append(time.monotonic())
        if self.errors:
            raise self.errors.pop()
        self.opened += 1
        return self

    def transitions(self, after: int = 0, limit: int = 1_000) -> list[tuple[int, Transition]]:
        return list(enumerate(self.rows[after : after + limit], after + 1))

    def close(self) -> None:
        self.closed += 1


def transition(number: int) -> Transition:
    return Transition(
        transition_id=f"t{number}",
        invoice_id=f"INV-{number % 7}",
        kind=KINDS[number % len(KINDS)],
        stage=STAGES[number % len(STAGES)],
        recorded_at=NOW + number,
        from_status=None,
        to_status="AwaitingAuthorization",
        amount=Decimal(number).scaleb(-2),
        currency="EUR",
        vendor_id="V-42",
        event_id=f"e{number * 7919 % 104729}-{number}",
        to_amount=Decimal(number).scaleb(-2),
        to_currency="EUR",
    )


@contextmanager
def running(folder: Path, rows: Callable[[], Any], **options: Any) -> Iterator[AnalyticsFeeder]:
    """Run analytics inside the block. By default, it feeds only after `wake` and when it stops."""
    analytics = AnalyticsFeeder(folder, "north", rows, **{"feed_seconds": NEVER, **options}).start()
    try:
        yield analytics
    finally:
        analytics.stop()


def feed(analytics: AnalyticsFeeder, rows: Rows) -> None:
    """Wake the feeder, and wait until it has copied all rows."""
    analytics.wake()
    until(lambda: analytics.watermark == len(rows.rows))


def feed_once(folder: Path, rows: Rows, **options: Any) -> None:
    """Start and stop a feeder."""
    with running(folder, rows, **options):
        pass


def query_database(folder: Path, *queries: str) -> list[list[Any]]:
    """Return the result of each query of a folder's analytics database. No feeder may run."""
    with duckdb.connect(str(folder / ANALYTICS), read_only=True) as connection:
        return [connection.execute(sql).fetchall() for sql in queries]


def has_each_row_once(folder: Path, rows: Rows) -> bool:
    """Return whether the database has each row once, in order, and the right watermark."""
    stored, watermark = query_database(
        folder, "SELECT seq, transition_id FROM transitions", "SELECT watermark FROM feed"
    )
    expected = [(seq, row.transition_id) for seq, row in rows.transitions(0, len(rows.rows))]
    return stored == expected and watermark == [(len(expected),)]


def list_set_aside_files(folder: Path) -> set[str]:
    """Return the names of the files that a feeder has set aside as damaged."""
    return {path.name for path in folder.glob(f"{ANALYTICS}.*")}

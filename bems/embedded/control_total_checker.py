"""Control total checker: a thread that compares the control totals that are due with the time series.

It reads due control totals from the store, counts their events in DuckDB, and submits the counts to the writer, which
stores them and raises the alerts. So a control total and its alert survive a restart, and are written together.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.analytics.source_events import count_events
from bems.embedded.writer import EventCount, Writer
from bems.tracker.control_totals import ControlTotal, ControlTotalState
from bems.tracker.instants import Instant
from bems.tracker.ports import Clock

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Interval of polling for due control totals. The cell's clock may jump, so the next due instant is not slept for."""

RESULT_TIMEOUT_SECONDS = 30.0
"""Maximum time to wait for the writer. A count that was not stored is repeated, because its control total stays due."""

MAX_CHECKS_PER_POLL = 100


class ControlTotalSource(Protocol):
    """Source of control totals: a store, or a reader of one."""

    def control_totals_due(self, now: Instant, limit: int = 100) -> list[ControlTotalState]: ...

    def newest_transition(self) -> int: ...

    def close(self) -> None: ...


class ControlTotalChecker:
    """Compares due control totals, from `start` to `stop`. Its failures never stop the cell.

    `source` opens the source of control totals; the thread calls it at the start and after each failure.
    """

    def __init__(
        self,
        source: Callable[[], ControlTotalSource],
        analytics: AnalyticsFeeder,
        writer: Writer,
        clock: Clock,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._open_source = source
        self._source: ControlTotalSource | None = None
        self._analytics, self._writer, self._clock = analytics, writer, clock
        self._poll_seconds = poll_seconds
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bems-control-totals", daemon=True)

    def start(self) -> None:
        """Start the thread; call it once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the comparison that is running. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.check_due()
                self._failure = None
            except Exception as error:
                # Log it once: while DuckDB is rebuilt, every poll fails with the same error.
                if self._failure != str(error):
                    log.error("control totals could not be compared: %s: %s", type(error).__name__, error)
                self._failure = str(error)
                self._close_source()
        self._close_source()

    def check_due(self) -> None:
        """Compare the control totals that are due, if DuckDB has every row of the store; otherwise leave them due."""
        source = self._source = self._source or self._open_source()
        due = source.control_totals_due(self._clock.now(), MAX_CHECKS_PER_POLL)
        if due and self._analytics.watermark < source.newest_transition():
            self._analytics.wake()
            return
        for state in due:
            if self._stopping.is_set():
                return
            self._check(state.total)

    def _check(self, total: ControlTotal) -> None:
        stored = threading.Event()
        self._writer.submit(EventCount(total, count_events(self._analytics, total)), lambda _: stored.set())
        stored.wait(RESULT_TIMEOUT_SECONDS)

    def _close_source(self) -> None:
        source, self._source = self._source, None
        if source:
            with suppress(Exception):
                source.close()

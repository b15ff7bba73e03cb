"""Service: a complete cell on one machine, from its folder to its HTTP port."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bems.clock import SystemClock
from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.alerting.delivery import Destination
from bems.embedded.alerting.outbox import inspect_outbox
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.api.app import ApiApplication
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.server import Server
from bems.embedded.auth.keys import Keys, inspect_keys
from bems.embedded.clock import AcceleratedClock, CellClock
from bems.embedded.control_total_checker import ControlTotalChecker
from bems.embedded.definition import load_machine
from bems.embedded.storage.policy_history import PROGRAM_SOURCE, PolicyInForce, PolicyOrDefault
from bems.embedded.storage.reader import open_reader
from bems.embedded.storage.reader_pool import ReaderPool
from bems.embedded.writer import open_writer
from bems.tracker.actions import Severity
from bems.tracker.cells import Limits
from bems.tracker.instants import MINUTE, Instant, render

log = logging.getLogger(__name__)

NO_DESTINATIONS: Mapping[Severity, Sequence[Destination]] = {"warning": (), "critical": ()}
"""No destinations: alerts are visible in the API and sent nowhere."""


def _inspect_side_databases(folder: Path) -> None:
    """Raise StoreUnusable if a database beside `cell.db` cannot be used. `cell.db` is still unchanged then."""
    inspect_outbox(folder)
    inspect_keys(folder)


class Service:
    """Cell that runs between `start` and `stop`. The constructor locks the folder.

    `policy` is a policy, or a function that makes the default one. With a function, the cell continues with the policy
    stored in the folder; the function is called only if there is none. `policy_source` names where a given policy was
    found.

    An accelerated clock continues from the latest instant recorded in the folder. The constructor raises StoreUnusable
    if the folder cannot be used, StoreFailed if it cannot be read, and CannotListen if the address cannot be bound.
    """

    def __init__(
        self,
        folder: Path,
        policy: PolicyOrDefault,
        *,
        policy_source: str = PROGRAM_SOURCE,
        name: str = "local",
        host: str = "127.0.0.1",
        port: int = 8080,
        limits: Limits | None = None,
        destinations: Mapping[Severity, Sequence[Destination]] | None = None,
        clock: CellClock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        with ExitStack() as parts:
            self.writer = open_writer(
                folder, policy, self.clock, policy_source=policy_source, inspect=_inspect_side_databases
            )
            parts.callback(self.writer.stop)
            self._start_clock(self.writer.latest())
            self.keys = Keys(folder)
            parts.callback(self.keys.close)
            self.readers = ReaderPool(folder)
            parts.callback(self.readers.close)
            self.analytics = AnalyticsFeeder(folder, name, lambda: open_reader(folder))
            parts.callback(self.analytics.stop)
            self.control_totals = ControlTotalChecker(
                lambda: open_reader(folder), self.analytics, self.writer, self.clock
            )
            self.deliveries = Deliveries(folder, lambda: open_reader(folder), destinations or NO_DESTINATIONS)
            parts.callback(self.deliveries.stop)
            self.server = Server(lambda: ApiApplication(self._make_context(name, limits or Limits())), host, port)
            self._stop_parts = parts.pop_all().close

    def _start_clock(self, latest: Instant) -> None:
        if isinstance(self.clock, AcceleratedClock):
            self.clock.advance_to(latest)
        elif latest > self.clock.now() + MINUTE:
            log.warning(
                "the newest entry is of %s, ahead of the clock: did a cell with an accelerated clock run here?",
                render(latest),
            )

    def _make_context(self, name: str, limits: Limits) -> CellContext:
        machine, keys = load_machine(), self.keys
        return CellContext(
            name, self.clock, self.writer, self.readers, machine, keys, self.analytics, self.deliveries, limits
        )

    @property
    def in_force(self) -> PolicyInForce:
        """The policy in force. Its `since` is None until the service has started."""
        return self.writer.in_force

    def start(self) -> "Service":
        """Start to serve requests. Items that came due while the cell was stopped are handled first.

        Raises StoreUnusable if the folder's deliveries belong to another cell, and StoreFailed if the policy cannot be
        stored. The service has stopped then.
        """
        try:
            # Before the writer raises any alert: the outbox checks the last alert that it saw against the store as it
            # was left.
            self.deliveries.start()
            self.writer.start()
            self.analytics.start()
            self.control_totals.start()
            self.server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop in order, then release the folder. Idempotent.

        The server and the comparison of control totals stop first. Then accepted items are stored, deliveries in flight
        get their grace period, and stored rows are fed to analytics. Alerts that are not sent yet wait for the next
        start.
        """
        self.server.stop()
        self.control_totals.stop()
        self.writer.finish()
        self._stop_parts()

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

"""The service: a complete cell on one machine, from its folder to its port."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.alerting.delivery import Destination
from bems.embedded.alerting.outbox import inspect_outbox
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.api.app import Api
from bems.embedded.api.cell_context import CellContext
from bems.embedded.api.server import Server
from bems.embedded.auth.keys import Keys, inspect_keys
from bems.embedded.clock import AcceleratedClock, CellClock, SystemClock
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
"""No destinations: alerts can be seen, and are not sent."""


def _inspect_side_databases(folder: Path) -> None:
    """StoreRefused for what is wrong with the databases beside `cell.db`, before that is changed."""
    inspect_outbox(folder)
    inspect_keys(folder)


class Service:
    """A cell that runs, between `start` and `stop`. It holds its folder from when it is made.

    Where a start names no policy it goes on with the one that the folder keeps; `policy` then makes the default one,
    for a folder that has none. `policy_source` says where a policy that is named was found.

    An accelerated clock goes on from the latest instant that the folder knows. StoreRefused: its folder cannot be used.
    StoreFailed: it cannot be read. CannotListen: its address cannot be listened on.
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
            self.deliveries = Deliveries(folder, lambda: open_reader(folder), destinations or NO_DESTINATIONS)
            parts.callback(self.deliveries.stop)
            self.server = Server(lambda: Api(self._parts(name, limits or Limits())), host, port)
            self._stop_parts = parts.pop_all().close

    def _start_clock(self, latest: Instant) -> None:
        if isinstance(self.clock, AcceleratedClock):
            self.clock.advance_to(latest)
        elif latest > self.clock.now() + MINUTE:
            told = "the newest entry is of %s, ahead of the clock: was time made to run faster here?"
            log.warning(told, render(latest))

    def _parts(self, name: str, limits: Limits) -> CellContext:
        machine, keys = load_machine(), self.keys
        return CellContext(
            name, self.clock, self.writer, self.readers, machine, keys, self.analytics, self.deliveries, limits
        )

    @property
    def in_force(self) -> PolicyInForce:
        """The policy that the cell goes by; since when is known from its start on."""
        return self.writer.in_force

    def start(self) -> "Service":
        """Begin: what came due meanwhile is done, and requests are answered. StoreRefused where the deliveries of the
        folder are of another cell, StoreFailed where the policy cannot be stored; then it has stopped."""
        try:
            # Before the writer raises anything: what the outbox has seen last is looked up in the store as it was.
            self.deliveries.start()
            self.writer.start()
            self.analytics.start()
            self.server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End in order: no more requests, what was taken is stored, what is being sent has its grace, what is stored is
        fed; and then the folder is given up. Alerts that were not sent yet wait for the next start. Twice is
        harmless."""
        self.server.stop()
        self.writer.finish()
        self._stop_parts()

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

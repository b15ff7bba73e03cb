"""The service: a complete cell on one machine, from its folder to its port."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.alerting.delivery import Destination
from bems.embedded.analytics import Analytics
from bems.embedded.api.app import Api
from bems.embedded.api.parts import Parts
from bems.embedded.api.server import Server
from bems.embedded.clock import AcceleratedClock, RunningClock, SystemClock
from bems.embedded.definition import load_machine
from bems.embedded.keys import Keys
from bems.embedded.reader import open_reader
from bems.embedded.readers import Readers
from bems.embedded.writer import open_writer
from bems.tracker.actions import Severity
from bems.tracker.cells import Limits
from bems.tracker.policy import Policy

NOBODY: Mapping[Severity, Sequence[Destination]] = {"warning": (), "critical": ()}
"""No destinations: alerts can be seen, and are not sent."""


class Service:
    """A cell that runs, between `start` and `stop`. It holds its folder from when it is made.

    An accelerated clock goes on from the latest instant that the folder knows. StoreRefused: its folder cannot be used.
    CannotListen: its address cannot.
    """

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        *,
        name: str = "local",
        host: str = "127.0.0.1",
        port: int = 8080,
        limits: Limits | None = None,
        destinations: Mapping[Severity, Sequence[Destination]] | None = None,
        clock: RunningClock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.writer = open_writer(folder, policy, self.clock)
        try:
            if isinstance(self.clock, AcceleratedClock):
                self.clock.go_on_from(self.writer.latest())
            self.keys = Keys(folder)
            self.readers = Readers(folder)
            self.analytics = Analytics(folder, name, lambda: open_reader(folder))
            self.deliveries = Deliveries(
                folder, lambda: open_reader(folder), destinations or {"warning": (), "critical": ()}
            )
            parts = Parts(
                name,
                self.clock,
                self.writer,
                self.readers,
                load_machine(),
                self.keys,
                self.analytics,
                self.deliveries,
                limits or Limits(),
            )
            self.server = Server(lambda: Api(parts), host, port)
        except BaseException:
            self.writer.stop()
            raise

    def start(self) -> "Service":
        """Begin: what came due meanwhile is done, and requests are answered. StoreRefused where the deliveries of the
        folder are of another cell; then it has stopped."""
        try:
            self.writer.start()
            self.analytics.start()
            self.deliveries.start()
            self.server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End in order: no more requests, what was taken is stored, what was stored is fed and delivered; and then the
        folder is given up. Twice is harmless."""
        self.server.stop()
        self.writer.finish()
        self.analytics.stop()
        self.deliveries.stop()
        self.readers.close()
        self.keys.close()
        self.writer.stop()

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

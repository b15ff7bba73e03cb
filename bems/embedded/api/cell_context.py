"""The components of a running cell that the API uses."""

from dataclasses import dataclass

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.analytics.feeder import AnalyticsFeeder
from bems.embedded.auth.keys import Keys
from bems.embedded.storage.reader_pool import ReaderPool
from bems.embedded.writer import Writer
from bems.engine import Machine
from bems.tracker.cells import Limits
from bems.tracker.ports import Clock


@dataclass(frozen=True)
class CellContext:
    """The components of a running cell."""

    name: str
    clock: Clock
    writer: Writer
    readers: ReaderPool
    machine: Machine
    keys: Keys
    analytics: AnalyticsFeeder
    deliveries: Deliveries
    limits: Limits

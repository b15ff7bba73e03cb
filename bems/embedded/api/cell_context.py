"""The parts of a running cell, as the API uses them."""

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
    """What a cell is made of when it runs."""

    name: str
    clock: Clock
    writer: Writer
    readers: ReaderPool
    machine: Machine
    keys: Keys
    analytics: AnalyticsFeeder
    deliveries: Deliveries
    limits: Limits

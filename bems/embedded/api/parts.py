"""The parts of a running cell, as the API uses them."""

from dataclasses import dataclass

from bems.embedded.alerting.deliveries import Deliveries
from bems.embedded.analytics import Analytics
from bems.embedded.keys import Keys
from bems.embedded.readers import Readers
from bems.embedded.writer import Writer
from bems.engine import Machine
from bems.tracker.cells import Limits
from bems.tracker.ports import Clock


@dataclass(frozen=True)
class Parts:
    """What a cell is made of when it runs."""

    name: str
    clock: Clock
    writer: Writer
    readers: Readers
    machine: Machine
    keys: Keys
    analytics: Analytics
    deliveries: Deliveries
    limits: Limits

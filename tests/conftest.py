"""What holds for every test."""

from bems.tracker.cells import CellsFile
from bems.tracker.contract import BODIES
from bems.tracker.faults import find_faults
from bems.tracker.gate import Batch, Line
from bems.tracker.policy import PolicySpec

# A type is looked at once. Under freezegun `datetime.date` is another class, and msgspec would not know a date for one.
for known in (CellsFile, PolicySpec, Batch, Line, *BODIES.values()):
    find_faults({}, known)

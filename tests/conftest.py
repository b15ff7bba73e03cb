"""What holds for every test."""

import os

from bems.tracker.cells import CellsFile
from bems.tracker.contract import BODIES
from bems.tracker.faults import find_faults
from bems.tracker.gate import Batch, Line
from bems.tracker.policy import PolicySpec

# Nothing of the shell's own cloud counts: a profile that is nowhere fails already where handlers are imported.
for name in [*os.environ]:
    if name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or name.startswith("AWS_ENDPOINT_URL"):
        del os.environ[name]
os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

# A type is looked at once. Under freezegun `datetime.date` is another class, and msgspec would not know a date for one.
for known in (CellsFile, PolicySpec, Batch, Line, *BODIES.values()):
    find_faults({}, known)

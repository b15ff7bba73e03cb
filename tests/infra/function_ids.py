"""Construct ids of a cell's functions, as tests expect them."""

from bems.tracker.contract import STAGES

FUNCTIONS = (
    "Producer",
    *(f"Invoice{stage.capitalize()}Processor" for stage in STAGES),
    "RegisterWait",
    "Escalate",
    "Sweeper",
    "Recorder",
)

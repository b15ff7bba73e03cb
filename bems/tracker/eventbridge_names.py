"""EventBridge names: the values of `source`, `detail-type` and `status` that a cell publishes and its rules match."""

from bems.tracker.contract import Stage

FAILED_EXECUTION_STATUSES = ("FAILED", "TIMED_OUT", "ABORTED")
"""Statuses of an execution that ended without reaching an end state (API reference of DescribeExecution)."""


def source(cell: str) -> str:
    """Return the `source` of every event of a cell, such as `bems.eu-west`."""
    return f"bems.{cell}"


def detail_type(stage: Stage) -> str:
    """Return the `detail-type` of a stage's events, such as `InvoicePosting`."""
    return f"Invoice{stage.capitalize()}"

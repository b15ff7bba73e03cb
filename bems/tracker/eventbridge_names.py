"""Labels: words on AWS's buses by which one part of a cell publishes or listens, and another routes."""

from bems.tracker.contract import Stage

FAILED_EXECUTION_STATUSES = ("FAILED", "TIMED_OUT", "ABORTED")
"""The statuses of an execution that did not come to an end of its definition (API reference of DescribeExecution)."""


def source(cell: str) -> str:
    """The `source` of every event of a cell, such as `bems.eu-west`."""
    return f"bems.{cell}"


def detail_type(stage: Stage) -> str:
    """The `detail-type` of a stage's events, such as `InvoicePosting`."""
    return f"Invoice{stage.capitalize()}"

"""Tests that the EventBridge names stay stable: other teams' queues and the cell's rules match them."""

from bems.tracker.contract import STAGES
from bems.tracker.eventbridge_names import FAILED_EXECUTION_STATUSES, detail_type, source


def test_source_and_detail_type_name_the_cell_and_the_stage() -> None:
    assert source("eu-west") == "bems.eu-west"
    assert [detail_type(stage) for stage in STAGES] == [
        "InvoiceIngestion",
        "InvoiceAuthorization",
        "InvoiceReconciliation",
        "InvoicePosting",
    ]


def test_failed_statuses_exclude_success() -> None:
    assert set(FAILED_EXECUTION_STATUSES) == {"FAILED", "TIMED_OUT", "ABORTED"}

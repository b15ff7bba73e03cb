"""Labels: the words that queues of other teams filter by, and rules of AWS's match, do not change."""

from bems.tracker.contract import STAGES
from bems.tracker.eventbridge_names import FAILED_EXECUTION_STATUSES, detail_type, source


def test_an_event_is_known_by_its_cell_and_stage() -> None:
    assert source("eu-west") == "bems.eu-west"
    assert [detail_type(stage) for stage in STAGES] == [
        "InvoiceIngestion",
        "InvoiceAuthorization",
        "InvoiceReconciliation",
        "InvoicePosting",
    ]


def test_an_execution_that_ended_by_itself_has_not_succeeded() -> None:
    assert set(FAILED_EXECUTION_STATUSES) == {"FAILED", "TIMED_OUT", "ABORTED"}

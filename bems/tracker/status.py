"""Status of an invoice, as a pure function of the newest outcome of each stage.

The status depends on these four registers only, so the order, repetition and delay of events do not matter: an early
event fills a register before the invoice waits for it.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from bems.tracker.contract import FAILURE_STATUS, Stage
from bems.tracker.instants import Instant

Status = Literal[
    "Orphan",
    "Cancelled",
    "AwaitingAuthorization",
    "Rejected",
    "AwaitingReconciliation",
    "Disputed",
    "AwaitingPosting",
    "PostingFailed",
    "Posted",
]

WAITS_FOR: dict[Status, Stage | None] = {
    "Orphan": "ingestion",
    "Cancelled": None,
    "AwaitingAuthorization": "authorization",
    "Rejected": None,
    "AwaitingReconciliation": "reconciliation",
    "Disputed": "reconciliation",
    "AwaitingPosting": "posting",
    "PostingFailed": "posting",
    "Posted": None,
}
"""Stage whose event an invoice of each status waits for; None if it waits for nothing."""


class Outcome(Struct, frozen=True):
    """Outcome that a stage's newest event states: the content of one register."""

    status: str
    event_id: str
    occurred_at: Instant
    received_at: Instant


Outcomes = Mapping[Stage, Outcome]


def supersedes(stage: Stage, outcome: Outcome, current: Outcome | None) -> bool:
    """Return whether `outcome` replaces the stage's current outcome.

    The later `occurred_at` wins; at equal times the negative outcome wins, then the greater event_id. This is a total
    order, so the final outcome does not depend on the order of arrival.
    """
    if current is None:
        return True
    if outcome.occurred_at != current.occurred_at:
        return outcome.occurred_at > current.occurred_at
    negative = FAILURE_STATUS[stage]
    return (outcome.status == negative, outcome.event_id) > (current.status == negative, current.event_id)


def status_of(outcomes: Outcomes) -> Status:
    """Return the status, derived from the outcomes stage by stage."""
    ingestion = outcomes.get("ingestion")
    if ingestion is None:
        return "Orphan"
    if ingestion.status == "cancelled":
        return "Cancelled"
    authorization = outcomes.get("authorization")
    if authorization is None:
        return "AwaitingAuthorization"
    if authorization.status == "rejected":
        return "Rejected"
    reconciliation = outcomes.get("reconciliation")
    if reconciliation is None:
        return "AwaitingReconciliation"
    if reconciliation.status == "mismatched":
        return "Disputed"
    posting = outcomes.get("posting")
    if posting is None:
        return "AwaitingPosting"
    return "PostingFailed" if posting.status == "failed" else "Posted"

"""The projection: an invoice's status as a pure function of the newest outcome of each stage.

Nothing but these four registers decides, so the order, repetition and delay of events cannot matter: an early event
fills a register that nobody waits for yet.
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
"""The stage whose event an invoice of each status waits for; None where it waits for nothing."""


class Outcome(Struct, frozen=True):
    """What a stage's newest event said: the content of one register."""

    status: str
    event_id: str
    occurred_at: Instant
    received_at: Instant


Outcomes = Mapping[Stage, Outcome]


def supersedes(stage: Stage, outcome: Outcome, register: Outcome | None) -> bool:
    """Whether `outcome` replaces what the stage's register holds.

    The later `occurred_at` wins; at equal times the negative outcome, then the greater event_id. This is a total order,
    so a register ends the same whatever the order of arrival.
    """
    if register is None:
        return True
    if outcome.occurred_at != register.occurred_at:
        return outcome.occurred_at > register.occurred_at
    negative = FAILURE_STATUS[stage]
    return (outcome.status == negative, outcome.event_id) > (register.status == negative, register.event_id)


def status_of(outcomes: Outcomes) -> Status:
    """The status that the registers give, read from the first stage on."""
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

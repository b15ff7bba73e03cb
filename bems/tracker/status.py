"""Status of an invoice, as a pure function of the newest outcome of each stage.

The status depends on these four registers, and on whether the policy requires a match, so the order, repetition and
delay of events do not matter: an early event fills a register before the invoice waits for it.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from bems.tracker.contract import FAILURE_STATUS, STAGES, Actor, Reason, Stage
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


class Outcome(Struct, frozen=True, omit_defaults=True):
    """Outcome that a stage's newest event states: the content of one register."""

    status: str
    event_id: str
    occurred_at: Instant
    received_at: Instant
    actor: Actor | None = None
    reason: Reason | None = None


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


def status_of(outcomes: Outcomes, match_required: bool = True) -> Status:
    """Return the status, derived from the outcomes stage by stage.

    Unless `match_required`, an invoice without an outcome of the reconciliation is treated as `not_applicable`.
    """
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
        if match_required:
            return "AwaitingReconciliation"
    elif reconciliation.status == "mismatched":
        return "Disputed"
    posting = outcomes.get("posting")
    if posting is None:
        return "AwaitingPosting"
    return "PostingFailed" if posting.status == "failed" else "Posted"


def open_stages(outcomes: Outcomes, match_required: bool = True) -> tuple[Stage, ...]:
    """Return the stages without a positive outcome, whichever of them the invoice waits for."""
    return tuple(
        stage
        for stage in STAGES
        if (
            outcomes[stage].status == FAILURE_STATUS[stage]
            if stage in outcomes
            else match_required or stage != "reconciliation"
        )
    )


def negative_outcomes(outcomes: Outcomes) -> dict[Stage, str]:
    """Return the negative outcomes by stage."""
    return {
        stage: outcomes[stage].status
        for stage in STAGES
        if stage in outcomes and outcomes[stage].status == FAILURE_STATUS[stage]
    }

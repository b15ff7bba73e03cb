"""A second opinion on a replay: statuses and alerts per invoice, computed from its events alone.

No engine, no executions, no records: a walk over one invoice's events in the order of the clock, written from the rules
of docs/architecture.md. What it and the cell agree on, neither got by accident.
"""

from collections.abc import Iterable

from msgspec import structs

from bems.tracker.contract import STAGES, Event, PaymentTerms, Stage
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy
from bems.tracker.status import WAITS_FOR, Outcome, status_of, supersedes

AlertSeen = tuple[Stage, str, str, Instant]
"""Stage, severity, kind, due instant."""


LATER: tuple[tuple[Stage, str, str], ...] = (
    ("reconciliation", "mismatched", "dispute"),
    ("posting", "failed", "failed"),
)


class Walk:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.outcomes: dict[Stage, Outcome] = {}
        self.alerts: list[AlertSeen] = []
        self.reported: set[str] = set()
        self.stage: Stage | None = None
        self.parked = False

    def event(self, event: Event, now: Instant) -> None:
        self.pass_time(now - 1)
        of = (event.occurred_at, event.event_id)
        if not self.outcomes and self.stage is None:
            self.facts, self.facts_of = event.facts, of
            self.terms: tuple[tuple[Instant, str], PaymentTerms | None] = ((-1, ""), None)
        if event.facts.payment_terms and of > self.terms[0]:
            self.terms = (of, event.facts.payment_terms)
        if of >= self.facts_of:
            self.facts, self.facts_of = event.facts, of
        outcome = Outcome(event.status, event.event_id, event.occurred_at, now)
        if supersedes(event.stage, outcome, self.outcomes.get(event.stage)):
            self.outcomes[event.stage] = outcome
            if self.parked:
                self.parked, self.stage = False, None
        self.settle(now)

    def settle(self, now: Instant) -> None:
        status = status_of(self.outcomes)
        waits_for = WAITS_FOR[status]
        if waits_for is None or self.parked:
            self.stage = None if waits_for is None else self.stage
            return
        if waits_for != self.stage:
            self.begin(waits_for, now)
        for stage, bad, kind in LATER:
            later = self.outcomes.get(stage)
            is_later = STAGES.index(stage) > STAGES.index(waits_for)
            if is_later and later and later.status == bad and later.event_id not in self.reported:
                self.alerts.append((stage, "warning", kind, now))
                self.reported.add(later.event_id)
        outcome = self.outcomes.get(waits_for)
        if outcome and outcome.event_id not in self.reported:
            kind = "dispute" if waits_for == "reconciliation" else "failed"
            self.alerts.append((waits_for, "warning", kind, now))
            self.reported.add(outcome.event_id)
            self.begin(waits_for, now)

    def begin(self, stage: Stage, now: Instant) -> None:
        ingestion = self.outcomes.get("ingestion")
        facts = structs.replace(self.facts, payment_terms=self.terms[1])
        self.stage, self.step = stage, 0
        self.deadline = self.policy.deadline(stage, facts, ingestion.occurred_at if ingestion else None, now)

    def pass_time(self, until: Instant) -> None:
        while self.stage and not self.parked:
            due = self.policy.due(self.stage, self.facts, self.deadline, self.step)
            if due > until:
                return
            self.step += 1
            severity = self.policy.severity(self.stage, self.facts, self.step)
            self.alerts.append((self.stage, severity, "stuck", due))
            self.parked = self.step == self.policy.give_up_at(self.stage, self.facts)


def walk(events: Iterable[Event], policy: Policy, end: Instant) -> dict[str, Walk]:
    """What becomes of each invoice; `events` in file order, each of them once."""
    walks: dict[str, Walk] = {}
    clock = 0
    for event in events:
        clock = max(clock, event.occurred_at)
        walks.setdefault(event.invoice_id, Walk(policy)).event(event, clock)
    for one in walks.values():
        one.pass_time(max(end, clock))
    return walks

"""Reference model of a replay: computes statuses and alerts of each invoice from its events alone.

It uses no engine, executions or records. It processes the events of one invoice in the order of the clock, and was
written independently of the cell, from the rules in docs/architecture.md.
"""

from collections.abc import Iterable

from msgspec import structs

from bems.tracker.contract import STAGES, Event, PaymentTerms, Stage
from bems.tracker.instants import Instant
from bems.tracker.policy import Policy
from bems.tracker.status import WAITS_FOR, Outcome, status_of, supersedes

ExpectedAlert = tuple[Stage, str, str, Instant]
"""Stage, severity, kind and due instant."""

LATER_FAILURES: tuple[tuple[Stage, str, str], ...] = (
    ("reconciliation", "mismatched", "dispute"),
    ("posting", "failed", "failed"),
)
"""Failures of later stages that raise an alert immediately: stage, status and kind of the alert."""


class InvoiceModel:
    """State of one invoice."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.outcomes: dict[Stage, Outcome] = {}
        self.alerts: list[ExpectedAlert] = []
        self.reported: set[str] = set()
        self.stage: Stage | None = None
        self.parked = False

    def event(self, event: Event, now: Instant) -> None:
        self.pass_time(now - 1)
        order = (event.occurred_at, event.event_id)
        if not self.outcomes and self.stage is None:
            self.facts, self.facts_order = event.facts, order
            self.terms: tuple[tuple[Instant, str], PaymentTerms | None] = ((-1, ""), None)
        if event.facts.payment_terms and order > self.terms[0]:
            self.terms = (order, event.facts.payment_terms)
        if order >= self.facts_order:
            self.facts, self.facts_order = event.facts, order
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
        for stage, bad, kind in LATER_FAILURES:
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


def run_model(events: Iterable[Event], policy: Policy, end: Instant) -> dict[str, InvoiceModel]:
    """Return the final state of each invoice. `events` are in file order, without duplicates."""
    models: dict[str, InvoiceModel] = {}
    clock = 0
    for event in events:
        clock = max(clock, event.occurred_at)
        models.setdefault(event.invoice_id, InvoiceModel(policy)).event(event, clock)
    for model in models.values():
        model.pass_time(max(end, clock))
    return models

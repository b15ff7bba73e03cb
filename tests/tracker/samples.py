"""Sample events, facts and policies for tests."""

from datetime import date
from decimal import Decimal
from typing import Any

from msgspec import structs

from bems.tracker.contract import Event, Facts, PaymentTerms, Source, Stage, Vendor
from bems.tracker.instants import DAY, HOUR, SECOND, Instant, parse
from bems.tracker.policy import (
    CalendarSpec,
    Policy,
    PolicySpec,
    ReconciliationSpec,
    StageSpec,
    StagesSpec,
    build_policy,
)
from bems.tracker.transitions import Transition

NOW = parse("2026-03-02T09:00:00Z")
"""A Monday."""

VALID: dict[str, Any] = {
    "event_id": "01JD8Y6QZ3",
    "invoice_id": "INV/2026/000123",
    "status": "approved",
    "occurred_at": "2026-11-23T10:15:00Z",
    "amount": "1250.00",
    "currency": "EUR",
    "vendor": {"id": "V-42", "name": "Acme GmbH", "country": "DE", "tier": "gold"},
    "payment_terms": {"days": 30, "due_date": "2026-12-23"},
    "source": {"system": "sap-ecc", "region": "eu-west-1"},
    "attributes": {"po": "4500012345"},
}
"""An event as it is sent, with a value in every field that is not only for past events."""

FACTS = Facts(Decimal("1250.00"), "EUR", Vendor("V-42", tier="silver"), Source("sap-ecc"))

FACTS_SENT: dict[str, Any] = {
    "amount": "1250.00",
    "currency": "EUR",
    "vendor": {"id": "V-42", "tier": "silver"},
    "source": {"system": "sap-ecc"},
}
"""`FACTS` in the body of an event."""

FULL = Transition(
    transition_id="event e1",
    invoice_id="INV/1",
    kind="event",
    stage="posting",
    recorded_at=NOW + 2 * SECOND + 1,
    from_status="AwaitingPosting",
    to_status="Posted",
    amount=Decimal("-0.10"),
    currency="EUR",
    vendor_id="V-1",
    vendor_tier="gold",
    terms_days=30,
    due_date=date(2026, 4, 1),
    outcome="posted",
    event_id="e1",
    superseded=True,
    occurred_at=NOW - HOUR,
    received_at=NOW,
    lag_ms=2000,
    step=1,
    severity="warning",
    decided_at=NOW + 2 * SECOND,
    policy_digest="0123456789abcdef",
    from_amount=Decimal("0.10"),
    from_currency="EUR",
    to_amount=Decimal("-0.10"),
    to_currency="EUR",
    source="sap-ecc",
    attributes={"approver": 'Kim "K" Lee'},
    number="RE-2026-7",
    issue_date=date(2026, 2, 27),
    buyer="1000",
    actor="kim@example.com",
    actor_kind="person",
    reason="QUA",
    paid_on=date(2026, 3, 1),
    paid_amount=Decimal("0.05"),
    discount_taken=Decimal("0.01"),
    first_deadline=NOW + HOUR,
    next_first_deadline=NOW + DAY,
)
"""It has a value in every column."""


def plain_policy(
    deadline: str = "3d", escalate_every: str = "1d", critical_at: int = 2, give_up_at: int = 3, timezone: str = "UTC"
) -> Policy:
    """Build a policy with the same rule for every stage."""
    rule = StageSpec(deadline, escalate_every, critical_at=critical_at, give_up_at=give_up_at, overrides=())
    stages = StagesSpec(rule, rule, ReconciliationSpec(*structs.astuple(rule)), rule)
    return build_policy(PolicySpec(CalendarSpec("NL", timezone), stages, critical_amount_from={}), frozenset())


POLICY = plain_policy()

FIRST_SPEC = PolicySpec(
    stages=StagesSpec(
        ingestion=StageSpec("10bd", "5bd", critical_at=3, give_up_at=6, overrides=()),
        authorization=StageSpec("3bd", "1bd", critical_at=3, give_up_at=20, overrides=()),
        reconciliation=ReconciliationSpec("5bd", "2bd", critical_at=3, give_up_at=20, overrides=()),
        posting=StageSpec("due-3bd", "1bd", critical_at=2, give_up_at=20, overrides=()),
    ),
    critical_amount_from={},
)
FIRST_POLICY = build_policy(FIRST_SPEC, frozenset())
"""Default policy of version 0.1.0. Tests use it whose numbers shall not change with the default policy."""


def event(
    stage: Stage,
    status: str,
    at: Instant = NOW,
    event_id: str | None = None,
    invoice_id: str = "INV-1",
    facts: Facts = FACTS,
    digest: str | None = None,
) -> Event:
    event_id = event_id or f"{stage}-{status}-{at}"
    return Event(stage, event_id, invoice_id, status, at, at, facts, digest or event_id)


def facts(days: int | None = None, due: date | None = None, **changes: Any) -> Facts:
    terms = PaymentTerms(days, due) if days is not None or due is not None else None
    tier = changes.pop("tier", "silver")
    values = {"amount": Decimal("1250.00"), "currency": "EUR", **changes}
    return Facts(vendor=Vendor("V-42", tier=tier), source=Source("sap-ecc"), payment_terms=terms, **values)


__all__ = [
    "DAY", "FACTS", "FACTS_SENT", "FIRST_POLICY", "FIRST_SPEC", "FULL", "HOUR", "NOW", "POLICY", "VALID", "event",
    "facts", "plain_policy",
]  # fmt: skip

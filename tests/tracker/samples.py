"""Sample events, facts and policies for tests."""

from datetime import date
from decimal import Decimal
from typing import Any

from msgspec import structs

from bems.tracker.contract import Event, Facts, PaymentTerms, Source, Stage, Vendor
from bems.tracker.instants import DAY, HOUR, Instant, parse
from bems.tracker.policy import (
    CalendarSpec,
    Policy,
    PolicySpec,
    ReconciliationSpec,
    StageSpec,
    StagesSpec,
    build_policy,
)

NOW = parse("2026-03-02T09:00:00Z")
"""A Monday."""

FACTS = Facts(Decimal("1250.00"), "EUR", Vendor("V-42", tier="silver"), Source("sap-ecc"))


def plain_policy(
    deadline: str = "3d", escalate_every: str = "1d", critical_at: int = 2, give_up_at: int = 3, timezone: str = "UTC"
) -> Policy:
    """Build a policy with the same rule for every stage."""
    rule = StageSpec(deadline, escalate_every, critical_at=critical_at, give_up_at=give_up_at, overrides=())
    stages = StagesSpec(rule, rule, ReconciliationSpec(*structs.astuple(rule)), rule)
    return build_policy(PolicySpec(CalendarSpec("NL", timezone), stages), frozenset())


POLICY = plain_policy()


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


__all__ = ["DAY", "FACTS", "HOUR", "NOW", "POLICY", "event", "facts", "plain_policy"]

"""Event contract: what a source system sends.

The parser (`bems.tracker.parsing`), the JSON Schemas and the OpenAPI document are all generated from these structs.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bems.tracker.instants import Instant, render

Stage = Literal["ingestion", "authorization", "reconciliation", "posting"]

STAGES: tuple[Stage, ...] = ("ingestion", "authorization", "reconciliation", "posting")
"""Stages in the order in which an invoice passes them."""

STAGE_INDEX: dict[Stage, int] = {stage: position for position, stage in enumerate(STAGES)}

SUCCESS_STATUS: dict[Stage, str] = {
    "ingestion": "received",
    "authorization": "approved",
    "reconciliation": "matched",
    "posting": "posted",
}
"""Positive outcome of each stage, which completes it."""

FAILURE_STATUS: dict[Stage, str] = {
    "ingestion": "cancelled",
    "authorization": "rejected",
    "reconciliation": "mismatched",
    "posting": "failed",
}
"""Negative outcome of each stage. Every other outcome completes the stage: `not_applicable` also completes the
reconciliation, of an invoice that is matched with nothing."""

STATUSES: dict[Stage, tuple[str, ...]] = {
    stage: (
        SUCCESS_STATUS[stage],
        FAILURE_STATUS[stage],
        *(("not_applicable",) if stage == "reconciliation" else ()),
    )
    for stage in STAGES
}
"""Outcomes of each stage."""

MAX_DIGITS = 18
"""Maximum number of digits of an amount as it is sent."""

# In Python, `$` alone also matches before a final newline; the look-ahead gives the same meaning in every dialect.
_PRINTABLE_ASCII = r"^[!-~]+(?!\n)$"
# The parser checks this pattern, msgspec does not: stores read these types too, and may hold texts that were accepted
# before U+0080 to U+009F were refused.
_NO_CONTROL = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*(?!\n)$"}

Identifier = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=_PRINTABLE_ASCII, description="1 to 128 printable ASCII without space"),
]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="1 to 256 characters, none of them control",
        extra_json_schema=_NO_CONTROL,
    ),
]
Label = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="1 to 64 characters, none of them control",
        extra_json_schema=_NO_CONTROL,
    ),
]
Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}(?!\n)$", description="an ISO 3166-1 alpha-2 code, such as DE")]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}(?!\n)$", description="an ISO 4217 code, such as EUR")]
Attribute = Annotated[
    str,
    Meta(
        max_length=4096,
        description="up to 4096 characters, none of them control",
        extra_json_schema=_NO_CONTROL,
    ),
]
Amount = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]{1,18}(\.[0-9]{1,18})?(?!\n)$",
        description='a decimal in a string, such as "1250.00"; negative for credit notes; at most 18 digits',
    ),
]
Date = Annotated[date, Meta(description="YYYY-MM-DD")]
Percent = Annotated[
    str,
    Meta(pattern=r"^[0-9]{1,2}(\.[0-9]{1,4})?(?!\n)$", description='a percentage below 100 in a string, such as "2.5"'),
]
Days = Annotated[int, Meta(ge=0, le=3650, description="0 to 3650 days")]
Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        description="1 to 1024 characters, none of them control",
        extra_json_schema=_NO_CONTROL,
    ),
]
Timestamp = Annotated[datetime, Meta(tz=True, description="RFC 3339 with offset, such as 2026-11-23T10:15:00Z")]


class Vendor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Vendor that sent the invoice."""

    id: Identifier
    name: Name | None = None
    country: Country | None = None
    tier: Label | None = None


class Buyer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Company that the invoice is addressed to; `id` is its company code."""

    id: Identifier
    name: Name | None = None


class CashDiscount(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Discount for payment within a number of days from the baseline date."""

    percent: Percent
    days: Days


class PaymentTerms(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When the invoice is due: a date, or a number of days from the baseline date.

    Without a baseline date, the days count from the invoice's issue date, and without one from its ingestion.
    """

    days: Annotated[int, Meta(ge=0, le=3650, description="0 to 3650 days until payment")] | None = None
    due_date: Date | None = None
    baseline_date: Date | None = None
    cash_discounts: Annotated[tuple[CashDiscount, ...], Meta(max_length=3, description="up to 3 discounts")] = ()


class Source(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """System that reported the event."""

    system: Label
    region: Label | None = None
    account_id: Label | None = None


class Actor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who decided: a person, or a system such as a matching engine or a robot."""

    id: Label
    kind: Literal["person", "system"]


class Reason(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Reason of an outcome: a code of Peppol's invoice response, or the sender's own."""

    code: Label
    text: Text | None = None


class PaymentBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Payment of a posted invoice, in the event's currency."""

    paid_on: Date
    amount: Amount
    discount_taken: Amount | None = None


class EventBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Event as a source system sends it, without its status, which depends on the stage."""

    event_id: Identifier
    invoice_id: Identifier
    occurred_at: Timestamp
    amount: Amount
    currency: CurrencyCode
    vendor: Vendor
    payment_terms: PaymentTerms | None = None
    source: Source
    number: Label | None = None
    """The supplier's own invoice number (EN 16931, BT-1)."""
    issue_date: Date | None = None
    """Date of the invoice (EN 16931, BT-2)."""
    buyer: Buyer | None = None
    purchase_orders: Annotated[tuple[Label, ...], Meta(max_length=20, description="up to 20 order numbers")] = ()
    actor: Actor | None = None
    reason: Reason | None = None
    attributes: Annotated[
        dict[Label, Attribute], Meta(max_length=32, description="up to 32 strings by name, 4 kB together")
    ] = {}
    imported: Annotated[
        bool, Meta(description="whether this is a past event, whose deadline counts from when it occurred")
    ] = False


class IngestionEvent(EventBody, frozen=True, kw_only=True):
    """Body of `POST /invoices/ingestion`."""

    status: Literal["received", "cancelled"]


class AuthorizationEvent(EventBody, frozen=True, kw_only=True):
    """Body of `POST /invoices/authorization`."""

    status: Literal["approved", "rejected"]


class ReconciliationEvent(EventBody, frozen=True, kw_only=True):
    """Body of `POST /invoices/reconciliation`."""

    status: Literal["matched", "mismatched", "not_applicable"]


class PostingEvent(EventBody, frozen=True, kw_only=True):
    """Body of `POST /invoices/posting`."""

    status: Literal["posted", "failed"]
    payment: PaymentBody | None = None


EVENT_TYPES: dict[Stage, type[IngestionEvent | AuthorizationEvent | ReconciliationEvent | PostingEvent]] = {
    "ingestion": IngestionEvent,
    "authorization": AuthorizationEvent,
    "reconciliation": ReconciliationEvent,
    "posting": PostingEvent,
}


class Payment(Struct, frozen=True, omit_defaults=True):
    """Payment of a posted invoice, in the event's currency."""

    paid_on: date
    amount: Decimal
    discount_taken: Decimal | None = None


class Facts(Struct, frozen=True, omit_defaults=True):
    """Facts about an invoice that an event states, in addition to its outcome."""

    amount: Decimal
    currency: str
    vendor: Vendor
    source: Source
    payment_terms: PaymentTerms | None = None
    attributes: dict[str, str] = {}
    number: str | None = None
    issue_date: date | None = None
    buyer: Buyer | None = None
    purchase_orders: tuple[str, ...] = ()


class Event(Struct, frozen=True):
    """Valid event, as the decisions take it.

    `digest` is a hash of the content: two events with the same event_id and digest are the same event sent twice. It
    excludes `imported`, so a source system can send an event again as a past one.
    """

    stage: Stage
    event_id: str
    invoice_id: str
    status: str
    occurred_at: Instant
    received_at: Instant
    facts: Facts
    digest: str
    imported: bool = False
    actor: Actor | None = None
    reason: Reason | None = None
    payment: Payment | None = None

    def to_body(self) -> dict[str, Any]:
        """Return the event's request body, ready for JSON: instants in UTC, empty fields left out."""
        facts = self.facts
        body: dict[str, Any] = {
            "event_id": self.event_id,
            "invoice_id": self.invoice_id,
            "status": self.status,
            "occurred_at": render(self.occurred_at),
            "amount": _render_as_sent(facts.amount),
            "currency": facts.currency,
            "vendor": facts.vendor,
            "source": facts.source,
        }
        if facts.payment_terms:
            body["payment_terms"] = facts.payment_terms
        for name in ("number", "issue_date", "buyer", "purchase_orders", "attributes"):
            value = getattr(facts, name)
            if value:
                body[name] = value
        for name in ("actor", "reason"):
            value = getattr(self, name)
            if value:
                body[name] = value
        payment = self.payment
        if payment:
            discount = payment.discount_taken
            body["payment"] = PaymentBody(
                payment.paid_on,
                _render_as_sent(payment.amount),
                None if discount is None else _render_as_sent(discount),
            )
        if self.imported:
            body["imported"] = True
        return body


def _render_as_sent(amount: Decimal) -> str:
    """Return an amount with the decimals of its currency, or with fewer zeros if it would have too many digits."""
    text = format(amount, "f")
    return text if sum(map(str.isdigit, text)) <= MAX_DIGITS else text.rstrip("0").removesuffix(".")

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
"""Negative outcome of each stage."""

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
Timestamp = Annotated[datetime, Meta(tz=True, description="RFC 3339 with offset, such as 2026-11-23T10:15:00Z")]


class Vendor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Vendor that sent the invoice."""

    id: Identifier
    name: Name | None = None
    country: Country | None = None
    tier: Label | None = None


class PaymentTerms(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When the invoice is due: a date, or a number of days from its ingestion."""

    days: Annotated[int, Meta(ge=0, le=3650, description="0 to 3650 days from ingestion to payment")] | None = None
    due_date: Annotated[date, Meta(description="YYYY-MM-DD")] | None = None


class Source(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """System that reported the event."""

    system: Label
    region: Label | None = None
    account_id: Label | None = None


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

    status: Literal["matched", "mismatched"]


class PostingEvent(EventBody, frozen=True, kw_only=True):
    """Body of `POST /invoices/posting`."""

    status: Literal["posted", "failed"]


EVENT_TYPES: dict[Stage, type[IngestionEvent | AuthorizationEvent | ReconciliationEvent | PostingEvent]] = {
    "ingestion": IngestionEvent,
    "authorization": AuthorizationEvent,
    "reconciliation": ReconciliationEvent,
    "posting": PostingEvent,
}


class Facts(Struct, frozen=True, omit_defaults=True):
    """Facts about an invoice that an event states, in addition to its outcome."""

    amount: Decimal
    currency: str
    vendor: Vendor
    source: Source
    payment_terms: PaymentTerms | None = None
    attributes: dict[str, str] = {}


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

    def to_body(self) -> dict[str, Any]:
        """Return the event's request body, ready for JSON: instants in UTC, empty fields left out."""
        facts = self.facts
        body: dict[str, Any] = {
            "event_id": self.event_id,
            "invoice_id": self.invoice_id,
            "status": self.status,
            "occurred_at": render(self.occurred_at),
            "amount": format(facts.amount, "f"),
            "currency": facts.currency,
            "vendor": facts.vendor,
            "source": facts.source,
        }
        if facts.payment_terms:
            body["payment_terms"] = facts.payment_terms
        if facts.attributes:
            body["attributes"] = facts.attributes
        if self.imported:
            body["imported"] = True
        return body

"""Event parser: turns a sender's bytes into an event, or into an InvalidEvent that reports every error at once.

The fast path decodes straight into the stage's struct and makes a few comparisons. Only a body that fails it is parsed
again, by a slower, lenient reader that finds all its errors. No function here raises, whatever the bytes.
"""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from bems.tracker.contract import (
    EVENT_TYPES,
    MAX_DIGITS,
    STAGES,
    Actor,
    Amount,
    AuthorizationEvent,
    Buyer,
    CashDiscount,
    CurrencyCode,
    Event,
    Facts,
    Identifier,
    IngestionEvent,
    Payment,
    PaymentBody,
    PaymentTerms,
    PostingEvent,
    Reason,
    ReconciliationEvent,
    Source,
    Stage,
    Timestamp,
    Vendor,
)
from bems.tracker.currencies import MINOR_UNITS, WITHOUT_MINOR_UNIT
from bems.tracker.instants import DAY, EARLIEST, Instant, from_datetime, render, without_leap_second
from bems.validation.error_messages import format_value
from bems.validation.field_errors import FieldError, validate
from bems.validation.lenient_json import NOT_A_NUMBER, LenientJson, duplicate_key_errors, find_anomalies

MAX_EVENT_BYTES = 64 * 1024
"""Maximum size of one event. The largest valid one has 23 kB, or 51 kB with every character as one escape of six bytes.
"""

MAX_LINE_BYTES = MAX_EVENT_BYTES + 1024
MAX_BATCH_BYTES = 2 * 1024 * 1024
MAX_BATCH_EVENTS = 100
"""Maximum number of events in a batch of any cell; a cell's `Limits.max_batch` may be lower."""

MAX_ATTRIBUTES_BYTES = 4096
MAX_FUTURE_SKEW = DAY
MIN_DATE, MAX_DATE = date(1970, 1, 1), date(2999, 12, 31)

Body = IngestionEvent | AuthorizationEvent | ReconciliationEvent | PostingEvent


class InvalidEvent(Struct, frozen=True):
    """Reasons why bytes are not a valid event.

    `status`    400, or 413 for a body that is too large to parse.
    `summary`   one sentence for people.
    `errors`    all errors. Pointers are relative to the argument of the function that returned this: the body of an
                event, the body of a batch, or the line. In the results of a batch, they are relative to the event.
    `event_id`  the event's id, if it can be read and is valid.
    """

    status: Literal[400, 413]
    summary: str
    errors: list[FieldError]
    event_id: str | None = None

    @property
    def reasons(self) -> list[str]:
        """One short phrase per error to count by, such as `amount: too many decimals`.

        The number of different phrases is small, because names that senders choose (attributes, unknown fields) are
        left out.
        """
        return [f"{_field_path(error.pointer)}: {error.kind}" for error in self.errors]


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a batch request: several events of one stage."""

    events: Annotated[list[Any], Meta(min_length=1, description="a list of events")]


class LogLine(Struct, frozen=True, forbid_unknown_fields=True):
    """Line of an event log file."""

    stage: Stage
    event: Annotated[Any, Meta(description="an object: the event as it is sent to its stage")]


class _RawBatch(Struct, frozen=True, forbid_unknown_fields=True):
    events: list[Raw]


class _RawLine(Struct, frozen=True, forbid_unknown_fields=True):
    stage: Stage
    event: Raw


class _EventDetails(Struct, frozen=True, omit_defaults=True):
    """Fields of an event that are not facts of its invoice, as its digest contains them."""

    actor: Actor | None = None
    reason: Reason | None = None
    payment: Payment | None = None


_DECODERS: dict[Stage, msgspec.json.Decoder[Body]] = {
    stage: msgspec.json.Decoder(body) for stage, body in EVENT_TYPES.items()
}
_BATCH = msgspec.json.Decoder(_RawBatch)
_LINE = msgspec.json.Decoder(_RawLine)
_CANONICAL = msgspec.json.Encoder(order="deterministic")
_find_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_NO_TERMS = PaymentTerms()
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def parse_event(stage: Stage, body: bytes, now: Instant) -> Event | InvalidEvent:
    """Parse the body of `POST /invoices/{stage}`; `now` becomes the event's `received_at`."""
    if len(body) > MAX_EVENT_BYTES:
        return reject_too_large("event", len(body), MAX_EVENT_BYTES)
    try:
        sent = _DECODERS[stage].decode(body)
    except _UNREADABLE:
        return _parse_slow(stage, body, now)
    return _build_event(stage, sent, body, now) or _parse_slow(stage, body, now)


def parse_batch(
    stage: Stage, body: bytes, now: Instant, max_events: int = MAX_BATCH_EVENTS
) -> list[Event | InvalidEvent] | InvalidEvent:
    """Parse the body of `POST /invoices/{stage}/batch`, `{"events": [...]}`, into one result per event, in order.

    Returns a single InvalidEvent only if the body is too large, or not an object with a list of 1 to `max_events`
    events.
    """
    if len(body) > MAX_BATCH_BYTES:
        return reject_too_large("batch", len(body), MAX_BATCH_BYTES)
    try:
        events = [bytes(raw) for raw in _BATCH.decode(body).events]
    except _UNREADABLE:
        return _parse_batch_slow(stage, body, now, max_events)
    if not 1 <= len(events) <= max_events or body.count(b'"') != 2 + sum(event.count(b'"') for event in events):
        return _parse_batch_slow(stage, body, now, max_events)
    return [parse_event(stage, event, now) for event in events]


def parse_line(line: bytes, now: Instant) -> Event | InvalidEvent:
    """Parse a line of an event log file, `{"stage": ..., "event": {...}}`, with or without its line ending.

    A blank line and a byte order mark are invalid: the caller skips them.
    """
    if len(line) > MAX_LINE_BYTES:
        return reject_too_large("line", len(line), MAX_LINE_BYTES)
    try:
        outer = _LINE.decode(line)
        event = bytes(outer.event)
        sent = _DECODERS[outer.stage].decode(event)
    except _UNREADABLE:
        return _parse_line_slow(line, now)
    if line.count(b'"') != 6 + event.count(b'"'):
        return _parse_line_slow(line, now)
    return _build_event(outer.stage, sent, event, now) or _parse_line_slow(line, now)


def split_log_line(line: bytes) -> tuple[Stage, bytes] | InvalidEvent:
    """Split a line into its stage and the event's bytes, without validating the event."""
    if len(line) > MAX_LINE_BYTES:
        return reject_too_large("line", len(line), MAX_LINE_BYTES)
    try:
        outer = _LINE.decode(line)
    except _UNREADABLE:
        reading = LenientJson(line)
        if reading.error is not None:
            return reject_unreadable("line", reading.error)
        return reject_invalid("line", duplicate_key_errors(reading.data) + validate(reading.data, LogLine), None)
    event = bytes(outer.event)
    if line.count(b'"') != 6 + event.count(b'"'):
        duplicates = duplicate_key_errors(LenientJson(line).data)
        if duplicates:
            return reject_invalid("line", duplicates, None)
    return outer.stage, event


def _build_event(stage: Stage, sent: Body, body: bytes | None, now: Instant) -> Event | None:
    """Return the event if it also satisfies the rules that a schema cannot express, else None.

    `body` is None if it is known to have no duplicate keys.
    """
    decimals = MINOR_UNITS.get(sent.currency)
    if decimals is None:
        return None
    amount = _read_amount(sent.amount, decimals)
    if amount is None:
        return None
    occurred_at = from_datetime(sent.occurred_at)
    if not EARLIEST <= occurred_at <= now + MAX_FUTURE_SKEW:
        return None
    terms = sent.payment_terms
    if terms is not None:
        if not (_is_in_range(terms.due_date) and _is_in_range(terms.baseline_date)):
            return None
        if terms == _NO_TERMS:
            terms = None
    if not _is_in_range(sent.issue_date):
        return None
    payment = None
    if isinstance(sent, PostingEvent) and sent.payment is not None:
        payment = _read_payment(sent, sent.payment, decimals)
        if payment is None:
            return None
    # In JSON, control characters below U+0020 must be escaped; U+0080 to U+009F are not ASCII.
    may_have_controls = body is None or b"\\" in body or b"\x7f" in body or not body.isascii()
    if may_have_controls and any(map(_find_control, _free_texts(sent))):
        return None
    attributes = sent.attributes
    if (
        attributes
        and (body is None or len(body) > MAX_ATTRIBUTES_BYTES)
        and _attributes_size(attributes) > MAX_ATTRIBUTES_BYTES
    ):
        return None
    facts = Facts(
        amount,
        sent.currency,
        sent.vendor,
        sent.source,
        terms,
        attributes,
        sent.number,
        sent.issue_date,
        sent.buyer,
        sent.purchase_orders,
    )
    contents: tuple[object, ...] = (stage, sent.event_id, sent.invoice_id, sent.status, occurred_at, facts)
    if sent.actor is not None or sent.reason is not None or payment is not None:
        # Without these fields, the digest must stay that of versions before they existed.
        contents = (*contents, _EventDetails(sent.actor, sent.reason, payment))
    content = _CANONICAL.encode(contents)
    if body is not None and not _has_unique_keys(body, content, 2 if sent.imported else 0):
        return None
    digest = blake2b(content, digest_size=12).hexdigest()
    return Event(
        stage,
        sent.event_id,
        sent.invoice_id,
        sent.status,
        occurred_at,
        now,
        facts,
        digest,
        sent.imported,
        sent.actor,
        sent.reason,
        payment,
    )


def _read_amount(text: str, decimals: int) -> Decimal | None:
    """Return the amount with all of its currency's decimals, or None if it has more of them or too many digits."""
    whole, _, fraction = text.partition(".")
    if len(fraction) > decimals or len(whole) + len(fraction) - whole.startswith("-") > MAX_DIGITS:
        return None
    # Built from text, because arithmetic depends on the thread's decimal context.
    amount = Decimal(f"{whole}.{fraction:0<{decimals}}" if decimals else whole)
    return amount or amount.copy_abs()


def _read_payment(sent: PostingEvent, payment: PaymentBody, decimals: int) -> Payment | None:
    """Return the payment, or None if it breaks a rule that a schema cannot express."""
    amount, discount = _read_amount(payment.amount, decimals), None
    if payment.discount_taken is not None:
        discount = _read_amount(payment.discount_taken, decimals)
        if discount is None:
            return None
    if amount is None or sent.status != "posted" or not _is_in_range(payment.paid_on):
        return None
    return Payment(payment.paid_on, amount, discount)


def _is_in_range(day: date | None) -> bool:
    return day is None or MIN_DATE <= day <= MAX_DATE


def _has_unique_keys(body: bytes, content: bytes, more: int) -> bool:
    """Return whether no object in the body has a duplicate key, of which a decoder silently keeps the last.

    Compares the numbers of quotation marks: a duplicate key adds at least two that the re-encoded `content` does not
    have. `content` also lacks the eight quotation marks of four names, and `more` of fields that are not part of it.
    Only a body with escapes or an explicit null must be parsed again.
    """
    if b"\\" not in body and body.count(b'"') == content.count(b'"') + 8 + more:
        return True
    reading = LenientJson(body)
    return reading.error is None and not reading.has_anomalies


def _free_texts(sent: Body) -> list[str]:
    """Return the texts in which only control characters are forbidden."""
    vendor, source = sent.vendor, sent.source
    texts = [vendor.name, vendor.tier, source.system, source.region, source.account_id, sent.number]
    if sent.buyer:
        texts.append(sent.buyer.name)
    if sent.actor:
        texts.append(sent.actor.id)
    if sent.reason:
        texts += sent.reason.code, sent.reason.text
    return [text for text in (*texts, *sent.purchase_orders, *sent.attributes, *sent.attributes.values()) if text]


def _attributes_size(attributes: dict[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in attributes.items())


def reject_too_large(what: str, size: int, limit: int) -> InvalidEvent:
    error = FieldError("", f"has {size} bytes, more than {limit}: send less at once", "too large")
    return InvalidEvent(413, f"the {what} is too large", [error])


def reject_invalid(what: str, errors: list[FieldError], data: object) -> InvalidEvent:
    event_id = data.get("event_id") if isinstance(data, dict) else None
    known = convert_or_none(event_id, Identifier)
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return InvalidEvent(400, f"the {what} is not valid: {count}", errors, known if isinstance(known, str) else None)


def reject_unreadable(what: str, error: FieldError) -> InvalidEvent:
    return InvalidEvent(400, f"the {what} is not JSON", [error])


def _parse_slow(stage: Stage, body: bytes, now: Instant) -> Event | InvalidEvent:
    reading = LenientJson(body)
    return reject_unreadable("event", reading.error) if reading.error else _validate_event(stage, reading.data, now)


def _parse_batch_slow(
    stage: Stage, body: bytes, now: Instant, max_events: int = MAX_BATCH_EVENTS
) -> list[Event | InvalidEvent] | InvalidEvent:
    reading = LenientJson(body)
    if reading.error is not None:
        return reject_unreadable("batch", reading.error)
    errors = duplicate_key_errors(reading.data) + validate(reading.data, Batch)
    events = reading.data.get("events") if isinstance(reading.data, dict) else None
    if isinstance(events, list) and len(events) > max_events:
        detail = f"has {len(events)} events, more than {max_events}, the most that this cell takes: send less at once"
        errors.append(FieldError("/events", detail, "too many"))
    if errors or not isinstance(events, list):
        return reject_invalid("batch", errors, None)
    return [_validate_event(stage, event, now) for event in events]


def _parse_line_slow(line: bytes, now: Instant) -> Event | InvalidEvent:
    reading = LenientJson(line)
    if reading.error is not None:
        return reject_unreadable("line", reading.error)
    errors = duplicate_key_errors(reading.data) + validate(reading.data, LogLine)
    if not isinstance(reading.data, dict) or "event" not in reading.data:
        return reject_invalid("line", errors, None)
    stage, event = reading.data.get("stage"), reading.data["event"]
    known = next((known for known in STAGES if known == stage), None)
    errors += [
        FieldError(f"/event{error.pointer}", error.detail, error.kind) for error in _collect_errors(known, event, now)
    ]
    return reject_invalid("line", errors, event) if errors or known is None else _validate_event(known, event, now)


def _validate_event(stage: Stage, data: object, now: Instant) -> Event | InvalidEvent:
    """Build an event from data that LenientJson has parsed."""
    _replace_leap_second(data)
    errors = _collect_errors(stage, data, now)
    if not errors:
        sent = convert_or_none(data, EVENT_TYPES[stage])
        event = _build_event(stage, sent, None, now) if isinstance(sent, Body) else None
        if event is not None:
            return event
        errors = [FieldError("", "cannot be read", "not valid")]
    return reject_invalid("event", errors, data)


def _collect_errors(stage: Stage | None, data: object, now: Instant) -> list[FieldError]:
    """Return the errors that only LenientJson finds, those of the schema, and those of the other rules.

    Without a stage, the status is not checked, because it depends on the stage, and a payment is allowed.
    """
    _replace_leap_second(data)
    anomalies = find_anomalies(data)
    not_numbers = {error.pointer for error in anomalies if error.kind == NOT_A_NUMBER}
    errors = [error for error in validate(data, EVENT_TYPES[stage or "posting"]) if error.pointer not in not_numbers]
    if stage is None:
        errors = [error for error in errors if error.pointer != "/status"]
    broken_rules = list(_check_rules(data, now)) if isinstance(data, dict) else []
    return anomalies + errors + broken_rules


def _replace_leap_second(data: object) -> None:
    """Replace a leap second in `occurred_at` by the second before it. The fast path refuses it: datetime has none."""
    occurred_at = data.get("occurred_at") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(occurred_at, str) and ":60" in occurred_at:
        data["occurred_at"] = without_leap_second(occurred_at)


def _check_rules(data: dict[str, object], now: Instant) -> Iterator[FieldError]:
    occurred_at = convert_or_none(data.get("occurred_at"), Timestamp)
    if occurred_at is not None:
        instant, shown = from_datetime(occurred_at), format_value(data["occurred_at"])
        if instant > now + MAX_FUTURE_SKEW:
            detail = f"{shown} is in the future: use at most 1 day after now, {render(now)}"
            yield FieldError("/occurred_at", detail, "in the future")
        elif instant < EARLIEST:
            yield FieldError("/occurred_at", f"{shown} is before 1970: use when it happened", "before 1970")
    amount, currency = convert_or_none(data.get("amount"), Amount), convert_or_none(data.get("currency"), CurrencyCode)
    if currency is not None:
        yield from check_currency("/currency", currency)
    if amount is not None:
        yield from _check_amount("/amount", amount, currency)
    terms, payment = data.get("payment_terms"), data.get("payment")
    dates = {"/issue_date": data.get("issue_date")}
    if isinstance(terms, dict):
        dates |= {f"/payment_terms/{name}": terms.get(name) for name in ("due_date", "baseline_date")}
    if isinstance(payment, dict):
        dates["/payment/paid_on"] = payment.get("paid_on")
        for name in ("amount", "discount_taken"):
            paid = convert_or_none(payment.get(name), Amount)
            if paid is not None:
                yield from _check_amount(f"/payment/{name}", paid, currency)
        if data.get("status") == "failed":
            yield FieldError("/payment", "a posting that failed has no payment: leave it out", "not allowed")
    for pointer, value in dates.items():
        day = convert_or_none(value, date)
        if day is not None and not MIN_DATE <= day <= MAX_DATE:
            detail = f"{format_value(day)} is out of range: use {MIN_DATE} to {MAX_DATE}"
            yield FieldError(pointer, detail, "out of range")
    attributes = convert_or_none(data.get("attributes"), dict[str, str])
    if attributes is not None:
        size = sum(len(text.encode("utf-8", "replace")) for pair in attributes.items() for text in pair)
        if size > MAX_ATTRIBUTES_BYTES:
            detail = f"names and values have {size} bytes together, more than {MAX_ATTRIBUTES_BYTES}: send less"
            yield FieldError("/attributes", detail, "too large")


def _check_amount(pointer: str, amount: str, currency: str | None) -> Iterator[FieldError]:
    digits = sum(map(str.isdigit, amount))
    if digits > MAX_DIGITS:
        yield FieldError(
            pointer, f"{format_value(amount)} has {digits} digits: use at most {MAX_DIGITS}", "too many digits"
        )
    yield from check_decimals(pointer, amount, currency)


def check_currency(pointer: str, currency: str) -> Iterator[FieldError]:
    """Yield an error if the code is not that of a currency that is paid in (ISO 4217)."""
    if currency not in MINOR_UNITS:
        problem = "has no minor unit in" if currency in WITHOUT_MINOR_UNIT else "is not a currency of"
        detail = f"{format_value(currency)} {problem} ISO 4217: use one that is paid in"
        yield FieldError(pointer, detail, "unknown currency")


def check_decimals(pointer: str, amount: str, currency: str | None) -> Iterator[FieldError]:
    """Yield an error if the amount, a decimal string, has more decimals than a known currency."""
    decimals, limit = len(amount.partition(".")[2]), MINOR_UNITS.get(currency or "")
    if limit is not None and decimals > limit:
        expected = f"at most {limit}" if limit else "none, and no point"
        detail = f"{format_value(amount)} has {decimals} after the point, more than {currency} has: use {expected}"
        yield FieldError(pointer, detail, "too many decimals")


def convert_or_none(value: object, expected: Any) -> Any:
    """Return the value converted to `expected`, or None if it is not one."""
    try:
        return msgspec.convert(value, expected)
    except (*_UNREADABLE, TypeError):
        return None


def _fields_of(struct: Any) -> dict[str, Any]:
    """Return the field names of a struct, each with its nested field names."""
    nested = {
        "vendor": Vendor,
        "payment_terms": PaymentTerms,
        "source": Source,
        "buyer": Buyer,
        "actor": Actor,
        "reason": Reason,
        "payment": PaymentBody,
        "cash_discounts": CashDiscount,
    }
    return {name: _fields_of(nested[name]) if name in nested else {} for name in struct.__struct_fields__}


_FIELD_PATHS = {"event": _fields_of(PostingEvent), "stage": {}, "events": {}, **_fields_of(PostingEvent)}


def _field_path(pointer: str) -> str:
    """Map a pointer to a field path: `/vendor/country` to `vendor.country`, `/attributes/po` to `attributes`,
    `/purchase_orders/3` to `purchase_orders`, the root to `event`."""
    known, path = _FIELD_PATHS, list[str]()
    for name in pointer.split("/")[1:]:
        if name.isdigit():
            continue
        if name not in known:
            break
        known = known[name]
        path.append(name)
    return ".".join(path[1:] if path[:1] == ["event"] else path) or "event"

import decimal
import json
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.tracker import parsing
from bems.tracker.contract import (
    STAGES,
    STATUSES,
    SUCCESS_STATUS,
    Actor,
    Buyer,
    CashDiscount,
    Event,
    Facts,
    Payment,
    PaymentTerms,
    Reason,
    Source,
    Stage,
    Vendor,
)
from bems.tracker.instants import DAY, SECOND, parse, render
from bems.tracker.parsing import (
    MAX_BATCH_BYTES,
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    InvalidEvent,
    parse_batch,
    parse_event,
    parse_line,
)
from tests.tracker.event_bodies import OPTIONAL_FIELDS, PAYMENT, event_bodies, optional_fields, sometimes_wrong
from tests.tracker.samples import VALID

NOW = parse("2026-11-23T10:16:00Z")

BODY = json.dumps(VALID).encode()


TERMS = {
    "days": 30,
    "baseline_date": "2026-11-21",
    "cash_discounts": [{"percent": "3", "days": 7}, {"percent": "2.5", "days": 14}],
}
POSTED: dict[str, Any] = VALID | {"status": "posted", "payment_terms": TERMS, "payment": PAYMENT} | OPTIONAL_FIELDS
"""A body with every field."""


def body(**changes: Any) -> bytes:
    return json.dumps(VALID | changes).encode()


def replaced(old: bytes, new: bytes) -> bytes:
    assert BODY.count(old) == 1
    return BODY.replace(old, new)


def event_of(sent: bytes, stage: Stage = "authorization") -> Event:
    event = parse_event(stage, sent, NOW)
    assert isinstance(event, Event), event
    return event


def invalid_event_of(sent: bytes, stage: Stage = "authorization") -> InvalidEvent:
    invalid = parse_event(stage, sent, NOW)
    assert isinstance(invalid, InvalidEvent)
    assert invalid.errors
    assert len(invalid.reasons) == len(invalid.errors)
    json.dumps(invalid.reasons).encode()
    "".join(error.pointer + error.detail for error in invalid.errors).encode()
    return invalid


def errors_of(sent: bytes, stage: Stage = "authorization") -> dict[str, str]:
    return {error.pointer: error.kind for error in invalid_event_of(sent, stage).errors}


def posted(**changes: Any) -> bytes:
    """Return a body with every field, of which some are changed; nested fields as in `reason__code`."""
    sent = json.loads(json.dumps(POSTED))
    for path, value in changes.items():
        *outer, last = path.split("__")
        inner = sent
        for name in outer:
            inner = inner[int(name) if name.isdigit() else name]
        inner[int(last) if last.isdigit() else last] = value
    return json.dumps(sent).encode()


# Accepted events


def test_a_valid_body_is_parsed_into_an_event() -> None:
    event = event_of(BODY)
    assert (event.stage, event.event_id, event.invoice_id, event.status) == (
        "authorization",
        "01JD8Y6QZ3",
        "INV/2026/000123",
        "approved",
    )
    assert (event.occurred_at, event.received_at) == (parse("2026-11-23T10:15:00Z"), NOW)
    assert event.facts.amount == Decimal("1250.00")
    assert event.facts.vendor == Vendor("V-42", "Acme GmbH", "DE", "gold")
    assert event.facts.source == Source("sap-ecc", "eu-west-1")
    assert event.facts.payment_terms is not None
    assert event.facts.payment_terms.days == 30
    assert event.facts.attributes == {"po": "4500012345"}


def test_a_body_with_every_field_is_parsed_into_an_event() -> None:
    event = event_of(posted(), "posting")
    terms = PaymentTerms(30, None, date(2026, 11, 21), (CashDiscount("3", 7), CashDiscount("2.5", 14)))
    assert event.facts == Facts(
        Decimal("1250.00"),
        "EUR",
        Vendor("V-42", "Acme GmbH", "DE", "gold"),
        Source("sap-ecc", "eu-west-1"),
        terms,
        {"po": "4500012345"},
        "RE-2026-0815",
        date(2026, 11, 20),
        Buyer("1000", "Acme Nederland BV"),
        ("4500012345", "4500012346"),
    )
    assert event.actor == Actor("kim@example.com", "person")
    assert event.reason == Reason("QUA", "two of ten are broken")
    assert event.payment == Payment(date(2026, 12, 20), Decimal("1218.75"), Decimal("31.25"))


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_accepts_only_its_own_outcomes(stage: Stage) -> None:
    for other in STAGES:
        for outcome in STATUSES[other]:
            answer = parse_event(stage, body(status=outcome), NOW)
            assert isinstance(answer, Event if other == stage else InvalidEvent)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_accepts_the_optional_fields(stage: Stage) -> None:
    for outcome in STATUSES[stage]:
        event = event_of(body(status=outcome, payment_terms=TERMS, **OPTIONAL_FIELDS), stage)
        assert (event.facts.number, event.actor) == ("RE-2026-0815", Actor("kim@example.com", "person"))


@pytest.mark.parametrize(
    ("amount", "discount", "currency", "expected"),
    [
        ("1218.75", None, "EUR", ("1218.75", None)),
        ("1218", "-0", "EUR", ("1218.00", "0.00")),
        ("-5", "3", "JPY", ("-5", "3")),
        ("1.2", "0.125", "BHD", ("1.200", "0.125")),
        ("9" * 18, "1.2345", "CLF", ("9" * 18 + ".0000", "1.2345")),
    ],
)
def test_paid_amounts_have_exactly_the_decimals_of_the_currency(
    amount: str, discount: str | None, currency: str, expected: tuple[str, str | None]
) -> None:
    payment = {"paid_on": "2026-12-20", "amount": amount, "discount_taken": discount}
    with decimal.localcontext(prec=3):
        paid = event_of(posted(amount="7", currency=currency, payment=payment), "posting").payment
        assert paid is not None
        assert (str(paid.amount), None if paid.discount_taken is None else str(paid.discount_taken)) == expected


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("1250.00", "EUR", "1250.00"),
        ("1250", "EUR", "1250.00"),
        ("1250.5", "EUR", "1250.50"),
        ("-3.10", "EUR", "-3.10"),
        ("007", "JPY", "7"),
        ("-0", "JPY", "0"),
        ("-0.00", "EUR", "0.00"),
        ("1.234", "BHD", "1.234"),
        ("1.2345", "CLF", "1.2345"),
        ("9" * 18, "JPY", "9" * 18),
        ("9" * 18, "CLF", "9" * 18 + ".0000"),
        ("9" * 16 + ".99", "EUR", "9" * 16 + ".99"),
        ("-" + "9" * 16 + ".99", "EUR", "-" + "9" * 16 + ".99"),
        ("1.00", "BGN", "1.00"),
    ],
)
def test_an_amount_has_exactly_the_decimals_of_its_currency(amount: str, currency: str, expected: str) -> None:
    with decimal.localcontext(prec=3):
        assert str(event_of(body(amount=amount, currency=currency)).facts.amount) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T11:15:00+01:00", "2026-11-23T10:15:00Z"),
        ("2026-11-23t10:15:00z", "2026-11-23T10:15:00Z"),
        ("2026-11-23T10:15:00.123456Z", "2026-11-23T10:15:00.123456Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("2026-11-24T10:16:00Z", "2026-11-24T10:16:00Z"),
    ],
)
def test_an_instant_is_read_whatever_its_offset(text: str, expected: str) -> None:
    assert render(event_of(body(occurred_at=text)).occurred_at) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": "!" * 128, "invoice_id": "~"},
        {"payment_terms": None},
        {"payment_terms": {}},
        {"payment_terms": {"days": 0, "due_date": "2999-12-31"}},
        {"payment_terms": {"days": 3650, "due_date": "1970-01-01"}},
        {"vendor": {"id": "V", "name": None, "country": None, "tier": None}},
        {"vendor": {"id": "V", "name": 'Ölmühle "Süd" \\ Söhne \N{GRINNING FACE}'}},
        {"attributes": {}},
        {"attributes": {f"{n:02}": "x" * 126 for n in range(32)}},
        {"attributes": {"ü": "ü" * 2047}},
        {"number": "x" * 64, "issue_date": "1970-01-01", "buyer": {"id": "1" * 128, "name": "ü" * 256}},
        {"number": None, "issue_date": None, "buyer": None, "purchase_orders": [], "actor": None, "reason": None},
        {"purchase_orders": ["ü" * 64] * 20, "issue_date": "2999-12-31"},
        {"actor": {"id": "ü" * 64, "kind": "system"}, "reason": {"code": "ü" * 64, "text": '"' * 1024}},
        {"payment_terms": {"cash_discounts": []}},
        {
            "payment_terms": {
                "baseline_date": "2999-12-31",
                "cash_discounts": [{"percent": "99.9999", "days": 3650}] * 3,
            }
        },
        {"payment_terms": {"cash_discounts": [{"percent": "0", "days": 0}]}},
    ],
)
def test_boundary_values_are_accepted_escaped_and_unescaped(changes: dict[str, Any]) -> None:
    escaped = event_of(body(**changes))
    plain = event_of(json.dumps(VALID | changes, ensure_ascii=False).encode())
    assert escaped == plain


# The digest


@pytest.mark.parametrize(
    "same",
    [
        json.dumps(VALID, indent=4).encode() + b"\r\n",
        json.dumps(dict(reversed(VALID.items()))).encode(),
        json.dumps(VALID, sort_keys=True, separators=(",", ":")).encode(),
        body(occurred_at="2026-11-23T11:15:00+01:00"),
        body(occurred_at="2026-11-23T10:15:00.000Z"),
        body(amount="1250"),
        body(amount="1250.0"),
        body(source=VALID["source"] | {"account_id": None}),
        replaced(b"Acme", b"\\u0041cme"),
    ],
)
def test_equivalent_json_has_the_same_digest(same: bytes) -> None:
    assert event_of(same) == event_of(BODY)


def test_the_order_of_attributes_and_empty_terms_do_not_change_the_event() -> None:
    assert event_of(body(attributes={"a": "1", "b": "2"})) == event_of(body(attributes={"b": "2", "a": "1"}))
    assert event_of(body(payment_terms={})) == event_of(body(payment_terms=None))


def test_the_digest_does_not_depend_on_received_at() -> None:
    later = parse_event("authorization", BODY, NOW + 5 * SECOND)
    assert isinstance(later, Event)
    assert later.received_at == NOW + 5 * SECOND
    assert later.digest == event_of(BODY).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": "other"},
        {"invoice_id": "other"},
        {"status": "rejected"},
        {"occurred_at": "2026-11-23T10:15:00.000001Z"},
        {"amount": "1250.01"},
        {"amount": "-1250.00"},
        {"currency": "USD"},
        {"vendor": {"id": "V-42"}},
        {"payment_terms": {"days": 30}},
        {"payment_terms": None},
        {"source": {"system": "sap-ecc"}},
        {"attributes": {"po": "1"}},
        {"attributes": {}},
    ],
)
def test_different_content_has_a_different_digest(changes: dict[str, Any]) -> None:
    assert event_of(body(**changes)).digest != event_of(BODY).digest


DIGESTS: dict[Stage, dict[str, str]] = {
    "ingestion": {"received": "56c6e72e75b3fb48eae29530"},
    "authorization": {"approved": "d4e9c032beb6ab86e90e2f59"},
    "reconciliation": {"mismatched": "ce38c0868e364b1ea3cae4be"},
    "posting": {"failed": "387d9ce9e990f848146b28d9", "posted": "ade4e9f7109b5ae83a40a7f5"},
}
"""Digests that version 0.1.0 made of VALID with these outcomes."""


@pytest.mark.parametrize("stage", STAGES)
def test_the_digest_of_an_event_without_the_fields_added_since_is_that_of_0_1_0(stage: Stage) -> None:
    for status, digest in DIGESTS[stage].items():
        absent: dict[str, Any] = {name: [] if name == "purchase_orders" else None for name in OPTIONAL_FIELDS}
        assert event_of(body(status=status), stage).digest == digest
        assert event_of(body(status=status, **absent), stage).digest == digest
    terms: dict[str, Any] = {"days": 30, "due_date": None, "baseline_date": None, "cash_discounts": []}
    assert event_of(body(payment_terms=terms)).digest == "6e0e3dafeed30fcf4a200773"
    assert event_of(body(payment_terms={"cash_discounts": []}, attributes={})).digest == "2d57fe66b40aafb7a9b8c1e9"


@pytest.mark.parametrize(
    "changes",
    [
        *({name: [] if name == "purchase_orders" else None} for name in (*OPTIONAL_FIELDS, "payment")),
        {"number": "RE-2026-0816"},
        {"issue_date": "2026-11-19"},
        {"buyer__id": "2000"},
        {"buyer__name": None},
        {"purchase_orders": ["4500012346", "4500012345"]},
        {"actor__id": "lee@example.com"},
        {"actor__kind": "system"},
        {"reason__code": "PRI"},
        {"reason__text": None},
        {"payment__paid_on": "2026-12-19"},
        {"payment__amount": "1218.76"},
        {"payment__discount_taken": None},
        {"payment_terms__baseline_date": "2026-11-22"},
        {"payment_terms__cash_discounts__1__percent": "2"},
        {"payment_terms__cash_discounts__0__days": 8},
        {"payment_terms__cash_discounts": []},
    ],
)
def test_a_difference_in_an_optional_field_changes_the_digest(changes: dict[str, Any]) -> None:
    assert event_of(posted(**changes), "posting").digest != event_of(posted(), "posting").digest


def test_equivalent_optional_fields_have_the_same_digest() -> None:
    reordered = {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value for name, value in POSTED.items()
    }
    for same in (
        json.dumps(reordered, indent=1).encode(),
        posted(payment__amount="1218.75", payment__discount_taken="31.25", imported=False),
        posted().replace(b"two of ten", b"two\\u0020of ten"),
    ):
        assert event_of(same, "posting") == event_of(posted(), "posting")
    thirty = event_of(posted(payment__discount_taken="30.00"), "posting")
    assert event_of(posted(payment__discount_taken="30"), "posting") == thirty


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("9" * 18, "EUR", "9" * 18),
        ("-1" + "0" * 17, "EUR", "-1" + "0" * 17),
        ("9" * 17 + ".5", "EUR", "9" * 17 + ".5"),
        ("9" * 16 + ".5", "EUR", "9" * 16 + ".50"),
        ("9" * 15 + ".12", "CLF", "9" * 15 + ".12"),
        ("1250", "EUR", "1250.00"),
        ("0", "CLF", "0.0000"),
        ("1" + "0" * 17, "JPY", "1" + "0" * 17),
    ],
)
def test_the_request_body_of_an_event_has_no_more_digits_than_the_parser_accepts(
    amount: str, currency: str, expected: str
) -> None:
    """The parser adds zeros up to the currency's decimals, which may make more than 18 digits."""
    payment = {"paid_on": "2026-12-20", "amount": amount, "discount_taken": amount}
    event = event_of(posted(amount=amount, currency=currency, payment=payment), "posting")
    sent = event.to_body()
    assert (sent["amount"], sent["payment"].amount, sent["payment"].discount_taken) == (expected,) * 3
    assert event_of(msgspec.json.encode(sent), "posting") == event


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(event_bodies())
def test_a_valid_event_equals_the_event_of_its_request_body(drawn: tuple[Stage, dict[str, Any]]) -> None:
    stage, sent = drawn
    event = parse_event(stage, json.dumps(sent).encode(), NOW)
    assert isinstance(event, Event), event
    assert parse_event(stage, msgspec.json.encode(event.to_body()), NOW) == event


def test_quotation_marks_in_content_do_not_cause_equal_digests() -> None:
    one, other = {"a": '","b":"'}, {"a": "", "b": ""}
    assert event_of(body(attributes=one)).digest != event_of(body(attributes=other)).digest


# Refused events


def test_all_errors_of_schema_and_rules_are_reported_at_once() -> None:
    sent = body(
        status="approvd",
        amount="1.234",
        occurred_at="2026-11-25T10:16:00Z",
        vendor={"name": "", "country": "DEU"},
        payment_terms={"days": 1.5, "due_date": "3000-01-01"},
        attributes={"a": "ü" * 2048},
        extra=1,
    )
    invalid = invalid_event_of(sent)
    assert {error.pointer: error.kind for error in invalid.errors} == {
        "/status": "not a choice",
        "/amount": "too many decimals",
        "/occurred_at": "in the future",
        "/vendor/id": "missing",
        "/vendor/name": "empty",
        "/vendor/country": "wrong form",
        "/payment_terms/days": "wrong type",
        "/payment_terms/due_date": "out of range",
        "/attributes": "too large",
        "/extra": "unknown field",
    }
    assert (invalid.status, invalid.event_id) == (400, "01JD8Y6QZ3")
    assert invalid.summary == "the event is not valid: 10 errors"
    assert sorted(invalid.reasons) == [
        "amount: too many decimals",
        "attributes: too large",
        "event: unknown field",
        "occurred_at: in the future",
        "payment_terms.days: wrong type",
        "payment_terms.due_date: out of range",
        "status: not a choice",
        "vendor.country: wrong form",
        "vendor.id: missing",
        "vendor.name: empty",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"number": ""}, {"/number": "empty"}),
        ({"number": "x" * 65}, {"/number": "too long"}),
        ({"number": 815}, {"/number": "wrong type"}),
        ({"issue_date": "20261120"}, {"/issue_date": "wrong form"}),
        ({"issue_date": "2026-11-20T00:00:00Z"}, {"/issue_date": "wrong form"}),
        ({"issue_date": "2026-11-31"}, {"/issue_date": "wrong form"}),
        ({"issue_date": "1969-12-31"}, {"/issue_date": "out of range"}),
        ({"issue_date": 20261120}, {"/issue_date": "wrong type"}),
        ({"buyer": "1000"}, {"/buyer": "wrong type"}),
        ({"buyer": {}}, {"/buyer/id": "missing"}),
        ({"buyer__id": "a b"}, {"/buyer/id": "wrong form"}),
        ({"buyer__name": ""}, {"/buyer/name": "empty"}),
        ({"buyer__country": "DE"}, {"/buyer/country": "unknown field"}),
        ({"purchase_orders": None}, {"/purchase_orders": "wrong type"}),
        ({"purchase_orders": "4500012345"}, {"/purchase_orders": "wrong type"}),
        ({"purchase_orders": ["1"] * 21}, {"/purchase_orders": "too many"}),
        ({"purchase_orders": ["1", "", 3]}, {"/purchase_orders/1": "empty", "/purchase_orders/2": "wrong type"}),
        ({"actor": {"id": "kim"}}, {"/actor/kind": "missing"}),
        ({"actor__kind": "robot"}, {"/actor/kind": "not a choice"}),
        ({"actor__id": "x" * 65}, {"/actor/id": "too long"}),
        ({"reason": {"text": "broken"}}, {"/reason/code": "missing"}),
        ({"reason__code": ""}, {"/reason/code": "empty"}),
        ({"reason__text": "x" * 1025}, {"/reason/text": "too long"}),
        ({"reason": "QUA"}, {"/reason": "wrong type"}),
        ({"payment_terms__baseline_date": "3000-01-01"}, {"/payment_terms/baseline_date": "out of range"}),
        ({"payment_terms__cash_discounts": None}, {"/payment_terms/cash_discounts": "wrong type"}),
        ({"payment_terms__cash_discounts": [{}]}, {
            "/payment_terms/cash_discounts/0/percent": "missing", "/payment_terms/cash_discounts/0/days": "missing",
        }),
        ({"payment_terms__cash_discounts": TERMS["cash_discounts"] * 2}, {  # type: ignore[operator]
            "/payment_terms/cash_discounts": "too many",
        }),
        ({"payment_terms__cash_discounts__1__days": 3651}, {"/payment_terms/cash_discounts/1/days": "too large"}),
        ({"payment_terms__cash_discounts__1__days": 1.5}, {"/payment_terms/cash_discounts/1/days": "wrong type"}),
        ({"payment_terms__cash_discounts__0__net": 1}, {"/payment_terms/cash_discounts/0/net": "unknown field"}),
        *(
            ({"payment_terms__cash_discounts__0__percent": value}, {
                "/payment_terms/cash_discounts/0/percent": "wrong form",
            })
            for value in ("100", "-1", "2.", ".5", "2,5", "2.12345", "", "1e1", "٣", "3%", "3\n")
        ),
        ({"payment": {}}, {"/payment/paid_on": "missing", "/payment/amount": "missing"}),
        ({"payment__paid_on": "2026-02-30"}, {"/payment/paid_on": "wrong form"}),
        ({"payment__paid_on": "1969-12-31"}, {"/payment/paid_on": "out of range"}),
        ({"payment__amount": "1218.755"}, {"/payment/amount": "too many decimals"}),
        ({"payment__amount": "1" * 17 + ".01"}, {"/payment/amount": "too many digits"}),
        ({"payment__amount": "1,00"}, {"/payment/amount": "wrong form"}),
        ({"payment__amount": 1218.75}, {"/payment/amount": "wrong type"}),
        ({"payment__amount": None}, {"/payment/amount": "wrong type"}),
        ({"payment__discount_taken": "1.234"}, {"/payment/discount_taken": "too many decimals"}),
        ({"payment__currency": "EUR"}, {"/payment/currency": "unknown field"}),
        ({"currency": "JPY", "amount": "1250"}, {
            "/payment/amount": "too many decimals", "/payment/discount_taken": "too many decimals",
        }),
        ({"status": "failed"}, {"/payment": "not allowed"}),
    ],
)  # fmt: skip
def test_each_error_of_an_optional_field_is_reported_with_its_pointer(
    changes: dict[str, Any], expected: dict[str, str]
) -> None:
    assert errors_of(posted(**changes), "posting") == expected


def test_errors_of_optional_fields_are_counted_by_few_reasons() -> None:
    sent = posted(
        purchase_orders=["", "x" * 65, "1"],
        payment_terms__cash_discounts__1__percent="100",
        payment_terms__cash_discounts__0__days=-1,
        payment__amount="1.234",
    )
    assert sorted(invalid_event_of(sent, "posting").reasons) == [
        "payment.amount: too many decimals",
        "payment_terms.cash_discounts.days: too small",
        "payment_terms.cash_discounts.percent: wrong form",
        "purchase_orders: empty",
        "purchase_orders: too long",
    ]


@pytest.mark.parametrize("stage", ["ingestion", "authorization", "reconciliation"])
def test_only_a_posting_has_a_payment(stage: Stage) -> None:
    sent = body(status=SUCCESS_STATUS[stage], payment=PAYMENT)
    assert errors_of(sent, stage) == {"/payment": "unknown field"}
    line = parse_line(b'{"stage": "%b", "event": %b}' % (stage.encode(), sent), NOW)
    assert isinstance(line, InvalidEvent)
    assert [error.pointer for error in line.errors] == ["/event/payment"]


def test_a_payment_is_no_error_of_a_line_without_a_stage() -> None:
    line = parse_line(b'{"event": ' + posted() + b"}", NOW)
    assert isinstance(line, InvalidEvent)
    assert {error.pointer: error.kind for error in line.errors} == {"/stage": "missing"}


@pytest.mark.parametrize("field", [name for name in VALID if name not in ("payment_terms", "attributes")])
def test_a_missing_required_field_is_reported(field: str) -> None:
    sent = json.dumps({name: value for name, value in VALID.items() if name != field}).encode()
    assert errors_of(sent) == {f"/{field}": "missing"}


@pytest.mark.parametrize("field", POSTED)
@pytest.mark.parametrize("value", [1, 1.5, True, [], [1], "\x00", "", {"": {}}, 10**30])
def test_a_value_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    if (field, value) != ("purchase_orders", []):
        assert all(pointer.startswith(f"/{field}") for pointer in errors_of(posted(**{field: value}), "posting"))


@pytest.mark.parametrize("field", [name for name in VALID if name != "payment_terms"])
def test_null_is_refused_for_a_required_field(field: str) -> None:
    assert errors_of(body(**{field: None})).keys() == {f"/{field}"}


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("100.5", "JPY", {"/amount": "too many decimals"}),
        ("100.500", "JPY", {"/amount": "too many decimals"}),
        ("1.0", "JPY", {"/amount": "too many decimals"}),
        ("1.234", "EUR", {"/amount": "too many decimals"}),
        ("1.2345", "BHD", {"/amount": "too many decimals"}),
        ("9" * 17 + ".99", "EUR", {"/amount": "too many digits"}),
        ("1", "EUX", {"/currency": "unknown currency"}),
        ("1", "XAU", {"/currency": "unknown currency"}),
        ("1", "XXX", {"/currency": "unknown currency"}),
        ("1", "eur", {"/currency": "wrong form"}),
        ("1", "EUR\n", {"/currency": "wrong form"}),
        ("1" * 19, "EUX", {"/amount": "wrong form", "/currency": "unknown currency"}),
        ("1." + "1" * 18, "EUX", {"/amount": "too many digits", "/currency": "unknown currency"}),
        *(
            (value, "EUR", {"/amount": "wrong form"})
            for value in (
                "1e5",
                "1,00",
                "+1",
                ".5",
                "1.",
                "",
                " 1",
                "1 ",
                "1\n",
                "٣",
                "1_000",
                "NaN",
                "Infinity",
                "0x1",
                "--1",
            )
        ),
    ],
)
def test_invalid_amounts_and_currencies_are_refused(amount: str, currency: str, expected: dict[str, str]) -> None:
    assert errors_of(body(amount=amount, currency=currency)) == expected


def test_too_many_digits_and_decimals_are_both_reported() -> None:
    details = [error.detail for error in invalid_event_of(body(amount="1." + "1" * 18)).errors]
    assert details == [
        '"1.111111111111111111" has 19 digits: use at most 18',
        '"1.111111111111111111" has 18 after the point, more than EUR has: use at most 2',
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("2026-11-24T10:16:00.000001Z", "in the future"),
        ("9999-12-31T23:59:59-23:59", "in the future"),
        ("1969-12-31T23:59:59.999999Z", "before 1970"),
        ("0001-01-01T00:00:00+23:59", "before 1970"),
        ("2026-11-23T10:15:00", "no offset"),
        ("2026-11-23", "wrong form"),
        ("2026-02-30T00:00:00Z", "wrong form"),
        ("2026-11-23T10:15:00Z\n", "wrong form"),
        ("٢026-11-23T10:15:00Z", "wrong form"),
        ("1795428900", "wrong form"),
        (1795428900, "wrong type"),
    ],
)
def test_invalid_instants_are_refused(text: object, kind: str) -> None:
    assert errors_of(body(occurred_at=text)) == {"/occurred_at": kind}


@pytest.mark.parametrize("due_date", ["1969-12-31", "3000-01-01", "9999-12-31", "0001-01-01"])
def test_due_dates_out_of_range_are_refused(due_date: str) -> None:
    assert errors_of(body(payment_terms={"due_date": due_date})) == {"/payment_terms/due_date": "out of range"}


@pytest.mark.parametrize("value", ["", "a b", "a\n", "a\x00", "é", "\u0661", "a" * 129, "a\u2028", "\x7f"])
def test_invalid_identifiers_are_refused(value: str) -> None:
    assert errors_of(body(event_id=value, invoice_id=value)).keys() == {"/event_id", "/invoice_id"}
    assert invalid_event_of(body(event_id=value)).event_id is None


@pytest.mark.parametrize("value", ["a\x00b", "a\n", "\x1f", "a\x7f", "\x80", "a\x9b31mb", "ü\x9f", "a\x85"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_control_characters_in_text_are_refused(value: str, ascii_only: bool) -> None:
    changes = {
        "vendor": {"id": "V", "name": value, "tier": value},
        "source": {"system": value, "region": value, "account_id": value},
        "attributes": {value: "", "a": value},
    }
    pointers = errors_of(json.dumps(VALID | changes, ensure_ascii=ascii_only).encode())
    fixed = {"/vendor/name", "/vendor/tier", "/source/system", "/source/region", "/source/account_id", "/attributes/a"}
    assert fixed < pointers.keys()
    assert len(pointers) == len(fixed) + 1
    assert set(pointers.values()) == {"wrong form"}
    for name, change in changes.items():
        # One at a time, to test that the fast path refuses each: it does not check patterns.
        sent = json.dumps(VALID | {name: change}, ensure_ascii=ascii_only).encode()
        assert isinstance(parse_event("authorization", sent, NOW), InvalidEvent)
        assert isinstance(parse_line(b'{"stage": "authorization", "event": ' + sent + b"}", NOW), InvalidEvent)
        assert isinstance(batch_of(sent)[0], InvalidEvent)


@pytest.mark.parametrize("value", ["a\x00b", "a\n", "\x1f", "a\x7f", "\x80", "a\x9b31mb", "ü\x9f", "a\x85"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "path", ["number", "buyer__name", "purchase_orders__1", "actor__id", "reason__code", "reason__text"]
)
def test_control_characters_in_an_optional_field_are_refused(value: str, ascii_only: bool, path: str) -> None:
    sent = json.dumps(json.loads(posted(**{path: value})), ensure_ascii=ascii_only).encode()
    assert errors_of(sent, "posting") == {f"/{path.replace('__', '/')}": "wrong form"}
    assert isinstance(parse_line(b'{"stage": "posting", "event": ' + sent + b"}", NOW), InvalidEvent)
    [result] = parse_batch("posting", b'{"events": [' + sent + b"]}", NOW)  # type: ignore[misc]
    assert isinstance(result, InvalidEvent)


def test_unusual_text_without_control_characters_is_accepted_unchanged() -> None:
    name = "Ünïcode \u00a0\u2028\u202e 😀"
    for ascii_only in (True, False):
        sent = json.dumps(VALID | {"attributes": {"a": name}}, ensure_ascii=ascii_only).encode()
        assert event_of(sent).facts.attributes == {"a": name}


def test_stored_text_with_control_characters_can_still_be_read() -> None:
    """Stored records use the same types for vendors and sources."""
    vendor = Vendor("V", "a\x9bb", tier="\x80")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(vendor), type=Vendor) == vendor


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ("2017-01-01T00:59:60+01:00", "2016-12-31T23:59:59Z"),
        ("2016-12-31T15:59:60.25-08:00", "2016-12-31T23:59:59.25Z"),
        ("1998-06-30t23:59:60z", "1998-06-30T23:59:59Z"),
    ],
)
def test_a_leap_second_is_read_as_the_second_before(sent: str, means: str) -> None:
    event = event_of(body(occurred_at=sent))
    assert event == event_of(body(occurred_at=means))
    assert batch_of(body(occurred_at=sent), BODY) == [event, event_of(BODY)]
    assert parse_line(b'{"stage": "authorization", "event": ' + body(occurred_at=sent) + b"}", NOW) == event
    assert parse(sent.upper()) == parse(means)


@pytest.mark.parametrize("sent", ["2016-12-31T22:59:60Z", "2016-12-30T23:59:60Z", "2016-12-31T23:59:61Z", "x:60"])
def test_second_60_that_is_not_a_leap_second_is_refused(sent: str) -> None:
    assert errors_of(body(occurred_at=sent)).keys() == {"/occurred_at"}


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"ü": "ü" * 2048}, "too large"),
        ({f"{n:02}": "x" * 127 for n in range(32)}, "too large"),
        ({str(n): "" for n in range(33)}, "too many"),
    ],
)
def test_too_many_or_too_large_attributes_are_refused(attributes: dict[str, str], kind: str) -> None:
    assert errors_of(body(attributes=attributes)) == {"/attributes": kind}
    assert errors_of(json.dumps(VALID | {"attributes": attributes}, ensure_ascii=False).encode()) == {
        "/attributes": kind
    }


def test_reasons_do_not_contain_names_chosen_by_the_sender() -> None:
    sent = body(**{f"x/{n}": 1 for n in range(20)}, attributes={f"a{n}": 1 for n in range(20)})
    assert set(invalid_event_of(sent).reasons) == {"event: unknown field", "attributes: wrong type"}


# Invalid and unusual JSON


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", {"": "not JSON"}),
        (b" \r\n", {"": "not JSON"}),
        (b"\x00", {"": "not JSON"}),
        (b"{", {"": "not JSON"}),
        (BODY[:-1], {"": "not JSON"}),
        (BODY + b"x", {"": "not JSON"}),
        (BODY + BODY, {"": "not JSON"}),
        (BODY[:-1] + b",}", {"": "not JSON"}),
        (b"\xef\xbb\xbf" + BODY, {"": "not JSON"}),
        (BODY.decode().encode("utf-16"), {"": "not UTF-8"}),
        (BODY.decode().encode("utf-16-be"), {"": "not JSON"}),
        (replaced(b"Acme", b"\xff"), {"": "not UTF-8"}),
        (replaced(b"Acme", b"\xed\xa0\x80"), {"": "not UTF-8"}),
        (replaced(b"Acme", b"\xc0\xaf"), {"": "not UTF-8"}),
        (replaced(b"Acme", b"\x00"), {"": "not JSON"}),
        (replaced(b"Acme", b"\\x41"), {"": "not JSON"}),
        (replaced(b"Acme", b"\\ud800"), {"/vendor/name": "not text"}),
        (replaced(b"Acme", b"\\udc00\\ud800"), {"/vendor/name": "not text"}),
        (replaced(b'"po"', b'"\\udfff"'), {"/attributes/\\udfff": "not text"}),
        (replaced(b'"1250.00"', b"NaN"), {"/amount": "not a number"}),
        (replaced(b'"1250.00"', b"-Infinity"), {"/amount": "not a number"}),
        (replaced(b"30,", b"NaN,"), {"/payment_terms/days": "not a number"}),
        (replaced(b"30,", b"1e400,"), {"/payment_terms/days": "wrong type"}),
        (replaced(b"30,", b"1e2,"), {"/payment_terms/days": "wrong type"}),
        (replaced(b"30,", b"30.0,"), {"/payment_terms/days": "wrong type"}),
        (replaced(b"30,", b"-0.0,"), {"/payment_terms/days": "wrong type"}),
        (replaced(b"30,", b"-1,"), {"/payment_terms/days": "too small"}),
        (replaced(b"30,", b"9" * 5000 + b","), {"/payment_terms/days": "too large"}),
        (replaced(b"30,", b"-" + b"9" * 5000 + b","), {"/payment_terms/days": "too small"}),
        (replaced(b"30,", b"030,"), {"": "not JSON"}),
        (replaced(b"30,", "\u0663,".encode()), {"": "not JSON"}),
        (b"null", {"": "wrong type"}),
        (b"[]", {"": "wrong type"}),
        (b"[" + BODY + b"]", {"": "wrong type"}),
        (b"1e400", {"": "wrong type"}),
        (b"NaN", {"": "not a number"}),
        (b"[" * 10_000, {"": "nested too deep"}),
        (b"[" * 10_000 + b"]" * 10_000, {"": "nested too deep"}),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, {"": "nested too deep"}),
        (replaced(b'"1250.00"', b"[" * 10_000 + b"]" * 10_000), {"": "nested too deep"}),
    ],
    ids=range(40),
)
def test_hostile_bodies_are_refused_with_the_right_error(sent: bytes, expected: dict[str, str]) -> None:
    assert errors_of(sent) == expected
    assert invalid_event_of(sent).status == 400


@pytest.mark.parametrize("number", ["1e400", "1e2", "30.0", "-1E+5"])
def test_a_number_is_shown_as_it_was_written(number: str) -> None:
    (error,) = invalid_event_of(replaced(b"30,", number.encode() + b",")).errors
    assert error.detail.startswith(f"{number} is not a whole number")


def test_minus_zero_is_zero() -> None:
    event = event_of(replaced(b"30,", b"-0,"))
    assert event.facts.payment_terms is not None
    assert event.facts.payment_terms.days == 0


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        (replaced(b'"amount"', b'"amount": "1.00", "amount"'), "/amount"),
        (replaced(b'"amount"', b'"\\u0061mount": "1.00", "amount"'), "/amount"),
        (replaced(b'"amount"', b'"amount": "1250.00", "amount"'), "/amount"),
        (replaced(b'"days"', b'"days": 30, "days"'), "/payment_terms/days"),
        (replaced(b'"po"', b'"po": "\\"", "po"'), "/attributes/po"),
        (replaced(b'"tier": "gold"', b'"tier": null, "tier": "gold"'), "/vendor/tier"),
        (replaced(b'"tier": "gold"', b'"tier": "gold", "tier": null'), "/vendor/tier"),
        (replaced(b'"tier": "gold"', b'"tier": null, "tier": null'), "/vendor/tier"),
        (replaced(b'"Acme GmbH"', b'"\\u0022\\u0022", "tier": null'), "/vendor/tier"),
    ],
)
def test_a_duplicate_key_is_refused(sent: bytes, pointer: str) -> None:
    assert errors_of(sent) == {pointer: "repeated"}


@pytest.mark.parametrize(
    ("old", "new", "pointer"),
    [
        (b'"number"', b'"number": "1", "number"', "/number"),
        (b'"issue_date"', b'"issue_date": "2026-11-20", "issue_date"', "/issue_date"),
        (b'"purchase_orders"', b'"purchase_orders": [], "purchase_orders"', "/purchase_orders"),
        (b'"id": "1000"', b'"id": "1000", "id": "1000"', "/buyer/id"),
        (b'"kind"', b'"kind": "person", "kind"', "/actor/kind"),
        (b'"code"', b'"code": "PRI", "code"', "/reason/code"),
        (b'"text"', b'"text": null, "text"', "/reason/text"),
        (b'"percent": "3"', b'"percent": "3", "percent": "3"', "/payment_terms/cash_discounts/0/percent"),
        (b'"days": 14', b'"days": 14, "days": 14', "/payment_terms/cash_discounts/1/days"),
        (b'"paid_on"', b'"paid_on": "2026-12-19", "paid_on"', "/payment/paid_on"),
        (b'"discount_taken"', b'"discount_taken": null, "discount_taken"', "/payment/discount_taken"),
        (b'"payment"', b'"payment": {"a": 1}, "payment"', "/payment"),
    ],
)
@pytest.mark.parametrize("imported", [True, False])
def test_a_duplicate_key_of_an_optional_field_is_refused(old: bytes, new: bytes, pointer: str, imported: bool) -> None:
    sent = posted(imported=imported)
    assert sent.count(old) == 1
    assert errors_of(sent.replace(old, new), "posting") == {pointer: "repeated"}


def test_duplicate_keys_are_reported_with_all_other_errors() -> None:
    sent = replaced(b'"amount": "1250.00"', b'"amount": "1", "amount": 2, "extra": {"a": 1, "a": NaN}')
    assert [(error.pointer, error.kind) for error in invalid_event_of(sent).errors] == [
        ("/amount", "repeated"),
        ("/extra/a", "repeated"),
        ("/extra/a", "not a number"),
        ("/amount", "wrong type"),
        ("/extra", "unknown field"),
    ]


def test_a_body_that_is_too_large_is_refused_without_parsing() -> None:
    assert isinstance(parse_event("authorization", BODY.ljust(MAX_EVENT_BYTES), NOW), Event)
    for size in (MAX_EVENT_BYTES + 1, 10_000_000):
        invalid = invalid_event_of(BODY.ljust(size))
        assert (invalid.status, invalid.reasons) == (413, ["event: too large"])
    assert isinstance(batch := parse_batch("authorization", b" " * (MAX_BATCH_BYTES + 1), NOW), InvalidEvent)
    assert isinstance(line := parse_line(b" " * (MAX_LINE_BYTES + 1), NOW), InvalidEvent)
    assert (batch.status, line.status) == (413, 413)


# Batches


def batch_of(*events: bytes, before: bytes = b'{"events": [', after: bytes = b"]}") -> Any:
    return parse_batch("authorization", before + b", ".join(events) + after, NOW)


def test_a_batch_has_one_result_per_event_in_order() -> None:
    wrong, twice = body(currency="EUX"), replaced(b'"po"', b'"po": "1", "po"')
    results = batch_of(BODY, wrong, b"null", twice, replaced(b"Acme", b"\xff"), b" " * MAX_EVENT_BYTES + BODY, BODY)
    assert results[0] == results[5] == results[6] == event_of(BODY)
    assert results[1] == invalid_event_of(wrong)
    assert results[2].errors[0].kind == "wrong type"
    assert results[3] == invalid_event_of(twice)
    assert results[4].errors[0].kind == "not UTF-8"


@pytest.mark.parametrize("value", [replaced(b"Acme", b"\\ud800"), replaced(b'"1250.00"', b"NaN"), b"NaN"])
def test_an_event_that_msgspec_cannot_decode_does_not_affect_the_others(value: bytes) -> None:
    twice = replaced(b'"po"', b'"po": "1", "po"')
    results = batch_of(BODY, value, twice, BODY)
    assert results == [event_of(BODY), invalid_event_of(value), invalid_event_of(twice), event_of(BODY)]


def test_an_event_of_a_batch_can_be_too_large() -> None:
    large = b'{"x": "' + b"x" * MAX_EVENT_BYTES + b'"}'
    assert [getattr(result, "status", None) for result in batch_of(BODY, large)] == ["approved", 413]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", {"": "not JSON"}),
        (b"[]", {"": "wrong type"}),
        (b"{}", {"/events": "missing"}),
        (b'{"events": []}', {"/events": "too few"}),
        (b'{"events": {}}', {"/events": "wrong type"}),
        (b'{"events": NaN}', {"/events": "wrong type"}),
        (b'{"events": [' + b"{}," * 100 + b"{}]}", {"/events": "too many"}),
        (b'{"events": [{}], "more": 1}', {"/more": "unknown field"}),
        (b'{"events": [{}], "events": [{}]}', {"/events": "repeated"}),
        (b'{"events": [' + b"[" * 10_000 + b"]" * 10_000 + b"]}", {"": "nested too deep"}),
        (b'{"events": [{]}', {"": "not JSON"}),
    ],
)
def test_an_invalid_batch_is_refused_as_a_whole(sent: bytes, expected: dict[str, str]) -> None:
    invalid = parse_batch("authorization", sent, NOW)
    assert isinstance(invalid, InvalidEvent)
    assert {error.pointer: error.kind for error in invalid.errors} == expected


def test_a_batch_of_a_hundred_events_is_accepted() -> None:
    assert batch_of(*[BODY] * 100) == [event_of(BODY)] * 100


@pytest.mark.parametrize(("limit", "count"), [(100, 101), (2, 3), (2, 101)])
@pytest.mark.parametrize("more", [b"", b', "more": 1'])
def test_a_batch_above_the_cells_limit_is_refused(limit: int, count: int, more: bytes) -> None:
    sent = b'{"events": [' + b", ".join([BODY] * count) + b"]" + more + b"}"
    invalid = parse_batch("authorization", sent, NOW, limit)
    assert isinstance(invalid, InvalidEvent)
    details = {error.pointer: error.detail for error in invalid.errors}
    assert (
        details["/events"] == f"has {count} events, more than {limit}, the most that this cell takes: send less at once"
    )
    assert len(details) == 1 + bool(more)


# Lines


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_line_gives_the_same_event(ending: bytes) -> None:
    assert parse_line(b'{"stage": "authorization", "event": ' + BODY + b"}" + ending, NOW) == event_of(BODY)
    assert parse_line(b'{"event": ' + BODY + b', "stage": "authorization"}' + ending, NOW) == event_of(BODY)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\n", {"": "not JSON"}),
        (b"[]", {"": "wrong type"}),
        (b"{}", {"/stage": "missing", "/event": "missing"}),
        (b'{"stage": "authorization"}', {"/event": "missing"}),
        (b'{"stage": "authorization", "event": null}', {"/event": "wrong type"}),
        (b'{"stage": "authorisation", "event": ' + BODY + b"}", {"/stage": "not a choice"}),
        (b'{"stage": ["a"], "event": ' + BODY + b"}", {"/stage": "not a choice"}),
        (b'{"stage": "posting", "event": ' + BODY + b"}", {"/event/status": "not a choice"}),
        (b'{"event": ' + body(currency="EUX") + b"}", {"/stage": "missing", "/event/currency": "unknown currency"}),
        (b'{"stage": "authorization", "event": ' + BODY + b', "x": 1}', {"/x": "unknown field"}),
        (b'{"stage": "posting", "stage": "authorization", "event": ' + BODY + b"}", {"/stage": "repeated"}),
        (b'{"stage": "authorization", "event": {}, "event": ' + BODY + b"}", {"/event": "repeated"}),
        (
            b'{"stage": "authorization", "event": ' + replaced(b'"po"', b'"po": "1", "po"') + b"}",
            {"/event/attributes/po": "repeated"},
        ),
        (
            b'{"stage": "authorization", "event": ' + replaced(b"Acme", b"\\ud800") + b"}",
            {"/event/vendor/name": "not text"},
        ),
        (b'{"stage": "authorization", "event": ' + b"[" * 10_000, {"": "nested too deep"}),
    ],
    ids=range(15),
)
def test_an_invalid_line_is_refused(line: bytes, expected: dict[str, str]) -> None:
    invalid = parse_line(line, NOW)
    assert isinstance(invalid, InvalidEvent)
    assert {error.pointer: error.kind for error in invalid.errors} == expected


def test_reasons_are_the_same_for_an_event_and_a_line() -> None:
    line = parse_line(b'{"stage": "authorization", "event": ' + body(currency="EUX") + b"}", NOW)
    assert isinstance(line, InvalidEvent)
    assert line.reasons == invalid_event_of(body(currency="EUX")).reasons == ["currency: unknown currency"]
    assert line.event_id == "01JD8Y6QZ3"


# Arbitrary input


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
QUICK = settings(max_examples=300, derandomize=True, deadline=None, database=None)


def parse_every_way(sent: bytes) -> None:
    single = parse_event("authorization", sent, NOW)
    assert isinstance(single, Event) or (single.errors and single.reasons)
    parse_batch("authorization", sent, NOW)
    parse_line(sent, NOW)
    line = parse_line(b'{"stage":"authorization","event":' + sent + b"}", NOW)
    # An event gives the same result alone, in a line and in a batch, unless its bytes close the enclosing object.
    if isinstance(single, Event):
        assert line == single
        assert parse_batch("authorization", b'{"events":[' + sent + b"]}", NOW) == [single]


@QUICK
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(sent: bytes) -> None:
    parse_every_way(sent)


@QUICK
@given(JSON, st.sampled_from(["", *VALID]))
def test_arbitrary_json_never_raises(data: object, field: str) -> None:
    parse_every_way(json.dumps(VALID | {field: data} if field else data).encode())


@QUICK
@given(st.integers(0, len(BODY)), st.integers(0, 4), st.binary(max_size=6) | st.sampled_from([b'"', b"\\", b",", b"}"]))
def test_mutations_of_a_valid_event_never_raise(at: int, dropped: int, put: bytes) -> None:
    parse_every_way(BODY[:at] + put + BODY[at + dropped :])


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.from_regex(r"\A-?[0-9]{1,19}(\.[0-9]{1,5})?\Z"),
        "currency": st.sampled_from(["EUR", "JPY", "BHD", "XAU", "EUX"]),
        "vendor": st.fixed_dictionaries(
            {"id": st.just("V")}, optional={"name": st.text(max_size=4) | st.just("\x9b"), "tier": st.none()}
        ),
        "payment_terms": st.sampled_from([None, {}, {"days": None}, {"days": 4000}, {"due_date": "3000-01-01"}])
        | optional_fields(sometimes_wrong)["payment_terms"],
        "attributes": st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.just("x" * 4000), max_size=3),
        "occurred_at": st.datetimes(timezones=st.just(None) | st.timezones()).map(lambda moment: moment.isoformat()),
    },
)


@QUICK
@given(CHANGES, st.booleans(), st.sampled_from([None, 0, 4]))
def test_the_fast_and_the_slow_path_agree(changes: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    sent = json.dumps(VALID | changes, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert parsing._parse_slow("authorization", sent, NOW) == parse_event("authorization", sent, NOW)


@QUICK
@given(event_bodies(sometimes_wrong), st.booleans())
def test_the_fast_and_the_slow_path_agree_on_optional_fields(
    drawn: tuple[Stage, dict[str, Any]], ascii_only: bool
) -> None:
    stage, sent = drawn
    encoded = json.dumps(sent, ensure_ascii=ascii_only).encode()
    assert parsing._parse_slow(stage, encoded, NOW) == parse_event(stage, encoded, NOW)


def test_a_plain_event_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(parsing, "LenientJson")
    assert isinstance(parse_event("authorization", BODY, NOW), Event)
    assert isinstance(parse_event("posting", posted(imported=True), NOW), Event)
    assert isinstance(parse_line(b'{"stage": "authorization", "event": ' + BODY + b"}", NOW), Event)
    assert isinstance(batch_of(BODY), list)


def test_an_event_at_most_a_day_in_the_future_is_accepted() -> None:
    event = parse_event("authorization", BODY, parse("2026-11-22T10:15:00Z"))
    assert isinstance(event, Event)
    assert event.occurred_at == event.received_at + DAY
    assert isinstance(parse_event("authorization", BODY, event.received_at - 1), InvalidEvent)


def test_payment_terms_are_kept_unchanged() -> None:
    event = event_of(body(payment_terms={"due_date": "2026-12-23"}))
    assert event.facts.payment_terms == PaymentTerms(None, event.facts.payment_terms.due_date)  # type: ignore[union-attr]

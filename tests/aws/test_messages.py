"""Messages: the processor reads what the producer published, in every envelope."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from bems.aws.messages import MAX_CLOCK_SKEW, InvalidMessage, Origin, TooEarly, decode_message, encode_detail
from bems.tracker.contract import Event, Stage
from bems.tracker.instants import DAY, EARLIEST, MINUTE, Instant, parse, render
from bems.tracker.parsing import parse_event
from tests.aws.cloud import envelope, event_body
from tests.tracker.event_bodies import event_bodies
from tests.tracker.samples import NOW

ORIGIN = Origin("eu-west", "eu-west-1", "123456789012")


def sent(**more: Any) -> Event:
    event = parse_event("posting", json.dumps(event_body("INV/1", "posted", "e1", **more)).encode(), NOW)
    assert isinstance(event, Event), event
    return event


def detail(**more: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encode_detail(sent(**more), ORIGIN))
    return content


def test_the_detail_has_its_documented_format() -> None:
    assert detail(attributes={"po": "1"}, payment_terms={"days": 30}) == {
        "stage": "posting",
        "event": {
            "event_id": "e1",
            "invoice_id": "INV/1",
            "status": "posted",
            "occurred_at": "2026-03-02T08:00:00Z",
            "amount": "1250.00",
            "currency": "EUR",
            "vendor": {"id": "V-42", "tier": "silver"},
            "source": {"system": "sap-ecc"},
            "payment_terms": {"days": 30},
            "attributes": {"po": "1"},
            "digest": sent(attributes={"po": "1"}, payment_terms={"days": 30}).digest,
        },
        "metadata": {
            "cell": "eu-west",
            "region": "eu-west-1",
            "account": "123456789012",
            "received_at": "2026-03-02T09:00:00Z",
        },
    }


def envelopes() -> dict[str, Any]:
    entry = {"DetailType": "InvoicePosting", "Source": "bems.eu-west", "Detail": json.dumps(detail())}
    whole = envelope(entry)
    return {
        "the envelope": whole,
        "the detail alone": detail(),
        "the detail as text": {**whole, "detail": json.dumps(detail())},
        "the custom bus's envelope": {"Data": whole, "SystemMetadata": {}},
        "SNS's envelope": {"Type": "Notification", "Message": json.dumps(whole)},
    }


@pytest.mark.parametrize("envelope_name", envelopes())
def test_a_message_is_read_in_any_envelope(envelope_name: str) -> None:
    assert decode_message(json.dumps(envelopes()[envelope_name]), NOW) == sent()


@settings(derandomize=True, max_examples=200)
@given(event_bodies())
def test_every_valid_event_survives_a_round_trip(drawn: tuple[Stage, dict[str, Any]]) -> None:
    stage, body = drawn
    event = parse_event(stage, json.dumps(body).encode(), NOW)
    assert isinstance(event, Event), event
    assert decode_message(encode_detail(event, ORIGIN), NOW) == event


def test_the_largest_event_is_far_below_256_kib() -> None:
    event = sent(
        vendor={"id": "v" * 128, "name": "\u20ac" * 256, "country": "DE", "tier": "\u20ac" * 64},
        source={"system": "\u20ac" * 64, "region": "\u20ac" * 64, "account_id": "\u20ac" * 64},
        attributes={f"{n:02}": '"' * 126 for n in range(32)},
        payment_terms={
            "days": 3650,
            "due_date": "2999-12-31",
            "baseline_date": "2999-12-31",
            "cash_discounts": [{"percent": "99.9999", "days": 3650}] * 3,
        },
        number="\U0001f600" * 64,
        issue_date="2999-12-31",
        buyer={"id": "b" * 128, "name": "\U0001f600" * 256},
        purchase_orders=["\U0001f600" * 64] * 20,
        actor={"id": "\U0001f600" * 64, "kind": "person"},
        reason={"code": "\U0001f600" * 64, "text": "\U0001f600" * 1024},
        payment={"paid_on": "2999-12-31", "amount": "9" * 18, "discount_taken": "9" * 18},
    )
    assert len(encode_detail(event, ORIGIN).encode()) < 40_000
    assert decode_message(encode_detail(event, ORIGIN), NOW) == event


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "not a message"),
        ("hello", "not a message"),
        ("[]", "not a message"),
        ("{}", "missing required field"),
        ('{"detail": null}', "not a message"),
        ('{"Message": "hello"}', "not a message"),
        ("[" * 5000, "not a message"),
        (json.dumps({**detail(), "stage": "payment"}), "Invalid enum value 'payment'"),
        (json.dumps({**detail(), "metadata": {**detail()["metadata"], "received_at": "now"}}), "not a message"),
        (json.dumps({**detail(), "event": {**detail()["event"], "amount": "1,00"}}), "amount: "),
        (json.dumps({**detail(), "event": {**detail()["event"], "amount": "9.99"}}), "its digest"),
        (json.dumps({**detail(), "event": {**detail()["event"], "digest": None}}), "its digest"),
    ],
)
def test_an_invalid_message_is_rejected(body: str, problem: str) -> None:
    with pytest.raises(InvalidMessage, match=problem):
        decode_message(body, NOW)


def stating(received_at: str, **more: Any) -> str:
    """Return a message with forged times and a valid digest."""
    content = detail(**{name: value for name, value in more.items() if name != "occurred_at"})
    content["metadata"]["received_at"] = received_at
    if "occurred_at" in more:
        body = event_body("INV/1", "posted", "e1", **more)
        event = parse_event("posting", json.dumps(body).encode(), parse("9999-12-30T00:00:00Z"))
        assert isinstance(event, Event)
        content["event"] |= {"occurred_at": more["occurred_at"], "digest": event.digest}
    return json.dumps(content)


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ("9999-12-30T00:00:00Z", NOW),
        ("3000-01-01T00:00:00Z", NOW),
        ("9999-12-31T23:59:59-23:59", NOW),
        (render(NOW + 1), NOW),
        (render(NOW), NOW),
        (render(NOW - 400 * DAY), None),
        (render(NOW - 5 * MINUTE), NOW - 5 * MINUTE),
    ],
)
def test_a_received_time_in_the_future_is_replaced_by_now(stated: str, read: Instant | None) -> None:
    if read is None:
        # The event occurred long after its received time.
        with pytest.raises(InvalidMessage, match="in the future"):
            decode_message(stating(stated), NOW)
    else:
        assert decode_message(stating(stated), NOW).received_at == read


def test_an_old_received_time_is_kept() -> None:
    event = decode_message(stating("1970-01-01T00:00:00Z", occurred_at="1970-01-01T10:00:00Z"), NOW)
    assert event.received_at == EARLIEST


@pytest.mark.parametrize("stated", ["9999-12-30T00:00:00Z", "2999-01-01T00:00:00Z", render(NOW + MAX_CLOCK_SKEW + 1)])
def test_an_event_more_than_a_day_in_the_future_is_rejected(stated: str) -> None:
    assert decode_message(stating(stated, occurred_at=render(NOW + DAY)), NOW).occurred_at == NOW + DAY
    with pytest.raises(InvalidMessage, match="in the future"):
        decode_message(stating(stated, occurred_at=render(NOW + DAY + 1)), NOW)


def test_an_event_accepted_by_a_clock_ahead_is_too_early() -> None:
    ahead = NOW + 2
    message = stating(render(ahead), occurred_at=render(ahead + DAY))
    with pytest.raises(TooEarly, match="in the future"):
        decode_message(message, NOW)
    assert decode_message(message, ahead).received_at == ahead

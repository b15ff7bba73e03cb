"""Messages: what the producer publishes is what the processor reads, however it was wrapped on its way."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bems.aws.messages import Origin, Unreadable, pack_detail, read_message
from bems.tracker.contract import NEGATIVE, POSITIVE, STAGES, Event
from bems.tracker.gate import read_event
from tests.aws.cloud import envelope, event_body
from tests.tracker.samples import NOW

ORIGIN = Origin("eu-west", "eu-west-1", "123456789012")


def sent(**more: Any) -> Event:
    event = read_event("posting", json.dumps(event_body("INV/1", "posted", "e1", **more)).encode(), NOW)
    assert isinstance(event, Event), event
    return event


def detail(**more: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(pack_detail(sent(**more), ORIGIN))
    return content


def test_the_detail_is_what_other_teams_read() -> None:
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


def wrappings() -> dict[str, Any]:
    entry = {"DetailType": "InvoicePosting", "Source": "bems.eu-west", "Detail": json.dumps(detail())}
    whole = envelope(entry)
    return {
        "the envelope": whole,
        "the detail alone": detail(),
        "the detail as text": {**whole, "detail": json.dumps(detail())},
        "the custom bus's envelope": {"Data": whole, "SystemMetadata": {}},
        "SNS's envelope": {"Type": "Notification", "Message": json.dumps(whole)},
    }


@pytest.mark.parametrize("wrapping", wrappings())
def test_a_message_is_read_in_any_wrapping(wrapping: str) -> None:
    assert read_message(json.dumps(wrappings()[wrapping])) == sent()


labels = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
bodies = st.fixed_dictionaries(
    {
        "event_id": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
        "invoice_id": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
        "occurred_at": st.datetimes(datetime(1970, 1, 2), datetime(2026, 3, 1)).map(
            lambda at: at.replace(tzinfo=UTC).isoformat()
        ),
        "amount": st.tuples(st.integers(-(10**15), 10**15), st.integers(0, 99)).map(lambda n: f"{n[0]}.{n[1]:02}"),
        "vendor": st.fixed_dictionaries({"id": st.just("V")}, optional={"name": labels, "tier": labels}),
        "source": st.fixed_dictionaries({"system": labels}, optional={"region": labels}),
    },
    optional={
        "attributes": st.dictionaries(labels, labels, max_size=5),
        "payment_terms": st.fixed_dictionaries(
            {"days": st.integers(0, 3650)}, optional={"due_date": st.just("2026-05-01")}
        ),
    },
)


@settings(derandomize=True, max_examples=150)
@given(bodies, st.sampled_from(STAGES), st.booleans())
def test_every_event_that_passes_the_gate_comes_through_as_it_is(body: dict[str, Any], stage: Any, good: bool) -> None:
    status = (POSITIVE if good else NEGATIVE)[stage]
    event = read_event(stage, json.dumps({**body, "currency": "EUR", "status": status}).encode(), NOW)
    assert isinstance(event, Event), event
    assert read_message(pack_detail(event, ORIGIN)) == event


def test_the_largest_event_is_far_below_256_kib() -> None:
    event = sent(
        vendor={"id": "v" * 128, "name": "\u20ac" * 256, "country": "DE", "tier": "\u20ac" * 64},
        source={"system": "\u20ac" * 64, "region": "\u20ac" * 64, "account_id": "\u20ac" * 64},
        attributes={f"{n:02}": '"' * 126 for n in range(32)},
    )
    assert len(pack_detail(event, ORIGIN).encode()) < 40_000
    assert read_message(pack_detail(event, ORIGIN)) == event


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
def test_what_no_producer_sent_is_unreadable(body: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        read_message(body)

"""`bems send --past`: events older than the cell, without a flood of alerts."""

import json
import random
from collections import Counter
from datetime import date

import pytest

from bems.cli.commands.send import mark_imported
from bems.generator.event_log import generate
from tests.cli.cli_harness import CliHarness, event, lines
from tests.waiting import until

LAST_YEAR = list(generate(300, 5, start=date(2024, 6, 1), days=365))


def alerts_of(harness: CliHarness) -> Counter[str]:
    found = harness.bems("alerts", "--json", "--limit", "100000").json
    return Counter(alert["kind"] for alert in found["items"])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_past_year_in_any_order_raises_no_stuck_dispute_or_failed_alert(harness: CliHarness, seed: int) -> None:
    shuffled = list(LAST_YEAR)
    random.Random(seed).shuffle(shuffled)
    sent = harness.bems("send", "-", "--past", "--json", stdin=b"".join(shuffled)).json
    assert sent["events"]["accepted"] > 1_000
    assert sum(alerts_of(harness)[kind] for kind in ("stuck", "dispute", "failed")) == 0
    assert harness.bems("stuck").out == "none is stuck\n"
    harness.advance_to("2026-03-02T11:00:00Z")
    # This event is handled after every alert that was due before it.
    harness.send(event("now", occurred_at="2026-03-02T10:59:00Z"))
    assert sum(alerts_of(harness)[kind] for kind in ("stuck", "dispute", "failed")) == 0
    # Invoices of that year that are still open raise alerts a day later.
    harness.advance_to("2026-03-03T11:00:00Z")
    until(lambda: alerts_of(harness)["stuck"])


def test_without_past_old_events_count_as_new(harness: CliHarness) -> None:
    harness.bems("send", "-", stdin=b"".join(LAST_YEAR))
    assert alerts_of(harness)["dispute"] > 0


def test_an_event_keeps_its_own_imported_field(harness: CliHarness) -> None:
    ids = ("unstated", "stated", "denied")
    events = [event(id, invoice_id="I", amount=f"{number}.00") for number, id in enumerate(ids, 1)]
    events[1]["imported"], events[2]["imported"] = True, False
    assert harness.bems("send", "-", "--past", stdin=lines(*events)).code == 0
    found = harness.bems("invoice", "I", "--events", "--json").json["items"]
    assert {one["event"]["event_id"]: one["event"].get("imported", False) for one in found} == {
        "unstated": True,
        "stated": True,
        "denied": False,
    }
    again = harness.bems("send", "-", "--json", stdin=lines(*events)).json
    assert again["events"]["duplicate"] == 3, "the same events, imported or not"


@pytest.mark.parametrize(
    ("event", "past"),
    [
        (b'{"a":1}', {"imported": True, "a": 1}),
        (b" {} ", {"imported": True}),
        (b'\n{ "event_id" : "x"}', {"imported": True, "event_id": "x"}),
        (b'{"imported":false}', {"imported": False}),
        (b'{"a":{"imported":false}}', {"imported": True, "a": {"imported": False}}),
        (b'{"\\u0069mported":null}', {"imported": None}),
        (b"[1]", [1]),
        (b'"text"', "text"),
        (b"null", None),
    ],
)
def test_events_are_marked_as_imported(event: bytes, past: object) -> None:
    assert json.loads(mark_imported(event)) == past

"""`bems invoice`: the current state, the author of each outcome, and the events as they were sent."""

import json

import pytest

from bems.cli import client
from tests.cli.cli_harness import CliHarness, event, lines
from tests.waiting import until


def facts_of(harness: CliHarness, invoice_id: str) -> dict[str, str]:
    """Return the rows of the first table, by their labels."""
    shown = harness.bems("invoice", invoice_id).out.split("\n\n")[0]
    return dict(line.split("  ", 1)[0:2] for line in shown.splitlines() if "  " in line)


def is_stuck(harness: CliHarness, invoice_id: str) -> bool:
    return bool(harness.bems("invoice", invoice_id, "--json").json["stuck"])


def test_an_extension_is_shown_before_and_after_its_deadline(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"))
    harness.advance_to("2026-03-06T09:00:00Z")
    until(lambda: is_stuck(harness, "I"))
    for day in ("2026-03-23", "2026-03-24"):
        done = harness.bems("act", "extend", "I", "--until", f"{day}T12:00:00Z", role="operator")
        assert f"\nNext alert: {day} 12:00:00 UTC\n" in done.out
    facts = {name: value.strip() for name, value in facts_of(harness, "I").items()}
    assert facts["Extended"] == "to 2026-03-24 12:00:00 UTC, by the-operator, twice; not stuck until then"
    assert facts["Alerts"] == "none since the extension, 1 before"
    assert "stuck" not in facts["Status"]
    assert harness.bems("stuck").out == "none is stuck\n"
    harness.advance_to("2026-03-24T12:00:01Z")
    until(lambda: is_stuck(harness, "I"))
    facts = {name: value.strip() for name, value in facts_of(harness, "I").items()}
    assert facts["Extended"].endswith("by the-operator, twice; the deadline has passed")
    assert facts["Alerts"].startswith("2, the latest ")
    assert "extended twice" in harness.bems("stuck").out


def test_extending_several_invoices_prints_each_next_alert(harness: CliHarness) -> None:
    harness.send(event("a", invoice_id="A"), event("b", invoice_id="B"))
    until_when = ("--until", "2026-06-01T12:00:00Z")
    done = harness.bems("act", "extend", "A", "B", *until_when)
    assert "extend A: done, next alert 2026-06-01 12:00:00 UTC\n" in done.out
    several = harness.bems("act", "extend", "A", "B", "--until", "2026-06-02T12:00:00Z", "--json").json
    assert [one["next_alert_at"] for one in several["results"]] == ["2026-06-02T12:00:00Z"] * 2


def test_completing_a_later_stage_names_the_missing_earlier_stage(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"))
    done = harness.bems("act", "complete", "I", "--stage", "posting", "--note", "x")
    assert "\nposting is complete, but the earlier stage authorization is still missing\n" in done.out
    assert "\nWaits for authorization until " in done.out
    assert "still missing" not in harness.bems("act", "complete", "I", "--stage", "authorization", "--note", "x").out
    harness.send(event("f", invoice_id="J"), event("g", invoice_id="K"))
    several = harness.bems("act", "complete", "J", "K", "--stage", "reconciliation", "--note", "x").out
    assert "complete K: done, but the earlier stage authorization is still missing\n" in several
    assert (
        "still missing" not in harness.bems("act", "complete", "J", "K", "--stage", "authorization", "--note", "x").out
    )


def test_a_parked_invoice_shows_since_when_and_by_whom(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"), event("f", invoice_id="J"))
    harness.bems("act", "park", "I", "--note", "x", role="operator")
    harness.advance_to("2027-09-01T10:00:00Z")
    until(lambda: harness.bems("invoice", "J", "--json").json.get("mark") == "parked")
    by_hand, automatic = (
        {name: value.strip() for name, value in facts_of(harness, invoice_id).items()} for invoice_id in ("I", "J")
    )
    assert by_hand["Parked"].startswith("since 2026-03-02 10:00:")
    assert by_hand["Parked"].endswith(" UTC, by the-operator")
    assert by_hand["Waited for"].startswith("authorization, since 2026-03-02 10:00:")
    assert by_hand["Waited for"].endswith("; no alerts")
    assert automatic["Parked"].endswith(", after its last alert")
    assert harness.bems("stuck").out.endswith("\n2 are stuck, all of them parked: 2,500.00 EUR\n")


def test_each_outcome_shows_its_author_and_attributes(harness: CliHarness) -> None:
    source = {"system": "concur", "region": "eu-west-1"}
    harness.send(event("e", invoice_id="I", source={"system": "sap-ecc"}))
    harness.send(
        event("a", "approved", "I", source=source, attributes={"approver": "jane", "limit": "10k"}),
        stage="authorization",
    )
    harness.bems("act", "complete", "I", "--stage", "reconciliation", "--note", "checked by [hand]", role="operator")
    shown = [" ".join(line.split()) for line in harness.bems("invoice", "I").out.splitlines()]
    for line in (
        "ingestion received 2026-03-02 09:00:00 sap-ecc - e",
        "authorization approved 2026-03-02 09:00:00 concur approver: jane; limit: 10k a",
    ):
        assert line in shown
    (by_hand,) = [line for line in shown if line.startswith("reconciliation matched ")]
    assert "by hand, the-operator checked by [hand]" in by_hand


def shown_facts(harness: CliHarness, invoice_id: str) -> list[str]:
    return [" ".join(line.split()) for line in harness.bems("invoice", invoice_id).out.splitlines()]


def test_what_events_state_is_shown(harness: CliHarness) -> None:
    terms = {"days": 30, "baseline_date": "2026-02-28", "cash_discounts": [{"percent": "2.5", "days": 10}]}
    stated = {
        "number": "RE-2026-77",
        "issue_date": "2026-02-27",
        "buyer": {"id": "1000", "name": "Example AG"},
        "purchase_orders": ["4500012345", "4500012346"],
        "payment_terms": terms,
    }
    harness.send(event("e", invoice_id="I", **stated))
    decided = {"actor": {"id": "kim", "kind": "person"}, "reason": {"code": "QUA", "text": "two are missing"}}
    harness.send(event("a", "approved", "I", **decided, attributes={"limit": "10k"}), stage="authorization")
    harness.send(event("m", "not_applicable", "I"), stage="reconciliation")
    paid = {"paid_on": "2026-03-01", "amount": "1218.75", "discount_taken": "31.25"}
    harness.send(event("p", "posted", "I", payment=paid), stage="posting")
    found = shown_facts(harness, "I")
    for line in (
        "Number RE-2026-77, issued 2026-02-27",
        "Buyer 1000 Example AG",
        "Orders 4500012345, 4500012346",
        "Terms 30 days, from 2026-02-28, 2.5% within 10 days",
        "Posted 2026-03-02 09:00:00 UTC",
        "authorization approved 2026-03-02 09:00:00 sap, kim QUA: two are missing; limit: 10k a",
        "reconciliation not_applicable 2026-03-02 09:00:00 sap - m",
        "posting posted 2026-03-02 09:00:00 sap paid 1218.75 on 2026-03-01, discount 31.25 p",
    ):
        assert line in found, line
    events = [" ".join(line.split()) for line in harness.bems("invoice", "I", "--events").out.splitlines()]
    assert any(
        " authorization approved 1,250.00 EUR sap, kim QUA: two are missing; limit: 10k " in one for one in events
    )
    assert any(" sap paid 1218.75 on 2026-03-01, discount 31.25 Acme " in one for one in events)


def test_an_outcome_recorded_by_hand_is_shown_after_an_event_contradicts_it(harness: CliHarness) -> None:
    harness.send(event("e", invoice_id="I"))
    harness.advance_to("2026-03-05T12:00:00Z")
    until(lambda: is_stuck(harness, "I"))
    harness.bems("act", "complete", "I", "--stage", "authorization", "--note", "on paper", role="operator")
    later = {"occurred_at": "2026-03-05T13:00:00Z"}
    harness.send(event("r", "rejected", "I", **later), stage="authorization")
    found = shown_facts(harness, "I")
    assert "Status Rejected: authorization refused" in found
    (by_hand,) = [line for line in found if line.startswith("By hand ")]
    assert by_hand.startswith("By hand authorization approved by the-operator, 2026-03-05 12:00:")
    detail = "an event says rejected, but the-operator recorded authorization as approved by hand on 2026-03-05"
    assert any(f" contradictory outcomes: {detail} warning 2026-03-05 12:00:" in line for line in found)
    assert any(" alert: contradictory outcomes Rejected " in line for line in found)
    assert any(" resolved: authorization is approved warning - " in line for line in found)
    alerts = [" ".join(line.split()) for line in harness.bems("alerts").out.splitlines()]
    assert [line.split(" ")[3:5] for line in alerts if line.startswith("I ")] == [
        ["contradictory", "outcomes:"], ["resolved:", "authorization"], ["authorization", "stuck,"],
    ]  # fmt: skip
    check = harness.bems("check", "--json").json
    assert (check["alerts"], check["balanced"]) == (2, True)


def test_events_are_shown_as_they_were_sent(harness: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_PAGE_ITEMS", 2)
    sent = [event(f"e{number}", invoice_id="I", occurred_at=f"2026-03-0{number}T09:00:00Z") for number in (1, 2)]
    sent[0]["attributes"] = {"po": "4500"}
    sent.append(event("e0", invoice_id="I", occurred_at="2026-02-01T10:00:00+01:00", imported=True))
    for one in sent:
        harness.send(one)
    found = harness.bems("invoice", "I", "--events", "--json", role="viewer").json
    assert [item["event"]["event_id"] for item in found["items"]] == ["e0", "e2", "e1"]
    assert found["items"][2]["event"] == sent[0]
    assert found["more"] is False
    shown = [" ".join(line.split()) for line in harness.bems("invoice", "I", "--events").out.splitlines()]
    assert any(
        line.startswith("2026-02-01 09:00:00 ingestion received, imported, superseded 1,250.00 EUR sap - Acme [GmbH]")
        for line in shown
    )
    assert any(" ingestion received 1,250.00 EUR sap po: 4500 Acme [GmbH] " in line for line in shown)
    assert shown[-1] == "3 events"
    assert harness.bems("invoice", "nope", "--events").error() == 'there is no invoice "nope"'
    assert "--events and --history cannot be combined" in harness.bems("invoice", "I", "--events", "--history").error()


def two_under_one_id(invoice_id: str = "4711") -> bytes:
    one = event("v1", invoice_id=invoice_id)
    return lines(one, {**one, "event_id": "v2", "vendor": {"id": "V-9", "name": "Other Ltd"}})


def test_identity_alerts_name_the_shared_id(harness: CliHarness) -> None:
    assert harness.bems("send", "-", stdin=two_under_one_id()).code == 0
    what = "two invoices under one id? vendors V-42 and V-9 both use this id"
    (row,) = [line for line in harness.bems("alerts").out.splitlines() if line.startswith("4711")]
    assert what in row
    shown = harness.bems("invoice", "4711").out
    assert what in shown
    assert "alert: two invoices under one id?" in shown
    assert "alert of" not in shown


def test_a_replay_counts_identity_alerts_separately(harness: CliHarness) -> None:
    report = harness.bems("replay", "-", "--json", stdin=two_under_one_id()).out
    document = json.loads(report)
    assert document["alerts"] == {"identity": {"warning": 1}}
    assert document["alerted_invoices"] == {"identity": 1}
    assert document["identity"] == [{"invoice_id": "4711", "detail": "vendors V-42 and V-9 both use this id"}]
    shown = [" ".join(line.split()) for line in harness.bems("replay", "-", stdin=two_under_one_id()).out.splitlines()]
    assert "identity 1 1 0" in shown
    assert "1 id may stand for two invoices" in shown
    assert "4711 vendors V-42 and V-9 both use this id" in shown

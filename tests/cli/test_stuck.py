"""Stuck invoices: every interface counts the same ones, with the same amounts."""

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bems.cli.client import Client
from bems.cli.demo_report import collect
from bems.cli.stuck_totals import StuckTotals, sum_totals
from bems.cli.worst_invoice import find_worst
from bems.embedded.api.views import Total
from bems.embedded.replay.report import Report
from bems.embedded.storage.reader import open_reader
from bems.generator.event_log import generate
from tests.cli.cli_harness import CliHarness, event, running
from tests.waiting import until


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A cell with a generated month and stuck invoices, one of them parked by hand and one extended."""
    with running(tmp_path_factory.mktemp("month")) as harness:
        sent = harness.bems("send", "-", "--json", stdin=b"".join(generate(600, 3))).json
        assert sent["events"]["accepted"] > 2_000
        harness.send(event("big", invoice_id="BIG/1", amount="999999.00"))
        harness.advance_to("2026-03-20T10:00:00Z")
        until(lambda: len(stuck_in(harness)["items"]) > 10)
        assert harness.bems("act", "park", stuck_in(harness)["items"][1]["invoice_id"], "--note", "x").code == 0
        assert harness.bems("act", "extend", stuck_in(harness)["items"][0]["invoice_id"], "--until", "+30d").code == 0
        until(lambda: harness.bems("check").code == 0)
        yield harness


def stuck_in(harness: CliHarness, *options: str) -> dict[str, Any]:
    return dict(harness.bems("stuck", "--json", "--limit", "1000", *options).json)


def metrics_of(harness: CliHarness) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values of each metric by the values of its labels, `status` before `currency`."""
    with closing(Client(harness.url, harness.key("viewer"))) as client:
        text = client.request("GET", "/metrics").body.decode()
    return {
        family.name: {
            tuple(value for _, value in sorted(sample.labels.items(), reverse=True)): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(text)
    }


def test_every_interface_counts_the_same_stuck_invoices(month: CliHarness) -> None:
    listing = stuck_in(month)
    listed = {one["invoice_id"] for one in listing["items"]}
    with closing(Client(month.url, month.key("viewer"))) as client:
        totals = client.request_json("GET", "/totals", frozenset())["items"]
        demo = collect(client, month.service.analytics)
    report = Report()
    with closing(open_reader(month.folder)) as reader:
        report.finish(reader.invoices(limit=10_000), [], 0)
    metrics = metrics_of(month)
    counts = {
        "stuck": listing["stuck"],
        "stuck, listed": len(listed),
        "totals": sum(one["stuck"] for one in totals),
        "replay": len(report.stuck()),
        "demo": demo.stuck.total,
        "metrics": sum(metrics["bems_stuck"].values()),
    }
    assert len(set(counts.values())) == 1, counts
    assert counts["stuck"] > 10
    assert {one.invoice_id for one in report.stuck()} == listed
    parked = listing["parked"], sum(one["parked"] for one in totals), report.parked, demo.stuck.parked
    assert set(parked) == {sum(metrics["bems_parked"].values())} == {1}
    assert f"{counts['stuck']} are stuck, 1 of them parked: " in month.bems("stuck").out
    assert demo.stuck.amounts == listing["stuck_amounts"]
    for currency, amount in listing["stuck_amounts"].items():
        of_currency = [value for labels, value in metrics["bems_stuck_amount"].items() if currency in labels]
        assert sum(of_currency) == pytest.approx(float(amount))


def test_the_backlog_dashboard_equals_the_metrics(month: CliHarness) -> None:
    rows = month.bems("dashboard", "backlog", "--json").json["rows"]
    metrics = metrics_of(month)
    counts: dict[tuple[str, ...], float] = {}
    for status, _, count, _ in rows:
        counts[(status,)] = counts.get((status,), 0) + count
    assert counts == metrics["bems_invoices"]
    assert len(counts) > 5
    amounts = {(status, currency): float(Decimal(amount)) for status, currency, _, amount in rows}
    assert amounts == metrics["bems_invoices_amount"]


def test_stuck_is_sorted_by_age_or_by_value_within_each_currency(month: CliHarness) -> None:
    by_age = [
        one["waiting"]["since"] if "waiting" in one else one["parked"]["since"] for one in stuck_in(month)["items"]
    ]
    assert by_age == sorted(by_age)
    by_value = [(one["currency"], -Decimal(one["amount"])) for one in stuck_in(month, "--by", "value")["items"]]
    assert by_value == sorted(by_value)
    assert len({currency for currency, _ in by_value}) > 1


def test_stuck_marks_parked_invoices_and_filters_by_stage(month: CliHarness) -> None:
    rows = [line for line in month.bems("stuck", "--limit", "1000").out.splitlines() if " parked " in line]
    assert len([row for row in rows if row[:3] in ("INV", "CN/", "BIG")]) == 1
    of_stage = stuck_in(month, "--stage", "posting")
    assert of_stage["stuck"] == len(of_stage["items"]) > 0
    assert all(one["stage"] == "posting" for one in of_stage["items"])


def test_the_worst_invoice_and_the_effect_of_its_completion_are_described(month: CliHarness) -> None:
    with closing(Client(month.url, month.key("admin"))) as client:
        totals = collect(client, month.service.analytics).stuck
        worst = find_worst(client, totals)
    assert worst is not None
    assert totals.main_currency == "EUR"
    sentence = worst.describe()
    assert sentence.startswith("BIG/1, 999,999.00 EUR, Acme [GmbH], waits for authorization since 2 March 2026: ")
    assert "no authorization event arrived; next alert " in sentence
    assert worst.describe_completion(totals) == (
        "Completing authorization by hand would move it to AwaitingReconciliation (approved, not yet matched) and "
        f"leave {totals.total - 1} stuck."
    )


def test_the_described_effect_of_a_completion_is_correct(harness: CliHarness) -> None:
    harness.send(event("a", invoice_id="A"), event("b", invoice_id="B", amount="9.00"))
    why = {"reason": {"code": "QUA", "text": "damaged"}, "attributes": {"lines": "2"}}
    harness.send(event("m", "mismatched", "A", **why), stage="reconciliation")
    harness.send(event("n", "approved", "A", occurred_at="2026-03-02T09:30:00Z"), stage="authorization")
    harness.advance_to("2026-04-10T10:00:00Z")
    until(lambda: stuck_in(harness)["stuck"] == 2)
    with closing(Client(harness.url, harness.key("admin"))) as client:
        totals = collect(client, harness.service.analytics).stuck
        worst = find_worst(client, totals)
    assert worst is not None
    assert "waits for reconciliation since 2 March 2026: mismatched by sap (QUA damaged, lines 2); " in worst.describe()
    assert harness.bems("act", "complete", "A", "--stage", worst.stage, "--note", "x").code == 0
    promised = worst.as_document(totals)["if_completed"]
    assert harness.bems("invoice", "A", "--json").json["status"] == promised["status"] == "AwaitingPosting"
    assert stuck_in(harness)["stuck"] == promised["stuck"] == 1


def test_a_stuck_invoice_shows_its_snooze_assignee_and_note(harness: CliHarness) -> None:
    harness.send(event("a", invoice_id="A"), event("b", invoice_id="B"))
    harness.advance_to("2026-03-05T12:00:00Z")
    until(lambda: stuck_in(harness)["stuck"] == 2)
    harness.bems("act", "assign", "A", "--to", "jane@example.com")
    snoozed = harness.bems("act", "snooze", "A", "--until", "2026-03-25T12:00:00Z", "--note", "asked for a credit note")
    assert snoozed.code == 0, snoozed
    rows = {line[:1]: " ".join(line.split()) for line in harness.bems("stuck").out.splitlines()}
    assert rows["A"].endswith(" snoozed to 2026-03-25 Acme [GmbH] jane@example.com asked for a credit note")
    assert rows["B"].endswith(" - Acme [GmbH] - -")
    assert rows["2"] == "2 are stuck: 2,500.00 EUR"


def test_totals_are_written_as_a_sentence() -> None:
    def total(currency: str, stuck: int, amount: str, parked: int) -> Total:
        return Total("AwaitingPosting", currency, 9, "1.00", stuck, amount, parked)

    assert str(sum_totals([])) == "none is stuck"
    assert str(sum_totals([total("EUR", 0, "0.00", 0)])) == "none is stuck"
    assert str(sum_totals([total("EUR", 1, "10.50", 1)])) == "1 is stuck, and parked: 10.50 EUR"
    several = sum_totals([total("CHF", 1, "7.00", 0), total("EUR", 22, "84120.00", 4)])
    assert str(several) == "23 are stuck, 4 of them parked: 84,120.00 EUR, 7.00 CHF"
    assert several == StuckTotals(4, {"EUR": 22, "CHF": 1}, {"EUR": "84120.00", "CHF": "7.00"})

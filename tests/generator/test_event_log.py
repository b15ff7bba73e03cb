import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from hashlib import sha256
from itertools import pairwise
from typing import get_args

import pytest
from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.store import MemoryStore
from bems.generator.event_log import CLEAN, MALFORMATIONS, LogProfile, Scenario, generate, render_line, scenarios
from bems.generator.scenarios import DAY_SECONDS, THURSDAY, Emission
from bems.generator.vendors import COUNTRIES, make_vendors
from bems.tracker.contract import FAILURE_STATUS, STAGES, SUCCESS_STATUS, Event
from bems.tracker.currencies import MINOR_UNITS
from bems.tracker.instants import HOUR, MINUTE, SECOND, Instant, parse
from bems.tracker.parsing import InvalidEvent, parse_line
from bems.tracker.status import Status, status_of
from tests.tracker.samples import FIRST_POLICY

TODAY = parse("2026-12-31T00:00:00Z")

FAULTY = LogProfile(**dict.fromkeys(LogProfile.__dataclass_fields__, 0.25))


@dataclass
class CoreRun:
    """Result of running a log through the core."""

    events: list[Event] = field(default_factory=list)
    delays: list[Instant] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    receipts: Counter[str] = field(default_factory=Counter)
    store: MemoryStore = field(default_factory=MemoryStore)

    def statuses(self) -> dict[str, Status]:
        return {record.invoice_id: status_of(record.outcomes) for record in self.store.records()}


def run(invoices: int, seed: int, profile: LogProfile) -> CoreRun:
    result, clock = CoreRun(), 0
    cell = Cell(FIRST_POLICY, load_machine(), result.store)
    for line in generate(invoices, seed, profile=profile):
        event = parse_line(line, TODAY)
        if isinstance(event, InvalidEvent):
            result.refusals.update(event.reasons)
            continue
        while cell.fire_next(event.occurred_at) is not None:
            pass
        result.delays.append(max(0, clock - event.occurred_at))
        clock = max(clock, event.occurred_at)
        result.events.append(event)
        result.receipts[cell.handle_event(structs.replace(event, received_at=clock), clock).result] += 1
    while cell.fire_next(clock + 1) is not None:
        pass
    return result


@cache
def everyday() -> tuple[list[Scenario], CoreRun]:
    """Return 2,000 scenarios of an ordinary company and the result of running them. Tests must not change them."""
    return list(scenarios(2000, 1)), run(2000, 1, LogProfile())


def forms(planned: list[Scenario]) -> Counter[str]:
    return Counter(emission.form for scenario in planned for emission in scenario.emissions)


# -- reproducible


def test_a_seed_gives_the_same_log_on_every_machine_and_python_version() -> None:
    digest = sha256(b"".join(generate(300, 1))).hexdigest()
    assert digest == "aeb50c957e9fc2e00a421e09bde13f228b3e97c2d007ee942ee2b90441e40e0b"


@pytest.mark.parametrize("other", [2, -1, 2**70])
def test_each_seed_gives_a_different_log_and_different_vendors(other: int) -> None:
    assert not set(generate(100, 1)) & set(generate(100, other))
    assert make_vendors(1) != make_vendors(other)


@pytest.mark.parametrize("days", [1, 31, 365])
@pytest.mark.parametrize("invoices", [0, 1, 7, 1000])
def test_the_log_has_the_requested_number_of_invoices(invoices: int, days: int) -> None:
    planned = list(scenarios(invoices, 1, days=days))
    assert len({scenario.invoice_id for scenario in planned}) == invoices
    first = (date(2026, 1, 1) - date(1970, 1, 1)).days
    assert all(first <= scenario.day < first + days for scenario in planned)


def test_a_log_is_generated_lazily() -> None:
    assert next(generate(10_000_000, 1, days=3650)).startswith(b'{"stage":')


@pytest.mark.parametrize(
    ("invoices", "start", "days", "message"),
    [
        (-1, date(2026, 1, 1), 31, "-1 invoices"),
        (1, date(2026, 1, 1), 0, "0 days"),
        (1, date(1970, 12, 31), 31, "from 1971"),
        (1, date(2090, 12, 1), 32, "up to 2090"),
        (1, date(9999, 12, 31), 1, "up to 2090"),
    ],
)
def test_arguments_out_of_range_are_refused_immediately(invoices: int, start: date, days: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(invoices, 1, start=start, days=days)


# -- order


@pytest.mark.parametrize("profile", [LogProfile(), FAULTY], ids=["everyday", "hard"])
def test_lines_are_in_the_order_of_their_arrival(profile: LogProfile) -> None:
    sent = [(scenario, emission) for scenario in scenarios(1000, 3, profile=profile) for emission in scenario.emissions]
    sent.sort(key=lambda pair: pair[1].arrives)
    assert [render_line(*pair) for pair in sent] == list(generate(1000, 3, profile=profile))


def test_most_events_are_in_order_and_some_are_late() -> None:
    _, result = everyday()
    slightly_late, days_late = (sum(delay > limit for delay in result.delays) for limit in (2 * MINUTE, 24 * HOUR))
    assert 0.01 < days_late / len(result.delays) < 0.06
    assert slightly_late / len(result.delays) < 0.12


def test_events_arrive_after_they_occur_and_usually_soon() -> None:
    planned, _ = everyday()
    lags = [
        emission.arrives - emission.occurs + scenario.vendor.utc_offset
        for scenario in planned
        for emission in scenario.emissions
    ]
    assert min(lags) > 0
    assert sum(lag < 120 for lag in lags) / len(lags) > 0.93


def test_duplicates_and_conflicts_arrive_after_their_event() -> None:
    for scenario in scenarios(1000, 4, profile=FAULTY):
        first = {emission.number: emission.arrives for emission in scenario.emissions if emission.form == "sent"}
        for emission in scenario.emissions:
            if emission.form in ("repeat", "conflict"):
                assert emission.arrives > first[emission.number]


# -- final statuses


@pytest.mark.parametrize("seed", [5, 6])
def test_the_core_derives_the_final_status_of_every_faulty_scenario(seed: int) -> None:
    expected = {scenario.invoice_id: scenario.status for scenario in scenarios(600, seed, profile=FAULTY)}
    assert run(600, seed, FAULTY).statuses() == {id: status for id, status in expected.items() if status}
    assert len(set(expected.values())) == 10


def test_the_core_derives_the_final_status_of_every_ordinary_scenario() -> None:
    planned, result = everyday()
    assert result.statuses() == {scenario.invoice_id: scenario.status for scenario in planned if scenario.status}


def test_a_clean_log_has_four_events_per_invoice_in_order() -> None:
    result = run(300, 1, CLEAN)
    assert result.receipts == {"accepted": 1200}
    assert not result.refusals
    assert set(result.statuses().values()) == {"Posted"}
    assert {alert.kind for alert in result.store.alerts} <= {"stuck", "resolved"}
    for scenario in scenarios(300, 1, profile=CLEAN):
        assert tuple(emission.stage for emission in scenario.emissions) == STAGES
        assert all(before.occurs < after.occurs for before, after in pairwise(scenario.emissions))


# -- every kind of fault


def test_every_status_and_outcome_occurs() -> None:
    _, result = everyday()
    assert set(result.statuses().values()) == set(get_args(Status))
    outcomes = {(event.stage, event.status) for event in result.events}
    assert outcomes == {*SUCCESS_STATUS.items(), *FAILURE_STATUS.items()}


def test_alerts_of_every_kind_stage_and_severity_occur_and_some_invoices_are_parked() -> None:
    _, result = everyday()
    alerts = [alert for alert in result.store.alerts if alert.kind != "resolved"]
    assert {(alert.kind, alert.stage, alert.severity) for alert in alerts} == {
        *(("stuck", stage, severity) for stage in STAGES for severity in ("warning", "critical")),
        ("dispute", "reconciliation", "warning"),
        ("failed", "posting", "warning"),
    }
    assert sum(record.mark == "parked" for record in result.store.records()) >= 10
    assert sum(alert.last for alert in alerts) > sum(record.mark == "parked" for record in result.store.records())


def test_some_goods_arrive_before_their_invoice_and_some_ingestions_weeks_late() -> None:
    planned, _ = everyday()
    early = [scenario for scenario in planned if scenario.emissions and scenario.emissions[0].stage == "reconciliation"]
    assert 0.01 < len(early) / len(planned) < 0.06
    weeks_late = [
        emission.arrives - emission.occurs > 13 * DAY_SECONDS
        for scenario in planned
        for emission in scenario.emissions
        if emission.stage == "ingestion" and emission.form == "sent"
    ]
    assert 3 <= sum(weeks_late) <= 30


def test_reversals_repeated_disputes_and_failed_postings_occur() -> None:
    histories = Counter(
        (
            scenario.status,
            emission.stage,
            *(other.status for other in scenario.emissions if _same_stage(other, emission)),
        )
        for scenario in everyday()[0]
        for emission in scenario.emissions
        if emission.form == "sent"
    )
    assert histories["Posted", "authorization", "rejected", "approved"]
    assert histories["Rejected", "authorization", "approved", "rejected"]
    assert histories["Posted", "reconciliation", "mismatched", "matched"]
    assert histories["Posted", "reconciliation", "mismatched", "mismatched", "matched"]
    assert histories["Posted", "posting", "failed", "posted"]
    assert histories["Cancelled", "authorization", "approved"]
    assert histories["Cancelled", "posting", "posted"]


def _same_stage(other: Emission, emission: Emission) -> bool:
    return other.form == "sent" and other.stage == emission.stage


def test_faults_have_the_shares_of_the_profile() -> None:
    planned, result = everyday()
    sent = forms(planned)
    total, profile = sum(sent.values()), LogProfile()
    assert 4 * len(planned) < total < 4.2 * len(planned)
    for form, share in (("repeat", profile.duplicated), ("malformed", profile.malformed), ("conflict", 0.001)):
        assert 0.5 * share < sent[form] / total < 2 * share
    assert result.receipts == {"accepted": sent["sent"], "duplicate": sent["repeat"], "conflict": sent["conflict"]}
    ends = Counter(scenario.status for scenario in planned)
    assert 0.9 < ends["Posted"] / len(planned) < 0.96
    assert 0.005 < ends["Cancelled"] / len(planned) < 0.03
    assert 0.01 < ends["Rejected"] / len(planned) < 0.04
    assert 0.02 < sum(scenario.amount.startswith("-") for scenario in planned) / len(planned) < 0.06


@pytest.mark.parametrize("invoices", [500, 30_000])
def test_the_number_of_invoices_does_not_change_the_distribution(invoices: int) -> None:
    planned = list(scenarios(invoices, 8))
    sent = forms(planned)
    assert 4.05 < sum(sent.values()) / invoices < 4.2
    assert 0.9 < sum(scenario.status == "Posted" for scenario in planned) / invoices < 0.98
    assert 0.14 < max(Counter(scenario.day for scenario in planned).values()) / invoices < 0.2


# -- malformed


REASONS = (
    "currency: unknown currency",
    "currency: wrong form",
    "amount: too many decimals",
    "amount: wrong type",
    "amount: wrong form",
    "invoice_id: missing",
    "event_id: empty",
    "status: not a choice",
    "status: repeated",
    "occurred_at: no offset",
    "occurred_at: in the future",
    "occurred_at: wrong form",
    "event: unknown field",
    "vendor.id: missing",
    "stage: not a choice",
    "event: not JSON",
    "event: not JSON",
)


@pytest.mark.parametrize(("malformation", "reason"), list(zip(MALFORMATIONS, REASONS, strict=True)), ids=list(REASONS))
def test_each_malformation_is_refused_for_its_reason_only(
    malformation: tuple[re.Pattern[str], str], reason: str
) -> None:
    pattern, replacement = malformation
    for line in generate(50, 2, profile=CLEAN):
        broken = pattern.sub(replacement, line.decode(), count=1).encode()
        assert broken.endswith(b"\n")
        refusal = parse_line(broken, TODAY)
        assert isinstance(refusal, InvalidEvent), broken
        assert refusal.reasons == [reason]


def test_exactly_the_malformed_events_are_refused() -> None:
    for scenario in scenarios(300, 9, profile=FAULTY):
        for emission in scenario.emissions:
            refused = isinstance(parse_line(render_line(scenario, emission), TODAY), InvalidEvent)
            assert refused == (emission.form == "malformed")


def test_many_reasons_of_refusal_occur() -> None:
    _, result = everyday()
    assert len(result.refusals) >= 10
    assert result.refusals["occurred_at: in the future"]


# -- realistic distributions


def test_month_end_is_several_times_the_mean_and_weekends_are_quiet() -> None:
    planned, _ = everyday()
    days = Counter(date(1970, 1, 1) + timedelta(days=scenario.day) for scenario in planned)
    mean = len(planned) / 31
    assert days[date(2026, 1, 30)] == max(days.values())
    assert 4 < days[date(2026, 1, 30)] / mean < 7
    assert 2.5 < days[date(2026, 1, 29)] / mean < 5
    arrivals = Counter(
        datetime.fromtimestamp(emission.arrives, UTC).weekday()
        for scenario in planned
        for emission in scenario.emissions
    )
    assert max(arrivals[5], arrivals[6]) < min(arrivals[weekday] for weekday in range(5)) / 5


def test_business_is_result_in_business_hours_of_the_supplier() -> None:
    planned, _ = everyday()
    hours = Counter(emission.occurs % DAY_SECONDS // 3600 for scenario in planned for emission in scenario.emissions)
    total = sum(hours.values())
    assert sum(hours[hour] for hour in range(8, 18)) / total > 0.9
    assert not sum(hours[hour] for hour in range(3, 8))
    gulf = [
        emission for scenario in planned if scenario.vendor.country in ("KW", "BH") for emission in scenario.emissions
    ]
    weekdays = Counter((emission.occurs // DAY_SECONDS + THURSDAY) % 7 for emission in gulf)
    assert weekdays[6] > 5 * (weekdays[4] + weekdays[5])


def test_occurred_at_equals_the_scenario_in_the_format_of_every_system() -> None:
    written = set()
    for scenario in scenarios(300, 2, profile=CLEAN):
        for emission in scenario.emissions:
            line = render_line(scenario, emission)
            event = parse_line(line, TODAY)
            assert isinstance(event, Event)
            assert event.occurred_at == (emission.occurs - scenario.vendor.utc_offset) * SECOND
            written.add(json.loads(line)["event"]["occurred_at"][19:])
    assert written == {"Z", ".000+00:00", "+01:00", "+03:00", "+08:00", "+09:00"}


def test_amounts_have_the_decimals_of_their_currency_and_a_realistic_spread() -> None:
    planned, _ = everyday()
    euros = []
    for scenario in planned:
        amount, vendor = Decimal(scenario.amount), scenario.vendor
        assert amount.as_tuple().exponent == -MINOR_UNITS[vendor.currency]
        assert amount != 0
        euros.append(abs(float(amount)) * 10**vendor.decimals / vendor.minor_per_euro)
    euros.sort()
    median, mean = euros[len(euros) // 2], sum(euros) / len(euros)
    assert 700 < median < 1100
    assert 2 < mean / median < 6


def test_there_are_a_few_hundred_varied_vendors_and_a_few_are_large() -> None:
    planned, result = everyday()
    volumes = Counter(scenario.vendor.id for scenario in planned)
    assert 200 < len(volumes) <= 300
    assert 0.05 < max(volumes.values()) / len(planned) < 0.15
    assert 0.3 < sum(volume for _, volume in volumes.most_common(10)) / len(planned) < 0.6
    assert {scenario.vendor.country for scenario in planned} == {country.code for country in COUNTRIES}
    assert {"EUR", "USD", "GBP", "JPY", "CHF", "BHD", "KWD"} <= {event.facts.currency for event in result.events}
    assert {event.facts.vendor.tier for event in result.events} == {"gold", "silver", "standard"}
    assert {event.facts.source.system for event in result.events} >= {"sap-ecc", "oracle-fusion", "coupa", "concur"}
    terms = {event.facts.payment_terms for event in result.events if event.stage == "ingestion"}
    assert {None if term is None else (term.days is None, term.due_date is None) for term in terms} == {
        None,
        (False, True),
        (True, False),
        (False, False),
    }
    assert {term.days for term in terms if term} == {14, 30, 45, 60, 90, None}


def test_countries_have_their_share_of_the_volume_for_every_seed() -> None:
    assert sum(country.share for country in COUNTRIES) == 100
    for seed in range(5):
        counts = Counter(scenario.vendor.country for scenario in scenarios(5000, seed))
        for country in COUNTRIES:
            assert abs(counts[country.code] / 5000 - country.share / 100) < 0.025


def test_the_facts_of_an_invoice_are_constant_and_approvals_have_fewer() -> None:
    for scenario in scenarios(200, 2, profile=CLEAN):
        read = [parse_line(render_line(scenario, emission), TODAY) for emission in scenario.emissions]
        facts = [event.facts for event in read if isinstance(event, Event)]
        assert len({(fact.amount, fact.currency, fact.vendor) for fact in facts}) == 1
        assert facts[1].payment_terms is None
        assert not facts[1].attributes
        assert facts[0].payment_terms == facts[2].payment_terms == facts[3].payment_terms
        assert set(facts[0].attributes) <= {"po", "cost_center"}

from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bems.tracker.contract import STAGES, Buyer, Facts, PaymentTerms, Source, Stage, Vendor
from bems.tracker.instants import DAY, HOUR, LATEST, MINUTE, Instant, parse, to_datetime
from bems.tracker.policy import (
    DEFAULT_POLICY,
    DEFAULT_STAGES,
    CalendarSpec,
    EscalationSpec,
    MatchExemption,
    OverrideSpec,
    Policy,
    PolicySpec,
    ReconciliationSpec,
    StageSpec,
    StagesSpec,
    Weekday,
    When,
    WhenSpec,
    build_policy,
)
from bems.tracker.policy_file import policy_from_json, policy_to_json
from tests.tracker.samples import FIRST_POLICY, FIRST_SPEC

MONDAY = parse("2026-11-23T10:15:00+01:00")
DAYS_OFF = frozenset({date(2026, 12, 25), date(2027, 1, 1)})


def facts(
    amount: str = "1250.00",
    currency: str = "EUR",
    vendor: str = "V-42",
    tier: str | None = None,
    days: int | None = None,
    due_date: date | None = None,
) -> Facts:
    terms = None if days is None and due_date is None else PaymentTerms(days, due_date)
    return Facts(Decimal(amount), currency, Vendor(vendor, tier=tier), Source("sap-ecc"), terms)


def policy(days_off: frozenset[date] = DAYS_OFF, days_on: frozenset[date] = frozenset(), **stages: StageSpec) -> Policy:
    """Build a policy whose stages have these keys; those that are left out are those of FIRST_SPEC."""
    specs = {
        stage: structs.replace(first, **{key: value for key, value in structs.asdict(own).items() if value is not None})
        for stage, first in structs.asdict(FIRST_SPEC.stages).items()
        for own in [stages.get(stage, StageSpec())]
    }
    specs = {
        stage: structs.replace(spec, escalate_every=None) if spec.escalate else spec for stage, spec in specs.items()
    }
    spec = structs.replace(FIRST_SPEC, stages=StagesSpec(**specs))
    return build_policy(spec, days_off, days_on)


def waiting(**spec: str | int) -> Policy:
    return policy(authorization=msgspec.convert({"overrides": [], **spec}, StageSpec))


def test_the_default_policy_has_the_documented_numbers() -> None:
    numbers = {
        stage: (spec.deadline, spec.escalate, spec.critical_at, spec.give_up_at, spec.overrides)
        for stage in STAGES
        for spec in [getattr(DEFAULT_STAGES, stage)]
    }
    assert numbers == {
        "ingestion": ("10bd", EscalationSpec("20bd", 2), 3, 4, ()),
        "authorization": ("3bd", EscalationSpec("10bd", 2), 3, 5, ()),
        "reconciliation": ("5bd", EscalationSpec("10bd", 2), 3, 5, ()),
        "posting": ("due-3bd", EscalationSpec("20bd", 2), 3, 4, ()),
    }
    assert build_policy(PolicySpec(), frozenset()) == DEFAULT_POLICY
    assert DEFAULT_POLICY.calendar.timezone == "Europe/Amsterdam"


@pytest.mark.parametrize(
    ("stage", "deadline"),
    [
        ("ingestion", "2026-12-07T10:15:00+01:00"),
        ("authorization", "2026-11-26T10:15:00+01:00"),
        ("reconciliation", "2026-11-30T10:15:00+01:00"),
        # Due on 2026-12-23, 30 days after the ingestion.
        ("posting", "2026-12-18T00:00:00+01:00"),
    ],
)
def test_a_deadline_counts_from_when_the_wait_begins(stage: Stage, deadline: str) -> None:
    assert DEFAULT_POLICY.deadline(stage, facts(), MONDAY, MONDAY) == parse(deadline)


@pytest.mark.parametrize(
    ("written", "length"), [("90s", 90 * MINUTE // 60), ("90m", 90 * MINUTE), ("12h", 12 * HOUR), ("3d", 3 * DAY)]
)
def test_a_fixed_deadline_ignores_the_calendar(written: str, length: int) -> None:
    saturday = parse("2026-10-24T12:00:00+02:00")  # before the night in which the clocks go back
    assert waiting(deadline=written).deadline("authorization", facts(), None, saturday) == saturday + length


@pytest.mark.parametrize(
    ("terms", "ingested", "deadline"),
    [
        # A due date takes precedence over days.
        (facts(days=90, due_date=date(2026, 12, 28)), MONDAY, "2026-12-22T00:00:00+01:00"),
        # A due date on a day off: Christmas, a Friday.
        (facts(due_date=date(2026, 12, 25)), MONDAY, "2026-12-22T00:00:00+01:00"),
        # Days count from the local date of the ingestion: 2026-11-24 in Amsterdam.
        (facts(days=14), parse("2026-11-23T23:30:00Z"), "2026-12-03T00:00:00+01:00"),
        (facts(days=14), parse("2026-11-23T22:30:00Z"), "2026-12-02T00:00:00+01:00"),
        # 30 days without payment terms: due on 2026-12-23.
        (facts(), MONDAY, "2026-12-18T00:00:00+01:00"),
        # Without an ingestion, days count from now.
        (facts(), None, "2026-12-18T00:00:00+01:00"),
        # A due date that is too near, today or past gives a day from now.
        (facts(due_date=date(2026, 11, 26)), MONDAY, "2026-11-24T10:15:00+01:00"),
        (facts(days=0), MONDAY, "2026-11-24T10:15:00+01:00"),
        (facts(due_date=date(2020, 1, 1)), MONDAY, "2026-11-24T10:15:00+01:00"),
        (facts(), parse("2020-01-01T00:00:00Z"), "2026-11-24T10:15:00+01:00"),
    ],
)
def test_a_deadline_before_the_due_date(terms: Facts, ingested: Instant | None, deadline: str) -> None:
    assert policy().deadline("posting", terms, ingested, MONDAY) == parse(deadline)


@pytest.mark.parametrize(
    ("written", "deadline"),
    [
        ("due", "2026-12-28T00:00:00+01:00"),
        ("due-2d", "2026-12-26T00:00:00+01:00"),
        ("due-1bd", "2026-12-24T00:00:00+01:00"),
        ("due-36h", "2026-12-26T12:00:00+01:00"),
    ],
)
def test_any_stage_may_count_back_from_the_due_date_by_any_duration(written: str, deadline: str) -> None:
    due = facts(due_date=date(2026, 12, 28))
    assert waiting(deadline=written).deadline("authorization", due, None, MONDAY) == parse(deadline)


def test_a_day_from_now_is_24_hours() -> None:
    eve = parse("2026-10-24T12:00:00+02:00")
    assert DEFAULT_POLICY.deadline("posting", facts(days=0), eve, eve) == parse("2026-10-25T11:00:00+01:00")


def test_alerts_repeat_in_business_days() -> None:
    deadline = parse("2026-12-24T10:15:00+01:00")
    due = [policy().due("authorization", facts(), deadline, step) for step in range(4)]
    assert due == [
        deadline,
        parse("2026-12-28T10:15:00+01:00"),
        parse("2026-12-29T10:15:00+01:00"),
        parse("2026-12-30T10:15:00+01:00"),
    ]


def test_alerts_after_a_deadline_on_a_day_off_count_from_the_next_business_day() -> None:
    saturday = parse("2026-11-28T10:15:00+01:00")
    assert policy().due("authorization", facts(), saturday, 1) == parse("2026-12-01T00:00:00+01:00")


def test_alerts_repeat_in_hours() -> None:
    hourly = waiting(deadline="1h", escalate_every="90m", critical_at=2, give_up_at=3)
    assert hourly.due("authorization", facts(), MONDAY, 2) == MONDAY + 3 * HOUR
    steps = [
        hourly.step("authorization", facts(), MONDAY, MONDAY + minutes * MINUTE) for minutes in (-1, 0, 89, 90, 180)
    ]
    assert steps == [0, 1, 1, 2, 3]
    assert hourly.step("authorization", facts(), MONDAY, MONDAY + 365 * DAY) == 3


def test_the_step_changes_at_the_instant_when_an_alert_is_due() -> None:
    deadline = parse("2026-12-24T10:15:00+01:00")
    second = parse("2026-12-28T10:15:00+01:00")
    instants = [deadline - 1, deadline, second - 1, second, second + 1, second + DAY - 1, second + DAY, LATEST]
    assert [policy().step("authorization", facts(), deadline, now) for now in instants] == [0, 1, 1, 2, 2, 2, 3, 20]


def test_an_alert_is_due_even_if_the_clocks_went_back_to_the_previous_date() -> None:
    # In St. John's, 2010-11-07 00:01 was followed by 2010-11-06 23:01.
    calendar = CalendarSpec("CA", "America/St_Johns", weekend=())
    every_day = StageSpec(escalate_every="1bd")
    own = build_policy(PolicySpec(calendar, StagesSpec(authorization=every_day)), frozenset())
    deadline, second = parse("2010-11-06T00:00:30-02:30"), parse("2010-11-07T00:00:30-02:30")
    assert own.due("authorization", facts(), deadline, 1) == second
    assert own.step("authorization", facts(), deadline, second - 1) == 1
    assert own.step("authorization", facts(), deadline, second + MINUTE) == 2


@pytest.mark.parametrize(
    ("terms", "deadline"),
    [
        (facts(days=10**18), LATEST),
        (facts(due_date=date.max), LATEST),
        (facts(days=-(10**18)), MONDAY + DAY),
        (facts(due_date=date.min), MONDAY + DAY),
    ],
)
def test_payment_terms_out_of_range_have_a_deadline(terms: Facts, deadline: Instant) -> None:
    assert DEFAULT_POLICY.deadline("posting", terms, MONDAY, MONDAY) == deadline


def test_severity_and_the_last_alert() -> None:
    severities = [FIRST_POLICY.severity("posting", facts(), step) for step in range(4)]
    assert severities == ["warning", "warning", "critical", "critical"]
    assert FIRST_POLICY.severity("authorization", facts(), 2) == "warning"
    assert FIRST_POLICY.give_up_at("ingestion", facts()) == 6
    assert FIRST_POLICY.give_up_at("posting", facts()) == 20


@pytest.mark.parametrize(
    ("when", "invoice", "matches"),
    [
        (WhenSpec(vendor_tier="gold"), facts(tier="gold"), True),
        (WhenSpec(vendor_tier="gold"), facts(tier="Gold"), False),
        (WhenSpec(vendor_tier="gold"), facts(), False),
        (WhenSpec(vendor="V-42"), facts(), True),
        (WhenSpec(vendor="V-4"), facts(), False),
        (WhenSpec(currency="EUR"), facts(), True),
        (WhenSpec(currency="USD"), facts(), False),
        (WhenSpec(currency="EUR", amount_from="1250"), facts("1250.00"), True),
        (WhenSpec(currency="EUR", amount_from="1250.01"), facts("1250.00"), False),
        (WhenSpec(currency="EUR", amount_from=1250), facts("1250.00"), True),
        (WhenSpec(currency="USD", amount_from="0"), facts("1250.00"), False),
        (WhenSpec(currency="EUR", amount_to="1250"), facts("1250.00"), False),
        (WhenSpec(currency="EUR", amount_to="1250.01"), facts("1250.00"), True),
        (WhenSpec(currency="EUR", amount_from="1000", amount_to="2000"), facts("1250.00"), True),
        (WhenSpec(currency="EUR", amount_from="1000", amount_to="2000"), facts("999.99"), False),
        # A credit note is below every invoice, however great.
        (WhenSpec(currency="EUR", amount_from="10000"), facts("-20000"), False),
        (WhenSpec(currency="EUR", amount_to=0), facts("-20000"), True),
        (WhenSpec(currency="EUR", amount_to=0), facts("0"), False),
        # Amounts that are equal as floats.
        (WhenSpec(currency="EUR", amount_from="999999999999999999"), facts("999999999999999998"), False),
        (WhenSpec(terms_days_from=60), facts(days=60), True),
        (WhenSpec(terms_days_from=60), facts(days=59), False),
        (WhenSpec(terms_days_from=0), facts(days=0), True),
        (WhenSpec(terms_days_from=0), facts(due_date=date(2026, 12, 28)), False),
        (WhenSpec(terms_days_from=0), facts(), False),
        (WhenSpec(vendor="V-42", vendor_tier="gold"), facts(), False),
        (WhenSpec(vendor="V-42", vendor_tier="gold"), facts(tier="gold"), True),
    ],
)
def test_all_conditions_of_an_override_must_match(when: WhenSpec, invoice: Facts, matches: bool) -> None:
    assert when.read().matches(invoice) is matches


def test_the_first_matching_override_wins_and_changes_only_its_keys() -> None:
    stage = StageSpec(
        deadline="5d",
        overrides=(
            OverrideSpec(WhenSpec(vendor="V-1")),
            OverrideSpec(WhenSpec(vendor_tier="gold"), deadline="1d", critical_at=1),
            OverrideSpec(WhenSpec(currency="EUR"), deadline="2d", escalate_every="12h", give_up_at=5),
        ),
    )
    own = policy(authorization=stage)

    def found(invoice: Facts) -> tuple[Instant, Instant, str, int]:
        return (
            (own.deadline("authorization", invoice, None, MONDAY) - MONDAY) // DAY,
            own.due("authorization", invoice, MONDAY, 1) - MONDAY,
            own.severity("authorization", invoice, 1),
            own.give_up_at("authorization", invoice),
        )

    assert found(facts(vendor="V-1", tier="gold")) == (5, DAY, "warning", 20)
    assert found(facts(tier="gold")) == (1, DAY, "critical", 20)
    assert found(facts()) == (2, 12 * HOUR, "warning", 5)
    assert found(facts(currency="USD")) == (5, DAY, "warning", 20)
    assert own.deadline("posting", facts(tier="gold"), None, MONDAY) == parse("2026-12-18T00:00:00+01:00")


def test_keys_that_a_spec_leaves_out_have_the_default() -> None:
    own = build_policy(PolicySpec(stages=StagesSpec(authorization=StageSpec(deadline="9bd"))), DAYS_OFF)
    assert own.give_up_at("authorization", facts()) == 5
    assert own.deadline("reconciliation", facts(), None, MONDAY) == parse("2026-11-30T10:15:00+01:00")
    assert own.give_up_at("ingestion", facts()) == 4
    assert own.critical_amounts == DEFAULT_POLICY.critical_amounts != {}


def test_either_form_of_the_intervals_replaces_those_of_the_default() -> None:
    constant = build_policy(PolicySpec(stages=StagesSpec(authorization=StageSpec(escalate_every="1bd"))), DAYS_OFF)
    rule = constant.stages["authorization"].rule
    assert (str(rule.escalate_every), rule.growth) == ("1bd", Decimal(1))
    growing = StageSpec(escalate=EscalationSpec("1d", 3))
    rule = build_policy(PolicySpec(stages=StagesSpec(authorization=growing)), DAYS_OFF).stages["authorization"].rule
    assert (str(rule.escalate_every), rule.growth) == ("1d", Decimal(3))
    both = StageSpec(escalate_every="1bd", escalate=EscalationSpec("1d"))
    with pytest.raises(ValueError, match="authorization: escalate_every and escalate are two ways to say one thing"):
        build_policy(PolicySpec(stages=StagesSpec(authorization=both)), DAYS_OFF)


@pytest.mark.parametrize(
    ("every", "growth", "offsets"),
    [
        ("1d", 1, [0, 1, 2, 3, 4]),
        ("1d", 2, [0, 1, 3, 7, 15]),
        ("2d", 3, [0, 2, 8, 26, 80]),
        ("2d", 1.5, [0, 2, 5, 9, 15]),
    ],
)
def test_intervals_grow(every: str, growth: float, offsets: list[int]) -> None:
    own = policy(authorization=StageSpec("3d", escalate=EscalationSpec(every, growth), give_up_at=5, overrides=()))
    due = [own.due("authorization", facts(), MONDAY, step) for step in range(5)]
    assert due == [MONDAY + offset * DAY for offset in offsets]
    assert [own.step("authorization", facts(), MONDAY, at) for at in due] == [1, 2, 3, 4, 5]
    assert [own.step("authorization", facts(), MONDAY, at - 1) for at in due] == [0, 1, 2, 3, 4]


@given(st.integers(1, 30), st.sampled_from([1, 1.2, 2, 3.7, 10]), st.integers(0, 40), st.sampled_from(["d", "bd", "h"]))
def test_alert_n_is_due_when_its_step_is_reached(amount: int, growth: float, step: int, unit: str) -> None:
    every = EscalationSpec(f"{amount}{unit}", growth)
    own = policy(authorization=StageSpec("3d", escalate=every, give_up_at=41, overrides=()))
    due = own.due("authorization", facts(), MONDAY, step)
    if due < LATEST:
        assert own.step("authorization", facts(), MONDAY, due) >= step + 1
        assert own.step("authorization", facts(), MONDAY, due - 1) <= step


def test_intervals_of_business_days_grow() -> None:
    own = policy(authorization=StageSpec("3bd", escalate=EscalationSpec("1bd", 2), give_up_at=4, overrides=()))
    due = [own.due("authorization", facts(), MONDAY, step) for step in range(4)]
    assert [str(to_datetime(at).date()) for at in due] == ["2026-11-23", "2026-11-24", "2026-11-26", "2026-12-02"]


def test_no_alert_below_the_amount_of_its_currency_is_critical() -> None:
    spec = PolicySpec(critical_amount_from={"EUR": "1000.50", "JPY": 5000})
    own = build_policy(spec, frozenset())
    assert [own.severity("posting", facts(amount), 3) for amount in ("1000.49", "1000.50")] == ["warning", "critical"]
    assert own.severity("posting", facts("4999", "JPY"), 3) == "warning"
    assert own.severity("posting", facts("-1", "USD"), 3) == "critical"
    assert own.severity("posting", facts("5000"), 2) == "warning"
    assert (
        own.digest != build_policy(PolicySpec(critical_amount_from={"EUR": "1000.51", "JPY": 5000}), frozenset()).digest
    )


def test_who_sets_critical_at_has_no_amounts_of_the_default() -> None:
    own = StageSpec(critical_at=5), StageSpec(overrides=(OverrideSpec(WhenSpec(vendor="V-1"), critical_at=1),))
    for stage in own:
        assert build_policy(PolicySpec(stages=StagesSpec(posting=stage)), frozenset()).critical_amounts == {}
    other = build_policy(PolicySpec(stages=StagesSpec(posting=StageSpec(deadline="9bd"))), frozenset())
    assert other.critical_amounts == DEFAULT_POLICY.critical_amounts


def test_days_count_from_the_baseline_date_or_else_the_issue_date() -> None:
    def due(**terms: Any) -> Instant:
        stated = PaymentTerms(30, baseline_date=terms.get("baseline"))
        invoice = structs.replace(facts(), payment_terms=stated, issue_date=terms.get("issued"))
        return policy().deadline("posting", invoice, MONDAY, MONDAY)

    assert due() == parse("2026-12-18T00:00:00+01:00")
    assert due(issued=date(2026, 11, 30)) == parse("2026-12-24T00:00:00+01:00")
    assert due(issued=date(2026, 11, 30), baseline=date(2026, 12, 1)) == parse("2026-12-28T00:00:00+01:00")


def test_some_invoices_need_no_match() -> None:
    exempt = MatchExemption(WhenSpec(has_purchase_order=False)), MatchExemption(WhenSpec(buyer="2000"))
    reconciliation = structs.replace(ReconciliationSpec(), not_required=exempt)
    own = build_policy(PolicySpec(stages=StagesSpec(reconciliation=reconciliation)), frozenset())
    ordered = structs.replace(facts(), purchase_orders=("45",))
    assert not own.requires_match(facts())
    assert own.requires_match(ordered)
    assert own.requires_match(structs.replace(ordered, buyer=Buyer("1000")))
    assert not own.requires_match(structs.replace(ordered, buyer=Buyer("2000")))
    assert DEFAULT_POLICY.requires_match(facts())
    assert own.digest != DEFAULT_POLICY.digest
    assert policy_from_json(policy_to_json(own)) == own


@pytest.mark.parametrize("stage", STAGES)
def test_a_policy_without_overrides_treats_all_vendors_alike(stage: Stage) -> None:
    gold = facts("10000", tier="gold")
    assert DEFAULT_POLICY.stages[stage].overrides == ()
    own = build_policy(PolicySpec(stages=msgspec.convert({stage: {"deadline": "5d"}}, StagesSpec)), frozenset())
    assert own.deadline(stage, gold, None, MONDAY) == MONDAY + 5 * DAY


def test_a_spec_adds_its_days_off_to_the_public_holidays() -> None:
    calendar = CalendarSpec("SA", "Asia/Riyadh", weekend=("friday", "saturday"), days_off=(date(2026, 11, 24),))
    own = build_policy(PolicySpec(calendar), frozenset({date(2026, 11, 25)}))
    monday = parse("2026-11-23T10:15:00+03:00")
    assert own.deadline("authorization", facts(), None, monday) == parse("2026-11-30T10:15:00+03:00")
    assert own.calendar.weekend == {4, 5}


CHRISTMAS, SATURDAY, FRIDAY = date(2026, 12, 25), date(2026, 1, 10), date(2026, 1, 2)


@pytest.mark.parametrize(
    ("calendar", "business_days", "days_off"),
    [
        ({}, [SATURDAY], [CHRISTMAS, FRIDAY]),
        ({"weekend": ("sunday",)}, [SATURDAY, date(2026, 1, 17)], [CHRISTMAS, date(2026, 1, 18)]),
        ({"weekend": ("saturday", "sunday")}, [SATURDAY], [date(2026, 1, 17)]),
        ({"days_off": (SATURDAY,)}, [], [SATURDAY, CHRISTMAS]),
        ({"days_on": (CHRISTMAS,)}, [CHRISTMAS, SATURDAY], [FRIDAY]),
        ({"days_on": (date(2026, 1, 18),)}, [date(2026, 1, 18)], [date(2026, 1, 25)]),
    ],
)
def test_a_calendars_dates_take_precedence_over_its_countrys(
    calendar: dict[str, tuple[Weekday | date, ...]], business_days: list[date], days_off: list[date]
) -> None:
    spec = msgspec.convert({"country": "HU", "timezone": "Europe/Budapest", **calendar}, CalendarSpec)
    calendar_of_policy = build_policy(PolicySpec(spec), frozenset({CHRISTMAS, FRIDAY}), frozenset({SATURDAY})).calendar
    assert all(calendar_of_policy.is_business_day(day) for day in business_days)
    assert not any(calendar_of_policy.is_business_day(day) for day in days_off)
    assert not calendar_of_policy.days_off & calendar_of_policy.days_on


def test_the_weekend_defaults_to_the_countrys() -> None:
    spec = PolicySpec(CalendarSpec("SA", "Asia/Riyadh"))
    assert build_policy(spec, frozenset(), weekend=("friday", "saturday")).calendar.weekend == {4, 5}


def test_a_date_in_days_off_and_days_on_is_refused() -> None:
    calendar = CalendarSpec("HU", "Europe/Budapest", days_off=(SATURDAY,), days_on=(SATURDAY,))
    with pytest.raises(ValueError, match="2026-01-10 is in days_off and in days_on: leave it out of one"):
        build_policy(PolicySpec(calendar), frozenset())


def test_the_digest_depends_on_everything_that_decisions_use() -> None:
    assert policy().digest == policy().digest
    assert len(DEFAULT_POLICY.digest) == 16 and int(DEFAULT_POLICY.digest, 16)
    when = [WhenSpec(currency="EUR", amount_from=amount) for amount in ("1000", "1000.00", "1001")]
    same, equal, other = (policy(posting=StageSpec(overrides=(OverrideSpec(one, "1d"),))) for one in when)
    assert same == equal != other
    assert same.digest == equal.digest != other.digest
    calendars = [
        CalendarSpec("NL", "Europe/Amsterdam"),
        CalendarSpec("NL", "Europe/Berlin"),
        CalendarSpec("NL", "Europe/Amsterdam", weekend=("sunday",)),
        CalendarSpec("NL", "Europe/Amsterdam", days_off=(SATURDAY,)),
        CalendarSpec("NL", "Europe/Amsterdam", days_on=(SATURDAY,)),
    ]
    assert len({build_policy(PolicySpec(one), frozenset()).digest for one in calendars}) == len(calendars)
    # Stored with every transition, so that of version 0.1.0's default must never change.
    assert FIRST_POLICY.digest == "90e80e715246ee18"


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ({}, "there is no condition: use at least one of"),
        ({"amount_from": Decimal(1)}, "different currencies do not compare: name a currency too"),
        ({"amount_to": Decimal(1), "vendor": "V"}, "different currencies do not compare"),
        ({"currency": "EUR", "amount_from": Decimal(2), "amount_to": Decimal(2)}, "no amount is from 2 and below 2"),
    ],
)
def test_contradictory_conditions_are_refused(when: dict[str, str | Decimal], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        When(**when)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (StageSpec(deadline="soon"), 'authorization: "soon" is not a deadline'),
        (StageSpec(deadline=""), 'authorization: "" is not a deadline'),
        (StageSpec(escalate_every="due"), "authorization: .* only a deadline may"),
        (StageSpec(critical_at=0), "authorization: critical_at 0: use 1 to 1000"),
        (StageSpec(give_up_at=1001), "authorization: give_up_at 1001: use 1 to 1000"),
    ],
)
def test_invalid_rules_are_refused(spec: StageSpec, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        policy(authorization=spec)


def test_a_policy_may_give_up_before_any_alert_is_critical() -> None:
    brief = policy(authorization=StageSpec(give_up_at=2))
    assert [brief.severity("authorization", facts(), step) for step in (1, 2)] == ["warning", "warning"]
    assert brief.give_up_at("authorization", facts()) == 2


fixed = st.builds(lambda amount, unit: f"{amount}{unit}", st.integers(1, 40), st.sampled_from(["m", "h", "d"]))
business = st.integers(1, 40).map(lambda amount: f"{amount}bd")
durations = st.one_of(fixed, business)
deadlines = st.one_of(durations, durations.map(lambda duration: f"due-{duration}"), st.just("due"))
whens = st.builds(
    WhenSpec,
    currency=st.sampled_from(["EUR", "USD"]),
    vendor_tier=st.none() | st.just("gold"),
    amount_from=st.none() | st.integers(-100, 100),
    terms_days_from=st.none() | st.integers(0, 60),
)
alerts = st.integers(1, 1000)
stages = st.builds(
    lambda deadline, every, last, overrides: StageSpec(deadline, every, 1, last, tuple(overrides)),
    deadlines,
    durations,
    alerts,
    st.lists(
        st.builds(OverrideSpec, whens, st.none() | deadlines, st.none() | durations, st.just(1), alerts), max_size=2
    ),
)
calendars = st.builds(
    CalendarSpec,
    st.just("NL"),
    st.sampled_from(["Europe/Amsterdam", "America/New_York", "Pacific/Apia", "Asia/Beirut"]),
    weekend=st.sampled_from([("saturday", "sunday"), (), ("monday", "tuesday", "wednesday")]),
)
policies = st.builds(
    lambda calendar, stage: build_policy(PolicySpec(calendar, StagesSpec(authorization=stage)), DAYS_OFF),
    calendars,
    stages,
)
any_facts = st.builds(
    Facts,
    amount=st.decimals(),
    currency=st.sampled_from(["EUR", "USD", ""]),
    vendor=st.builds(Vendor, st.text(max_size=3), tier=st.none() | st.just("gold")),
    source=st.just(Source("sap")),
    payment_terms=st.none()
    | st.builds(PaymentTerms, st.none() | st.integers() | st.integers(0, 90), st.none() | st.dates()),
)
near = st.integers(parse("2011-12-01T00:00:00Z"), parse("2012-02-01T00:00:00Z")) | st.integers(
    MONDAY, MONDAY + 900 * DAY
)
instants = near | st.integers(-(10**18), 10**18) | st.integers(LATEST - 400 * DAY, LATEST + DAY)


@settings(derandomize=True, max_examples=400)
@given(policies, any_facts, instants, instants, st.integers(0, 1000))
def test_the_step_is_the_number_of_alerts_that_are_due(
    own: Policy, invoice: Facts, deadline: Instant, now: Instant, later: int
) -> None:
    last = own.give_up_at("authorization", invoice)
    for instant in (now, own.due("authorization", invoice, deadline, later), deadline + later * DAY):
        due = sum(own.due("authorization", invoice, deadline, step) <= instant for step in range(last))
        assert own.step("authorization", invoice, deadline, instant) == due
        before = sum(own.due("authorization", invoice, deadline, step) < instant for step in range(last))
        assert own.step("authorization", invoice, deadline, instant - 1) == before


@settings(derandomize=True, max_examples=300)
@given(policies, any_facts, instants, instants, instants, st.integers(0, 1000))
def test_steps_and_due_instants_are_monotonic(
    own: Policy, invoice: Facts, deadline: Instant, now: Instant, later: Instant, step: int
) -> None:
    now, later = sorted((now, later))
    assert own.step("authorization", invoice, deadline, now) <= own.step("authorization", invoice, deadline, later)
    assert own.due("authorization", invoice, deadline, 0) == deadline
    assert own.due("authorization", invoice, deadline, step) <= own.due("authorization", invoice, deadline, step + 1)


@settings(derandomize=True, max_examples=300)
@given(policies, any_facts, st.none() | instants, instants, st.sampled_from(STAGES))
def test_every_invoice_has_a_deadline_after_now(
    own: Policy, invoice: Facts, ingested: Instant | None, now: Instant, stage: Stage
) -> None:
    deadline = own.deadline(stage, invoice, ingested, now)
    assert deadline <= LATEST
    assert deadline > now or now >= LATEST
    if stage == "posting":
        assert deadline >= min(now + DAY, LATEST)

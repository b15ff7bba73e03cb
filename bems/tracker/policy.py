"""SLA policy: the deadline of each stage, the alerts after it, and when an invoice is parked.

`PolicySpec` is the content of a policy file; its calendar names a country. `Policy` is the expanded form that the
decisions use; its calendar holds dates only. `bems.calendars.expand` converts a spec to a policy and looks up the
country's public holidays.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from bems.tracker.actions import Severity
from bems.tracker.calendars import BusinessCalendar
from bems.tracker.contract import STAGES, Amount, Country, CurrencyCode, Facts, Identifier, Label, Stage
from bems.tracker.durations import BeforeDue, Duration, parse_deadline, parse_duration
from bems.tracker.instants import DAY, LATEST, Instant
from bems.validation.error_messages import join_choices

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

DEFAULT_TERMS_DAYS = 30
"""Days from ingestion to payment of an invoice without a due date or payment terms."""

WaitsFrom = Literal["decision", "occurrence"]

SpecT = TypeVar("SpecT", bound="StageSpec")

MAX_ALERTS = 1000
"""Maximum number of alerts of one wait."""

_CONDITIONS = (
    "vendor_tier", "vendor", "currency", "amount_from", "amount_to", "terms_days_from", "buyer", "has_purchase_order",
)  # fmt: skip

MAX_GROWTH = 10
_MAX_ESCALATION = 10_000_000
"""Upper bound of the units (days, hours, ...) between the deadline and an alert: later than any instant."""

TWO_INTERVALS = "escalate_every and escalate are two ways to say one thing: leave one out"
"""Error of a rule with both keys."""

AlertNumber = Annotated[int, Meta(ge=1, le=MAX_ALERTS, description=f"the number of an alert, 1 to {MAX_ALERTS}")]
TermsDays = Annotated[int, Meta(ge=0, le=3650, description="days from ingestion to payment, 0 to 3650")]
WholeAmount = Annotated[int, Meta(gt=-(10**18), lt=10**18, description="at most 18 digits")]
# The reader of policy files reads 1.5 as text.
Growth = (
    Annotated[float, Meta(ge=1, le=MAX_GROWTH)]
    | Annotated[
        str,
        Meta(
            pattern=r"^([1-9](\.[0-9]{1,4})?|10(\.0{1,4})?)(?!\n)$",
            description=f"a number from 1 to {MAX_GROWTH} with up to 4 decimals",
        ),
    ]
)
Subdivision = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9]{1,8}(?!\n)$", description="ISO 3166-2 without the country, such as BY of DE-BY")
]


@dataclass(frozen=True, slots=True)
class When:
    """Conditions of an override; see `WhenSpec`. Raises ValueError if there is none or they contradict each other."""

    vendor_tier: str | None = None
    vendor: str | None = None
    currency: str | None = None
    amount_from: Decimal | None = None
    amount_to: Decimal | None = None
    terms_days_from: int | None = None
    buyer: str | None = None
    has_purchase_order: bool | None = None

    def __post_init__(self) -> None:
        bounded = self.amount_from is not None or self.amount_to is not None
        if bounded and self.currency is None:
            raise ValueError("amounts of different currencies do not compare: name a currency too")
        if all(getattr(self, name) is None for name in _CONDITIONS):
            raise ValueError(f"there is no condition: use at least one of {join_choices(_CONDITIONS)}")
        if self.amount_from is not None and self.amount_to is not None and self.amount_from >= self.amount_to:
            raise ValueError(
                f"no amount is from {self.amount_from} and below {self.amount_to}: raise amount_to above amount_from"
            )

    def matches(self, facts: Facts) -> bool:
        if self.currency is not None and self.currency != facts.currency:
            return False
        if self.vendor_tier is not None and self.vendor_tier != facts.vendor.tier:
            return False
        if self.vendor is not None and self.vendor != facts.vendor.id:
            return False
        if self.buyer is not None and self.buyer != (facts.buyer.id if facts.buyer else None):
            return False
        if self.has_purchase_order is not None and self.has_purchase_order != bool(facts.purchase_orders):
            return False
        if self.terms_days_from is not None:
            days = facts.payment_terms.days if facts.payment_terms else None
            if days is None or days < self.terms_days_from:
                return False
        if self.amount_from is None and self.amount_to is None:
            return True
        return (
            not facts.amount.is_nan()
            and (self.amount_from is None or facts.amount >= self.amount_from)
            and (self.amount_to is None or facts.amount < self.amount_to)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """When alerts are due, which are critical, and which is the last. Raises ValueError for numbers out of bounds.

    Each interval between two alerts is `growth` times as long as the one before.
    """

    deadline: Duration | BeforeDue
    escalate_every: Duration
    critical_at: int
    give_up_at: int
    growth: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        for name in ("critical_at", "give_up_at"):
            if not 1 <= getattr(self, name) <= MAX_ALERTS:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 to {MAX_ALERTS}")

    def offset(self, alert: int) -> int:
        """Return how many units of `escalate_every` lie between the deadline and alert number `alert` + 1."""
        if self.growth == 1:
            return self.escalate_every.amount * alert
        return _growing_offsets(self.escalate_every.amount, self.growth, MAX_ALERTS)[min(alert, MAX_ALERTS)]

    def count_within(self, units: int) -> int:
        """Return how many alerts after the first one are due within so many units after the deadline."""
        if self.growth == 1:
            return units // self.escalate_every.amount
        return bisect_right(_growing_offsets(self.escalate_every.amount, self.growth, MAX_ALERTS), units) - 1


@lru_cache(maxsize=256)
def _growing_offsets(amount: int, growth: Decimal, count: int) -> tuple[int, ...]:
    """Return 0 and the sums of the first 1 to `count` intervals, which grow from `amount` and are rounded down."""
    offsets, interval = [0], Decimal(amount)
    for _ in range(count):
        offsets.append(min(offsets[-1] + int(interval), _MAX_ESCALATION))
        interval = min(interval * growth, Decimal(_MAX_ESCALATION))
    return tuple(offsets)


@dataclass(frozen=True, slots=True)
class StageRules:
    """Rule of a stage, and the rules of its overrides; the first override that matches an invoice replaces the rule."""

    rule: Rule
    overrides: tuple[tuple[When, Rule], ...] = ()


class WhenSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Conditions of an override. At least one must be set, and all that are set must match.

    Amounts keep their sign: a credit note (negative) is below every positive `amount_from`, and `amount_to: 0` selects
    the credit notes. `terms_days_from` matches only invoices whose payment terms are in days.
    """

    vendor_tier: Label | None = None
    """Tier of the vendor, as in `vendor.tier` of its events."""
    vendor: Identifier | None = None
    """Id of the vendor."""
    currency: CurrencyCode | None = None
    """Currency of the invoice."""
    amount_from: Amount | WholeAmount | None = None
    """Lowest amount, inclusive; requires `currency`."""
    amount_to: Amount | WholeAmount | None = None
    """Highest amount, exclusive; requires `currency`."""
    terms_days_from: TermsDays | None = None
    """Shortest payment terms, inclusive."""
    buyer: Identifier | None = None
    """Id of the buyer, such as a company code."""
    has_purchase_order: bool | None = None
    """Whether the invoice states a purchase order."""

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> When:
        """Convert to a `When`. Raise ValueError if there is no condition or they contradict each other."""
        return When(
            vendor_tier=self.vendor_tier,
            vendor=self.vendor,
            currency=self.currency,
            amount_from=None if self.amount_from is None else Decimal(self.amount_from),
            amount_to=None if self.amount_to is None else Decimal(self.amount_to),
            terms_days_from=self.terms_days_from,
            buyer=self.buyer,
            has_purchase_order=self.has_purchase_order,
        )


class EscalationSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Intervals between alerts."""

    every: str
    """Time from the first alert to the second: `90m`, `12h`, `3d` or `5bd`."""
    growth: Growth = 1
    """How many times as long each interval is as the one before. With 2, `1bd` gives 1, 3, 7, ... days."""


class OverrideSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rule for the invoices that match `when`. Keys that are not set default to those of the stage."""

    when: WhenSpec
    """Conditions of the override."""
    deadline: str | None = None
    """Time until the first alert, in the forms of the stage's `deadline`."""
    escalate_every: str | None = None
    """Time from each alert to the next."""
    critical_at: AlertNumber | None = None
    """Number of the first critical alert."""
    give_up_at: AlertNumber | None = None
    """Number of the last alert, which parks the invoice."""
    escalate: EscalationSpec | None = None
    """Instead of `escalate_every`: intervals between alerts that grow."""


class MatchExemption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Invoices that need no reconciliation."""

    when: WhenSpec
    """Conditions of the invoices."""


class StageSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules of one stage. Keys that are not set default to those of the default policy."""

    deadline: str | None = None
    """Time until the first alert: `90m`, `12h`, `3d` (24 hours each) or `5bd` (business days) from the start of the
    wait, or relative to the due date, `due`, `due-3bd`, `due-2d`, but at least 24 hours from now."""
    escalate_every: str | None = None
    """Time from each alert to the next: `90m`, `12h`, `3d` or `5bd`."""
    critical_at: AlertNumber | None = None
    """Number of the first critical alert; those before it are warnings."""
    give_up_at: AlertNumber | None = None
    """Number of the last alert, which parks the invoice."""
    overrides: tuple[OverrideSpec, ...] | None = None
    """Rules for some invoices; the first that matches applies. The list replaces that of the default policy."""
    escalate: EscalationSpec | None = None
    """Instead of `escalate_every`: intervals between alerts that grow."""


class ReconciliationSpec(StageSpec, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules of the reconciliation, as of every stage, and which invoices need none."""

    not_required: tuple[MatchExemption, ...] = ()
    """Invoices that are matched with nothing, such as those without a purchase order. Without an outcome, their
    reconciliation counts as `not_applicable`."""


class StagesSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules by stage. A stage that is not set has the rules of the default policy."""

    ingestion: StageSpec = StageSpec()
    """How long an invoice with other events may wait for its ingestion."""
    authorization: StageSpec = StageSpec()
    """How long an invoice may wait for its authorization."""
    reconciliation: ReconciliationSpec = ReconciliationSpec()
    """How long an invoice may wait for its reconciliation."""
    posting: StageSpec = StageSpec()
    """How long an invoice may wait for its posting."""


class CalendarSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Calendar in which business days are counted."""

    country: Country
    """Country whose public holidays are days off."""
    timezone: str
    """Time zone of the business days: a name in the IANA database, such as `Europe/Amsterdam`."""
    subdivision: Subdivision | None = None
    """Part of the country with its own holidays."""
    weekend: Annotated[tuple[Weekday, ...], Meta(max_length=6, description="at most six days of the week")] | None = (
        None
    )
    """Days that replace the country's weekend, in every year."""
    days_off: tuple[date, ...] = ()
    """Dates off in addition to the public holidays, even if the country works on them."""
    days_on: tuple[date, ...] = ()
    """Business days, even if they are public holidays or in the weekend."""


class ConfirmationSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a command needs a second person. Without an amount, always."""

    second_person: bool = True
    """Whether another operator must confirm the command within 24 hours."""
    amount_from: Amount | WholeAmount | None = None
    """Amount below which no second person is needed; requires `currency`. Other currencies always need one."""
    currency: CurrencyCode | None = None
    """Currency of `amount_from`."""

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> "ConfirmationRule":
        """Convert to a rule. Raise ValueError if amount and currency are not stated together."""
        if (self.amount_from is None) is not (self.currency is None):
            raise ValueError("amount_from and currency belong together: state both or neither")
        return ConfirmationRule(None if self.amount_from is None else Decimal(self.amount_from), self.currency)


class ActsSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Operators' commands that need a second person."""

    complete: ConfirmationSpec | None = None
    """Recording a stage's completion by hand."""
    cancel: ConfirmationSpec | None = None
    """Cancelling an invoice."""
    park: ConfirmationSpec | None = None
    """Giving up an invoice's alerts."""
    extend: ConfirmationSpec | None = None
    """Extending a deadline."""


@dataclass(frozen=True, slots=True)
class ConfirmationRule:
    """Which invoices a command needs a second person for: those that are not below the amount of the currency."""

    amount_from: Decimal | None = None
    currency: str | None = None

    def applies_to(self, facts: Facts) -> bool:
        if self.amount_from is None or facts.currency != self.currency or facts.amount.is_nan():
            return True
        return abs(facts.amount) >= self.amount_from


def read_acts(spec: ActsSpec) -> dict[str, ConfirmationRule]:
    """Return the rules by the name of the command."""
    specs: dict[str, ConfirmationSpec | None] = structs.asdict(spec)
    return {name: one.read() for name, one in specs.items() if one is not None and one.second_person}


def describe_acts(rules: Mapping[str, ConfirmationRule]) -> ActsSpec:
    """Return the spec of the rules; equal rules give equal specs."""
    return ActsSpec(
        **{
            name: ConfirmationSpec(True, None if rule.amount_from is None else _text(rule.amount_from), rule.currency)
            for name, rule in rules.items()
        }
    )


DEFAULT_CRITICAL_AMOUNTS: dict[str, str | int] = {
    "EUR": 10_000, "USD": 10_000, "GBP": 10_000, "CHF": 10_000, "AUD": 15_000, "CAD": 15_000, "SGD": 15_000,
    "PLN": 40_000, "CNY": 75_000, "DKK": 75_000, "SEK": 100_000, "NOK": 100_000, "CZK": 250_000, "INR": 1_000_000,
    "JPY": 1_500_000, "HUF": 4_000_000,
}  # fmt: skip
"""Critical amounts of the default policy: about 10,000 EUR each, in round numbers of the currency."""


class PolicySpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Content of a policy file. The calendar defaults to that of the default policy."""

    calendar: CalendarSpec = CalendarSpec("NL", "Europe/Amsterdam")
    """Calendar of the business days."""
    stages: StagesSpec = StagesSpec()
    """Deadlines and alerts of each stage."""
    waits_from: WaitsFrom = "decision"
    """Start of a deadline: the `decision` that began the wait, or the `occurrence` of the event that led to it."""
    identity: Literal["on", "off"] | bool = "on"
    """Whether to raise an alert when one invoice id seems to be used for two invoices."""
    critical_amount_from: dict[CurrencyCode, Amount | WholeAmount] | None = None
    """Amounts by currency below which no alert is critical. Alerts in other currencies depend on `critical_at` only.
    Default: about 10,000 EUR, in round numbers of each currency; none if any stage sets its own `critical_at`."""
    acts: ActsSpec = ActsSpec()
    """Operators' commands that need a second person."""


def _default_stage(deadline: str, every: str, give_up_at: int) -> StageSpec:
    escalation = EscalationSpec(every, growth=2)
    return StageSpec(deadline, critical_at=3, give_up_at=give_up_at, overrides=(), escalate=escalation)


DEFAULT_STAGES = StagesSpec(
    ingestion=_default_stage("10bd", "20bd", give_up_at=4),
    authorization=_default_stage("3bd", "10bd", give_up_at=5),
    reconciliation=ReconciliationSpec(*structs.astuple(_default_stage("5bd", "10bd", give_up_at=5))),
    posting=_default_stage("due-3bd", "20bd", give_up_at=4),
)
"""Defaults of the stages and keys that a policy file leaves out. docs/policy.md has the measurements behind them."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Deadlines and alerts of every stage. Its methods are total: no facts make them raise, no instant overflows."""

    calendar: BusinessCalendar
    stages: Mapping[Stage, StageRules] = field(hash=False)
    waits_from: WaitsFrom = "decision"
    identity: bool = True
    critical_amounts: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    match_exemptions: tuple[When, ...] = ()
    acts: Mapping[str, ConfirmationRule] = field(default_factory=dict, hash=False)
    calendar_spec: CalendarSpec | None = field(default=None, compare=False)
    """Spec from which the calendar was built. No decision depends on it."""
    digest: str = field(init=False, compare=False)
    """Hash of everything that decisions depend on: 16 hexadecimal digits."""

    def __post_init__(self) -> None:
        calendar = self.calendar
        content: tuple[object, ...] = (
            calendar.timezone,
            sorted(calendar.weekend),
            [day.isoformat() for day in sorted(calendar.days_off)],
            [day.isoformat() for day in sorted(calendar.days_on)],
            describe_stages(self.stages, self.match_exemptions),
        )
        later_settings = (self.waits_from, self.identity)
        if later_settings != ("decision", True):
            # With the defaults, the digest must stay that of versions before these settings existed.
            content = (*content, *later_settings)
        if self.critical_amounts:
            content = (*content, {name: _text(amount) for name, amount in sorted(self.critical_amounts.items())})
        if self.acts:
            content = (*content, describe_acts(self.acts))
        object.__setattr__(self, "digest", sha256(msgspec.json.encode(content)).hexdigest()[:16])

    def deadline(self, stage: Stage, facts: Facts, ingested_at: Instant | None, now: Instant) -> Instant:
        """Return the deadline of a wait that begins now.

        A deadline of the form `due-...` counts back from the due date of the payment terms. Without a due date, the due
        date is the terms' days (or 30) after the baseline date, or else the issue date, or else the local date of
        `ingested_at`, the ingestion's occurred_at, or of now. Such a deadline is at least 24 hours after now.
        """
        deadline = self._rule(stage, facts).deadline
        if isinstance(deadline, Duration):
            return self._later(now, deadline, deadline.amount)
        due_date, offset = self._due_date(facts, now if ingested_at is None else ingested_at), deadline.offset
        if offset is None:
            before = self.calendar.subtract(due_date, 0)
        else:
            before = self.calendar.subtract(due_date, offset.business_days) - offset.microseconds
        return min(max(before, now + DAY), LATEST)

    def due(self, stage: Stage, facts: Facts, deadline: Instant, step: int) -> Instant:
        """Return when alert number step + 1 is due: `step` intervals after the deadline, never before it."""
        if step <= 0:
            return deadline
        return max(deadline, self._due(deadline, self._rule(stage, facts), step))

    def step(self, stage: Stage, facts: Facts, deadline: Instant, now: Instant) -> int:
        """Return how many alerts are due by now: the count of n from 1 to give_up_at with due(n - 1) <= now."""
        if now < deadline:
            return 0
        rule = self._rule(stage, facts)
        if now >= LATEST:
            return rule.give_up_at
        every = rule.escalate_every
        if every.unit != "bd":
            unit = every.microseconds // every.amount
            return min(rule.give_up_at, rule.count_within((now - deadline) // unit) + 1)
        # The count of local dates may be one too high; due() decides.
        passed = min(rule.give_up_at - 1, rule.count_within(self.calendar.business_days_between(deadline, now)) + 1)
        while passed > 0 and self._due(deadline, rule, passed) > now:
            passed -= 1
        return passed + 1

    def severity(self, stage: Stage, facts: Facts, step: int) -> Severity:
        """Return the severity of alert number `step`."""
        if step < self._rule(stage, facts).critical_at:
            return "warning"
        critical_amount = self.critical_amounts.get(facts.currency)
        is_small = critical_amount is not None and not facts.amount.is_nan() and facts.amount < critical_amount
        return "warning" if is_small else "critical"

    def needs_confirmation(self, command: str, facts: Facts) -> bool:
        """Return whether a command, by its name, needs a second person for an invoice."""
        rule = self.acts.get(command)
        return rule is not None and rule.applies_to(facts)

    def requires_match(self, facts: Facts) -> bool:
        """Return whether the invoice needs a reconciliation."""
        return not any(when.matches(facts) for when in self.match_exemptions)

    def give_up_at(self, stage: Stage, facts: Facts) -> int:
        """Return the number of the last alert, which parks the invoice."""
        return self._rule(stage, facts).give_up_at

    def _rule(self, stage: Stage, facts: Facts) -> Rule:
        rules = self.stages[stage]
        for when, rule in rules.overrides:
            if when.matches(facts):
                return rule
        return rules.rule

    def _due(self, deadline: Instant, rule: Rule, step: int) -> Instant:
        return self._later(deadline, rule.escalate_every, rule.offset(step))

    def _later(self, start: Instant, duration: Duration, amount: int) -> Instant:
        """Return the instant so many of the duration's units later."""
        if duration.unit == "bd":
            return self.calendar.add(start, amount)
        return min(start + duration.microseconds // duration.amount * amount, LATEST)

    def _due_date(self, facts: Facts, ingested_at: Instant) -> date:
        terms = facts.payment_terms
        if terms is not None and terms.due_date is not None:
            return terms.due_date
        days = DEFAULT_TERMS_DAYS if terms is None or terms.days is None else terms.days
        baseline = (terms.baseline_date if terms else None) or facts.issue_date or self.calendar.local_date(ingested_at)
        due = baseline.toordinal() + days
        return date.fromordinal(min(max(due, 1), date.max.toordinal()))


def build_policy(
    spec: PolicySpec,
    days_off: frozenset[date],
    days_on: frozenset[date] = frozenset(),
    weekend: tuple[Weekday, ...] = ("saturday", "sunday"),
) -> Policy:
    """Build the policy of a spec whose country has these public holidays, worked days and weekend.

    The dates of the spec's calendar take precedence over those of the country. Raise ValueError for an invalid rule.
    """
    calendar = spec.calendar
    both = sorted({*calendar.days_off} & {*calendar.days_on})
    if both:
        raise ValueError(f"{both[0]} is in days_off and in days_on: leave it out of one")
    off = days_off.union(calendar.days_off).difference(calendar.days_on)
    on = days_on.union(calendar.days_on).difference(calendar.days_off)
    named = weekend if calendar.weekend is None else calendar.weekend
    policy = assemble_policy(calendar.timezone, off - on, named, spec.stages, on, calendar)
    return replace(
        policy,
        waits_from=spec.waits_from,
        identity=spec.identity in ("on", True),
        critical_amounts=read_critical_amounts(_choose_critical_amounts(spec)),
        acts=read_acts(spec.acts),
    )


def _choose_critical_amounts(spec: PolicySpec) -> Mapping[str, str | int]:
    """Return the policy's critical amounts. A policy that sets a `critical_at` does not inherit the default amounts."""
    if spec.critical_amount_from is not None:
        return spec.critical_amount_from
    stages = [getattr(spec.stages, stage) for stage in STAGES]
    rules = [rule for stage in stages for rule in (stage, *(stage.overrides or ()))]
    return DEFAULT_CRITICAL_AMOUNTS if all(rule.critical_at is None for rule in rules) else {}


def read_critical_amounts(amounts: Mapping[str, str | int]) -> dict[str, Decimal]:
    return {currency: Decimal(amount) for currency, amount in amounts.items()}


def assemble_policy(
    timezone: str,
    days_off: frozenset[date],
    weekend: tuple[Weekday, ...],
    stages: StagesSpec,
    days_on: frozenset[date] = frozenset(),
    calendar_spec: CalendarSpec | None = None,
) -> Policy:
    """Build a policy from the parts of its calendar and its stages' specs. Raise ValueError for an invalid rule."""
    calendar = BusinessCalendar(timezone, days_off, (WEEKDAYS.index(weekday) for weekday in weekend), days_on)
    try:
        exemptions = tuple(exemption.when.read() for exemption in stages.reconciliation.not_required)
    except ValueError as error:
        raise ValueError(f"reconciliation: {error}") from None
    return Policy(
        calendar,
        {stage: _read_stage(stage, getattr(stages, stage)) for stage in STAGES},
        match_exemptions=exemptions,
        calendar_spec=calendar_spec,
    )


def _read_stage(stage: Stage, spec: StageSpec) -> StageRules:
    default: StageSpec = getattr(DEFAULT_STAGES, stage)
    try:
        own = _with_defaults(spec, default)
        overrides = default.overrides if spec.overrides is None else spec.overrides
        return StageRules(
            _rule(own),
            tuple((override.when.read(), _rule(_with_defaults(override, own))) for override in overrides or ()),
        )
    except ValueError as error:
        raise ValueError(f"{stage}: {error}") from None


def describe_stages(stages: Mapping[Stage, StageRules], match_exemptions: tuple[When, ...] = ()) -> StagesSpec:
    """Return the stages' specs with every key set; equal rules give equal specs."""
    specs = {stage: _describe_rules(stages[stage], StageSpec) for stage in STAGES if stage != "reconciliation"}
    exemptions = tuple(MatchExemption(_describe_when(when)) for when in match_exemptions)
    reconciliation = structs.replace(
        _describe_rules(stages["reconciliation"], ReconciliationSpec), not_required=exemptions
    )
    return StagesSpec(**specs, reconciliation=reconciliation)


def _describe_rules(rules: StageRules, spec: type[SpecT]) -> SpecT:
    overrides = tuple(OverrideSpec(_describe_when(when), **_describe_rule(rule)) for when, rule in rules.overrides)
    return spec(**_describe_rule(rules.rule), overrides=overrides)


def _describe_rule(rule: Rule) -> dict[str, Any]:
    """Return the keys of a rule. One whose intervals do not grow has the keys of versions before they could."""
    every, growth = str(rule.escalate_every), rule.growth
    keys = {"deadline": str(rule.deadline), "critical_at": rule.critical_at, "give_up_at": rule.give_up_at}
    if growth == 1:
        return {**keys, "escalate_every": every}
    return {**keys, "escalate": EscalationSpec(every, int(growth) if growth == int(growth) else float(growth))}


def _text(amount: Decimal) -> str:
    return format(amount.normalize(), "f")


def _describe_when(when: When) -> WhenSpec:
    def text(amount: Decimal | None) -> str | None:
        return None if amount is None else _text(amount)

    return WhenSpec(
        vendor_tier=when.vendor_tier,
        vendor=when.vendor,
        currency=when.currency,
        amount_from=text(when.amount_from),
        amount_to=text(when.amount_to),
        terms_days_from=when.terms_days_from,
        buyer=when.buyer,
        has_purchase_order=when.has_purchase_order,
    )


def _with_defaults(spec: StageSpec | OverrideSpec, defaults: StageSpec) -> StageSpec:
    if spec.escalate is not None and spec.escalate_every is not None:
        raise ValueError(TWO_INTERVALS)
    # The two are one setting: a spec with either of them inherits neither.
    intervals = defaults if spec.escalate is None and spec.escalate_every is None else spec
    return StageSpec(
        deadline=defaults.deadline if spec.deadline is None else spec.deadline,
        escalate_every=intervals.escalate_every,
        escalate=intervals.escalate,
        critical_at=defaults.critical_at if spec.critical_at is None else spec.critical_at,
        give_up_at=defaults.give_up_at if spec.give_up_at is None else spec.give_up_at,
    )


def _rule(spec: StageSpec) -> Rule:
    escalation = spec.escalate or EscalationSpec(spec.escalate_every or "")
    deadline, every = parse_deadline(spec.deadline or ""), parse_duration(escalation.every)
    return Rule(deadline, every, spec.critical_at or 0, spec.give_up_at or 0, Decimal(str(escalation.growth)))


DEFAULT_POLICY = build_policy(PolicySpec(), frozenset())
"""Default policy in Europe/Amsterdam, with weekends but no public holidays.

A runtime uses `bems.calendars.expand(PolicySpec`, which has the public holidays.
"""

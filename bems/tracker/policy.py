"""The SLA policy: how long each stage may take, when alerts follow, and when to give up.

`Policy` is the expanded form that the decisions ask. `PolicySpec` is what a file says: its calendar names a country,
whose public holidays a shell looks up (`bems.calendars.expand`) because the tracker sees only dates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from bems.tracker.actions import Severity
from bems.tracker.calendars import BusinessCalendar
from bems.tracker.contract import STAGES, Amount, Country, CurrencyCode, Facts, Identifier, Label, Stage
from bems.tracker.durations import BeforeDue, Duration, parse_deadline, parse_duration
from bems.tracker.instants import DAY, LATEST, Instant
from bems.validation.error_messages import join_choices

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

DEFAULT_TERMS_DAYS = 30
"""Days from ingestion to payment of an invoice that names neither a due date nor its terms."""

WaitsFrom = Literal["decision", "occurrence"]

MAX_ALERTS = 1000

_CONDITIONS = ("vendor_tier", "vendor", "currency", "amount_from", "amount_to", "terms_days_from")

AlertNumber = Annotated[int, Meta(ge=1, le=MAX_ALERTS, description=f"the number of an alert, 1 to {MAX_ALERTS}")]
TermsDays = Annotated[int, Meta(ge=0, le=3650, description="days from ingestion to payment, 0 to 3650")]
WholeAmount = Annotated[int, Meta(gt=-(10**18), lt=10**18, description="at most 18 digits")]
Subdivision = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9]{1,8}(?!\n)$", description="ISO 3166-2 without the country, such as BY of DE-BY")
]


@dataclass(frozen=True, slots=True)
class When:
    """The conditions of an override, as in `WhenSpec`. ValueError for conditions that make no sense together."""

    vendor_tier: str | None = None
    vendor: str | None = None
    currency: str | None = None
    amount_from: Decimal | None = None
    amount_to: Decimal | None = None
    terms_days_from: int | None = None

    def __post_init__(self) -> None:
        bounded = self.amount_from is not None or self.amount_to is not None
        if bounded and self.currency is None:
            raise ValueError("amounts of different currencies do not compare: name a currency too")
        if not (bounded or self.currency or self.vendor or self.vendor_tier or self.terms_days_from is not None):
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
    """When alerts are due, which are critical, and which is the last. ValueError for numbers out of bounds."""

    deadline: Duration | BeforeDue
    escalate_every: Duration
    critical_at: int
    give_up_at: int

    def __post_init__(self) -> None:
        for name in ("critical_at", "give_up_at"):
            if not 1 <= getattr(self, name) <= MAX_ALERTS:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 to {MAX_ALERTS}")


@dataclass(frozen=True, slots=True)
class StageRules:
    """The rule of a stage, and those that the invoices of its overrides have in its place; the first match wins."""

    rule: Rule
    overrides: tuple[tuple[When, Rule], ...] = ()


class WhenSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The conditions of an override; all that are named must match, and at least one must be named.

    Amounts are compared as they are, so a credit note (negative) lies below every positive `amount_from`, and
    `amount_to: 0` selects the credit notes. `terms_days_from` matches only invoices that name their terms in days.
    """

    vendor_tier: Label | None = None
    vendor: Identifier | None = None
    """The vendor's id."""
    currency: CurrencyCode | None = None
    amount_from: Amount | WholeAmount | None = None
    """Inclusive; with `currency` only."""
    amount_to: Amount | WholeAmount | None = None
    """Exclusive; with `currency` only."""
    terms_days_from: TermsDays | None = None
    """Inclusive."""

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> When:
        """ValueError for conditions that make no sense together."""
        return When(
            vendor_tier=self.vendor_tier,
            vendor=self.vendor,
            currency=self.currency,
            amount_from=None if self.amount_from is None else Decimal(self.amount_from),
            amount_to=None if self.amount_to is None else Decimal(self.amount_to),
            terms_days_from=self.terms_days_from,
        )


class OverrideSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is different for the invoices that match `when`; what it does not name stays as its stage says."""

    when: WhenSpec
    deadline: str | None = None
    escalate_every: str | None = None
    critical_at: AlertNumber | None = None
    give_up_at: AlertNumber | None = None


class StageSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rules of one stage; what it does not name is as in the default policy."""

    deadline: str | None = None
    """`90m`, `12h`, `3d`, `5bd` from when the wait begins, or `due`, `due-3bd`, `due-2d` (never before now + 24 h)."""
    escalate_every: str | None = None
    critical_at: AlertNumber | None = None
    """The first alert that is critical; those before it are warnings."""
    give_up_at: AlertNumber | None = None
    """The last alert, which parks the invoice."""
    overrides: tuple[OverrideSpec, ...] | None = None
    """The first that matches wins. Those that are given are all there are."""


class StagesSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rules by stage; a stage that is not named is as in the default policy."""

    ingestion: StageSpec = StageSpec()
    authorization: StageSpec = StageSpec()
    reconciliation: StageSpec = StageSpec()
    posting: StageSpec = StageSpec()


class CalendarSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where business days are counted."""

    country: Country
    timezone: str
    """A name of the IANA database, such as `Europe/Amsterdam`."""
    subdivision: Subdivision | None = None
    """A part of the country with holidays of its own."""
    weekend: Annotated[tuple[Weekday, ...], Meta(max_length=6, description="at most six days of the week")] | None = (
        None
    )
    """Instead of the country's, in every year."""
    days_off: tuple[date, ...] = ()
    """Dates off besides the public holidays, and though the country works on them."""
    days_on: tuple[date, ...] = ()
    """Business days, though they are public holidays or of the weekend."""


class PolicySpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A policy as its file says it. Without a calendar it counts in that of the default policy."""

    calendar: CalendarSpec = CalendarSpec("NL", "Europe/Amsterdam")
    stages: StagesSpec = StagesSpec()
    waits_from: WaitsFrom = "decision"
    """What a deadline counts from: the `decision`, or the `occurrence` of what the wait follows."""
    identity: Literal["on", "off"] | bool = "on"
    """Whether an alert is raised when one invoice id seems to be used for two invoices; `off` raises none."""


DEFAULT_STAGES = StagesSpec(
    ingestion=StageSpec("10bd", "5bd", critical_at=3, give_up_at=6, overrides=()),
    authorization=StageSpec("3bd", "1bd", critical_at=3, give_up_at=20, overrides=()),
    reconciliation=StageSpec("5bd", "2bd", critical_at=3, give_up_at=20, overrides=()),
    posting=StageSpec("due-3bd", "1bd", critical_at=2, give_up_at=20, overrides=()),
)
"""What a policy says of the stages and keys that its file leaves out."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The deadlines and alerts of every stage. Total: no facts make a method raise, no instant overflows."""

    calendar: BusinessCalendar
    stages: Mapping[Stage, StageRules] = field(hash=False)
    waits_from: WaitsFrom = "decision"
    identity: bool = True
    calendar_spec: CalendarSpec | None = field(default=None, compare=False)
    """What the calendar was made from. No decision depends on it."""
    digest: str = field(init=False, compare=False)
    """16 hexadecimal digits; another policy, be it by one day off, has others."""

    def __post_init__(self) -> None:
        calendar = self.calendar
        content: tuple[object, ...] = (
            calendar.timezone,
            sorted(calendar.weekend),
            [day.isoformat() for day in sorted(calendar.days_off)],
            [day.isoformat() for day in sorted(calendar.days_on)],
            describe_stages(self.stages),
        )
        further = (self.waits_from, self.identity)
        if further != ("decision", True):
            # Policies that leave these out keep the digest that they had before there were any.
            content = (*content, *further)
        object.__setattr__(self, "digest", sha256(msgspec.json.encode(content)).hexdigest()[:16])

    def deadline(self, stage: Stage, facts: Facts, ingested_at: Instant | None, now: Instant) -> Instant:
        """The deadline of a wait that begins now.

        One that counts back from the due date takes the date that the terms name, or else counts their days (or 30)
        from the local date of `ingested_at`, the occurred_at of the ingestion (or of now). It is never before now plus
        24 hours.
        """
        deadline = self._rule(stage, facts).deadline
        if isinstance(deadline, Duration):
            return self._later(now, deadline, 1)
        due_date, offset = self._due_date(facts, now if ingested_at is None else ingested_at), deadline.offset
        if offset is None:
            before = self.calendar.subtract(due_date, 0)
        else:
            before = self.calendar.subtract(due_date, offset.business_days) - offset.microseconds
        return min(max(before, now + DAY), LATEST)

    def due(self, stage: Stage, facts: Facts, deadline: Instant, step: int) -> Instant:
        """When alert number step + 1 is due: `step` times escalate_every after the deadline; never before it."""
        if step <= 0:
            return deadline
        return max(deadline, self._later(deadline, self._rule(stage, facts).escalate_every, step))

    def step(self, stage: Stage, facts: Facts, deadline: Instant, now: Instant) -> int:
        """How many alerts are due by now: the number of n from 1 to give_up_at with due(n - 1) <= now."""
        if now < deadline:
            return 0
        rule = self._rule(stage, facts)
        if now >= LATEST:
            return rule.give_up_at
        every = rule.escalate_every
        if every.unit != "bd":
            return min(rule.give_up_at, (now - deadline) // every.microseconds + 1)
        # Local dates tell the step to within one; due() settles which.
        passed = min(rule.give_up_at - 1, self.calendar.business_days_between(deadline, now) // every.business_days + 1)
        while passed > 0 and self._later(deadline, every, passed) > now:
            passed -= 1
        return passed + 1

    def severity(self, stage: Stage, facts: Facts, step: int) -> Severity:
        """The severity of alert number `step`."""
        return "critical" if step >= self._rule(stage, facts).critical_at else "warning"

    def give_up_at(self, stage: Stage, facts: Facts) -> int:
        """The number of the last alert, which parks the invoice."""
        return self._rule(stage, facts).give_up_at

    def _rule(self, stage: Stage, facts: Facts) -> Rule:
        rules = self.stages[stage]
        for when, rule in rules.overrides:
            if when.matches(facts):
                return rule
        return rules.rule

    def _later(self, start: Instant, duration: Duration, times: int) -> Instant:
        if duration.unit == "bd":
            return self.calendar.add(start, duration.amount * times)
        return min(start + duration.microseconds * times, LATEST)

    def _due_date(self, facts: Facts, ingested_at: Instant) -> date:
        terms = facts.payment_terms
        if terms is not None and terms.due_date is not None:
            return terms.due_date
        days = DEFAULT_TERMS_DAYS if terms is None or terms.days is None else terms.days
        due = self.calendar.local_date(ingested_at).toordinal() + days
        return date.fromordinal(min(max(due, 1), date.max.toordinal()))


def build_policy(
    spec: PolicySpec,
    days_off: frozenset[date],
    days_on: frozenset[date] = frozenset(),
    weekend: tuple[Weekday, ...] = ("saturday", "sunday"),
) -> Policy:
    """The policy of a spec, whose country has these public holidays, worked days and weekend.

    What the spec's calendar says of a day wins over what its country does. ValueError says which rule makes no sense.
    """
    calendar = spec.calendar
    both = sorted({*calendar.days_off} & {*calendar.days_on})
    if both:
        raise ValueError(f"{both[0]} is in days_off and in days_on: leave it out of one")
    off = days_off.union(calendar.days_off).difference(calendar.days_on)
    on = days_on.union(calendar.days_on).difference(calendar.days_off)
    named = weekend if calendar.weekend is None else calendar.weekend
    policy = assemble_policy(calendar.timezone, off - on, named, spec.stages, on, calendar)
    return replace(policy, waits_from=spec.waits_from, identity=spec.identity in ("on", True))


def assemble_policy(
    timezone: str,
    days_off: frozenset[date],
    weekend: tuple[Weekday, ...],
    stages: StagesSpec,
    days_on: frozenset[date] = frozenset(),
    calendar_spec: CalendarSpec | None = None,
) -> Policy:
    """The policy of a calendar's parts and the stages' specs. ValueError as of `build_policy`."""
    calendar = BusinessCalendar(timezone, days_off, (WEEKDAYS.index(weekday) for weekday in weekend), days_on)
    return Policy(
        calendar, {stage: _read_stage(stage, getattr(stages, stage)) for stage in STAGES}, calendar_spec=calendar_spec
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
    except ValueError as fault:
        raise ValueError(f"{stage}: {fault}") from None


def describe_stages(stages: Mapping[Stage, StageRules]) -> StagesSpec:
    """The specs of the stages with nothing left out, the same for equal rules."""
    return StagesSpec(**{stage: _describe_rules(stages[stage]) for stage in STAGES})


def _describe_rules(rules: StageRules) -> StageSpec:
    def texts(rule: Rule) -> tuple[str, str, int, int]:
        return str(rule.deadline), str(rule.escalate_every), rule.critical_at, rule.give_up_at

    overrides = tuple(OverrideSpec(_describe_when(when), *texts(rule)) for when, rule in rules.overrides)
    return StageSpec(*texts(rules.rule), overrides=overrides)


def _describe_when(when: When) -> WhenSpec:
    def text(amount: Decimal | None) -> str | None:
        return None if amount is None else format(amount.normalize(), "f")

    return WhenSpec(
        vendor_tier=when.vendor_tier,
        vendor=when.vendor,
        currency=when.currency,
        amount_from=text(when.amount_from),
        amount_to=text(when.amount_to),
        terms_days_from=when.terms_days_from,
    )


def _with_defaults(spec: StageSpec | OverrideSpec, under: StageSpec) -> StageSpec:
    return StageSpec(
        deadline=under.deadline if spec.deadline is None else spec.deadline,
        escalate_every=under.escalate_every if spec.escalate_every is None else spec.escalate_every,
        critical_at=under.critical_at if spec.critical_at is None else spec.critical_at,
        give_up_at=under.give_up_at if spec.give_up_at is None else spec.give_up_at,
    )


def _rule(spec: StageSpec) -> Rule:
    deadline, every = parse_deadline(spec.deadline or ""), parse_duration(spec.escalate_every or "")
    return Rule(deadline, every, spec.critical_at or 0, spec.give_up_at or 0)


DEFAULT_POLICY = build_policy(PolicySpec(), frozenset())
"""The default numbers in Europe/Amsterdam, with weekends but no public holidays.

A shell wants `bems.calendars.expand(PolicySpec`, which has them.
"""

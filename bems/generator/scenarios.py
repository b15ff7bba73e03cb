"""Scenarios: the history of one invoice, the events that are sent about it, and its final status.

A scenario follows business time, so its final status is known without the rules of the lifecycle. Tests compare it with
the status that the tracker derives from the log, whatever the order, duplication and delay of the events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal, TypeVar

from msgspec import Struct

from bems.generator.vendors import FRIDAY_AND_SATURDAY, HOUR_SECONDS, VendorProfile
from bems.tracker.calendars import SATURDAY_AND_SUNDAY
from bems.tracker.contract import Stage
from bems.tracker.status import Status

MINUTE_SECONDS, DAY_SECONDS = 60, 24 * 3600
EPOCH_DATE, THURSDAY = date(1970, 1, 1).toordinal(), date(1970, 1, 1).weekday()

WeightedChoice = TypeVar("WeightedChoice")


@dataclass(frozen=True, slots=True)
class LogProfile:
    """Probabilities of faults, from 0 to 1. The defaults describe an ordinary company."""

    # Shares of all invoices.
    credit_note: float = 0.04
    early: float = 0.03  # the goods arrive before the invoice
    orphaned: float = 0.012  # the ingestion is never sent or arrives weeks later
    stuck: float = 0.02  # one stage takes weeks or never completes
    cancelled: float = 0.015
    rejected: float = 0.03
    withdrawn: float = 0.004  # approved and rejected later
    disputed: float = 0.06
    failed: float = 0.02

    # Of those.
    orphaned_for_good: float = 0.5
    stuck_for_good: float = 0.3
    reversed: float = 0.4  # rejected and approved later
    disputed_twice: float = 0.15
    disputed_for_good: float = 0.12
    failed_for_good: float = 0.1

    # Shares of all events.
    late: float = 0.02  # sent days after it occurred
    duplicated: float = 0.02
    conflicting: float = 0.001  # sent again with the same id and another amount
    malformed: float = 0.006

    # Of those.
    duplicated_days_later: float = 0.3
    malformed_for_good: float = 0.2  # never corrected and sent again


EVERYDAY = LogProfile()
CLEAN = LogProfile(**dict.fromkeys(LogProfile.__dataclass_fields__, 0.0))
"""No faults: four events per invoice, in order."""

# Business days from one step to the next, of which one is drawn. 0 means up to about three hours later.
AUTHORIZATION_LAGS = (0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 5)
RECONCILIATION_LAGS = (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 7)
POSTING_LAGS = (0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4)
INVOICE_AFTER_GOODS_LAGS = (1, 1, 2, 2, 3, 5)
REVERSAL_LAGS = (1, 2, 2, 3, 5, 8)
REPAIR_LAGS = (1, 2, 2, 3, 4, 6, 10)
REPOST_LAGS = (0, 0, 1, 1, 2)
CANCELLATION_LAGS = (0, 1, 1, 2, 4)
STUCK_LAGS = (8, 10, 12, 15, 20, 25, 30, 40)
MAX_LAG_DAYS = 40

# The stage in which an invoice is stuck, and the step before which it is cancelled, of which one is drawn.
STUCK_STAGES: tuple[Stage, ...] = ("authorization",) * 5 + ("reconciliation",) * 2 + ("posting",) * 3
CANCELLED_BEFORE = ("authorization",) * 4 + ("reconciliation",) * 2 + ("posting",) * 2 + ("the end",)

# Ranges of delays: minimum and maximum.
LATENCY_SECONDS = (1, 90)
LATE_SECONDS = (DAY_SECONDS, 7 * DAY_SECONDS)
WEEKS_LATE_SECONDS = (14 * DAY_SECONDS, 45 * DAY_SECONDS)
RESEND_SECONDS = (2, 2 * MINUTE_SECONDS)
REDELIVERY_SECONDS = (DAY_SECONDS, 9 * DAY_SECONDS)
CORRECTION_SECONDS = (HOUR_SECONDS, 3 * DAY_SECONDS)

OPENING_SECONDS, CLOSING_SECONDS = 8 * HOUR_SECONDS, 18 * HOUR_SECONDS
"""Business hours, after local midnight."""

WEEKEND_SHARE = 0.3
"""Share of the invoices of a weekend that are sent on the weekend itself, not on the next business day."""

MEDIAN_EUROS = 900
"""Median amount of an invoice."""

PURCHASE_ORDER_SHARE = 0.85
"""Share of the invoices that refer to a purchase order."""

Form = Literal["sent", "repeat", "conflict", "malformed"]


class Emission(Struct, frozen=True, gc=False):
    """One line of the log.

    `number` counts the events of the invoice. `arrives` is in UTC seconds since 1970, `occurs` in seconds of the
    vendor's local time since 1970.
    """

    arrives: int
    occurs: int
    stage: Stage
    status: str
    number: int
    form: Form


class Scenario(Struct, frozen=True, gc=False):
    """One invoice.

    `day`      first day, in local days since 1970.
    `details`  JSON of payment terms and attributes.
    `status`   final status after all emissions, or None if no valid event is ever sent.
    """

    number: int
    invoice_id: str
    vendor: VendorProfile
    day: int
    amount: str
    details: str
    status: Status | None
    emissions: tuple[Emission, ...]


def make_scenario(
    number: int, day: int, vendor: VendorProfile, profile: LogProfile, random: Callable[[], float]
) -> Scenario:
    """Make the scenario of an invoice that begins on `day` (local days since 1970) or on the next business day."""
    builder = _ScenarioBuilder(day, vendor, profile, random)
    status = builder.run()
    kind, sign = ("CN", "-") if random() < profile.credit_note else ("INV", "")
    return Scenario(
        number=number,
        invoice_id=f"{kind}/{iso_date(day)[:4]}/{number:06}",
        vendor=vendor,
        day=day,
        amount=builder.amount(sign),
        details=builder.details(),
        status=status if builder.any_valid_event else None,
        emissions=tuple(builder.emissions),
    )


@lru_cache(1024)
def iso_date(day: int) -> str:
    """Return the ISO date of a day since 1970-01-01."""
    return date.fromordinal(EPOCH_DATE + day).isoformat()


def _business_day_offsets(weekend: frozenset[int]) -> list[list[int]]:
    """Return, for each weekday (Monday is 0), the calendar days until the nth business day after it."""
    offsets = []
    for weekday in range(7):
        working = [offset for offset in range(1, 2 * MAX_LAG_DAYS) if (weekday + offset) % 7 not in weekend]
        offsets.append([0, *working[:MAX_LAG_DAYS]])
    return offsets


_DAY_OFFSETS = {weekend: _business_day_offsets(weekend) for weekend in (SATURDAY_AND_SUNDAY, FRIDAY_AND_SATURDAY)}


class _ScenarioBuilder:
    """Builds the scenario of one invoice.

    `now` is the current time of the scenario, in local seconds since 1970. `any_valid_event` is true once a valid event
    was emitted. Each step returns the final status of the invoice, or None if the scenario continues.
    """

    def __init__(self, day: int, vendor: VendorProfile, profile: LogProfile, random: Callable[[], float]) -> None:
        self.vendor, self.profile, self.random = vendor, profile, random
        self.day_offsets = _DAY_OFFSETS[vendor.weekend]
        self.emissions: list[Emission] = []
        self.event_count = 0
        self.any_valid_event = self.goods_arrived = False
        weekend = (day + THURSDAY) % 7 in vendor.weekend
        self.now = self._working_hour(day, 1 if weekend and random() >= WEEKEND_SHARE else 0)
        self.invoice_day = self.now // DAY_SECONDS
        self.cancelled_before = self._pick(CANCELLED_BEFORE) if random() < profile.cancelled else None
        self.stuck_stage = self._pick(STUCK_STAGES) if random() < profile.stuck else None

    def run(self) -> Status:
        if self.random() < self.profile.early:
            self.goods_arrived = self._emit("reconciliation", "matched")
            self._advance_by(INVOICE_AFTER_GOODS_LAGS)
        ingested = self._ingest()
        status = self._authorize() or self._reconcile() or self._post()
        return status if ingested or status == "Cancelled" else "Orphan"

    def amount(self, sign: str) -> str:
        """Draw an amount from an approximately log-normal distribution.

        It is a product of independent factors, because `exp` gives different results on different machines.
        """
        random, vendor = self.random, self.vendor
        euros = MEDIAN_EUROS * 1.0
        for _ in range(3):
            euros *= (0.1 + random()) / (0.1 + random())
        whole, fraction = divmod(max(1, int(euros * vendor.minor_per_euro + 0.5)), 10**vendor.decimals)
        return f"{sign}{whole}.{fraction:0{vendor.decimals}}" if vendor.decimals else f"{sign}{whole}"

    def details(self) -> str:
        """Return payment terms and attributes as JSON that follows the other fields."""
        vendor, terms = self.vendor, ""
        if vendor.terms_style in ("days", "both"):
            terms = f'"days":{vendor.terms_days}'
        if vendor.terms_style in ("due_date", "both"):
            due_date = iso_date(self.invoice_day + vendor.terms_days)
            terms += f'{"," if terms else ""}"due_date":"{due_date}"'
        order = (
            f'"po":"{4_500_000_000 + int(self.random() * 10_000_000)}",' if self.random() < PURCHASE_ORDER_SHARE else ""
        )
        terms_field = f',"payment_terms":{{{terms}}}' if terms else ""
        return f'{terms_field},"attributes":{{{order}"cost_center":"{vendor.cost_center}"}}'

    # -- the steps

    def _ingest(self) -> bool:
        """Emit the ingestion. Returns whether a valid one is ever sent; without it, the invoice stays an orphan."""
        self.invoice_day = self.now // DAY_SECONDS
        if self.random() >= self.profile.orphaned:
            return self._emit("ingestion", "received")
        if self.random() < self.profile.orphaned_for_good:
            return False
        return self._emit("ingestion", "received", WEEKS_LATE_SECONDS)

    def _authorize(self) -> Status | None:
        if self.cancelled_before == "authorization":
            return self._cancel("AwaitingAuthorization")
        if not self._advance_to_stage("authorization", AUTHORIZATION_LAGS):
            return "AwaitingAuthorization"
        if self.random() < self.profile.rejected:
            if not self._emit("authorization", "rejected"):
                return "AwaitingAuthorization"
            self._advance_by(REVERSAL_LAGS)
            if self.random() < self.profile.reversed and self._emit("authorization", "approved"):
                return None
            return "Rejected"
        if not self._emit("authorization", "approved"):
            return "AwaitingAuthorization"
        if self.random() < self.profile.withdrawn:
            self._advance_by(REVERSAL_LAGS)
            if self._emit("authorization", "rejected"):
                return "Rejected"
        return None

    def _reconcile(self) -> Status | None:
        if self.goods_arrived:
            return None
        if self.cancelled_before == "reconciliation":
            return self._cancel("AwaitingReconciliation")
        status: Status = "AwaitingReconciliation"
        if not self._advance_to_stage("reconciliation", RECONCILIATION_LAGS):
            return status
        if self.random() < self.profile.disputed:
            for _ in range(2 if self.random() < self.profile.disputed_twice else 1):
                if self._emit("reconciliation", "mismatched"):
                    status = "Disputed"
                self._advance_by(REPAIR_LAGS)
            if self.random() < self.profile.disputed_for_good:
                return status
        return None if self._emit("reconciliation", "matched") else status

    def _post(self) -> Status:
        status: Status = "AwaitingPosting"
        if self.cancelled_before == "posting":
            return self._cancel(status)
        if not self._advance_to_stage("posting", POSTING_LAGS):
            return status
        if self.random() < self.profile.failed:
            if self._emit("posting", "failed"):
                status = "PostingFailed"
            self._advance_by(REPOST_LAGS)
            if self.random() < self.profile.failed_for_good:
                return status
        if not self._emit("posting", "posted"):
            return status
        return self._cancel("Posted") if self.cancelled_before == "the end" else "Posted"

    def _cancel(self, status_before: Status) -> Status:
        self._advance_by(CANCELLATION_LAGS)
        return "Cancelled" if self._emit("ingestion", "cancelled") else status_before

    # -- time

    def _advance_to_stage(self, stage: Stage, lags: tuple[int, ...]) -> bool:
        """Advance to the time of a stage. Returns False if the stage never completes."""
        if self.stuck_stage == stage:
            if self.random() < self.profile.stuck_for_good:
                return False
            lags = STUCK_LAGS
        self._advance_by(lags)
        return True

    def _advance_by(self, lags: tuple[int, ...]) -> None:
        lag = lags[int(self.random() * len(lags))]
        if lag:
            self.now = self._working_hour(self.now // DAY_SECONDS, lag)
        else:
            self.now += 10 * MINUTE_SECONDS + int(self.random() * 3 * HOUR_SECONDS)

    def _working_hour(self, day: int, lag: int) -> int:
        """Draw a time on the nth business day after a day (0 for that day), most likely around noon."""
        day += self.day_offsets[(day + THURSDAY) % 7][lag]
        return (
            day * DAY_SECONDS
            + OPENING_SECONDS
            + int((self.random() + self.random()) / 2 * (CLOSING_SECONDS - OPENING_SECONDS))
        )

    # -- emissions

    def _emit(self, stage: Stage, status: str, delay: tuple[int, int] | None = None) -> bool:
        """Emit an event with its faults and duplicates. Returns False if it is never sent in a valid form."""
        random, profile = self.random, self.profile
        self.event_count += 1
        arrives = self._later(self.now - self.vendor.utc_offset, LATENCY_SECONDS)
        if delay:
            arrives = self._later(arrives, delay)
        elif random() < profile.late:
            arrives = self._later(arrives, LATE_SECONDS)
        if random() < profile.malformed:
            self._add_emission(arrives, stage, status, "malformed")
            if random() < profile.malformed_for_good:
                return False
            arrives = self._later(arrives, CORRECTION_SECONDS)
        self._add_emission(arrives, stage, status, "sent")
        if random() < profile.duplicated:
            lag = REDELIVERY_SECONDS if random() < profile.duplicated_days_later else RESEND_SECONDS
            self._add_emission(self._later(arrives, lag), stage, status, "repeat")
        if random() < profile.conflicting:
            self._add_emission(self._later(arrives, REDELIVERY_SECONDS), stage, status, "conflict")
        self.any_valid_event = True
        return True

    def _add_emission(self, arrives: int, stage: Stage, status: str, form: Form) -> None:
        self.emissions.append(Emission(arrives, self.now, stage, status, self.event_count, form))

    # -- random draws

    def _later(self, start: int, lag: tuple[int, int]) -> int:
        first, last = lag
        return start + first + int(self.random() * (last - first))

    def _pick(self, choices: tuple[WeightedChoice, ...]) -> WeightedChoice:
        return choices[int(self.random() * len(choices))]

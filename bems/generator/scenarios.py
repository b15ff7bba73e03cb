"""Stories: what happens to one invoice, what is sent of it and when, and the status in which that leaves it.

A story is told along the business's own time, so its end is known without asking the lifecycle's rules: it is what a
log's status can be checked against, whatever the order, repetition and delay of what was sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal, TypeVar

from msgspec import Struct

from bems.generator.vendors import FRIDAY_AND_SATURDAY, SATURDAY_AND_SUNDAY, Vendor
from bems.tracker.contract import Stage
from bems.tracker.status import Status

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60, 3600, 24 * 3600
EPOCH_DATE, THURSDAY = date(1970, 1, 1).toordinal(), date(1970, 1, 1).weekday()

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Profile:
    """How often things go wrong, as shares of 1. The defaults are an ordinary company's."""

    # Of invoices.
    credit_note: float = 0.04
    early: float = 0.03  # the goods came before the invoice
    orphaned: float = 0.012  # its ingestion is never sent, or arrives weeks later
    stuck: float = 0.02  # one stage takes weeks, or never comes
    cancelled: float = 0.015
    rejected: float = 0.03
    withdrawn: float = 0.004  # approved, and rejected later
    disputed: float = 0.06
    failed: float = 0.02

    # Of those.
    orphaned_for_good: float = 0.5
    stuck_for_good: float = 0.3
    reversed: float = 0.4  # rejected, and approved later
    disputed_twice: float = 0.15
    disputed_for_good: float = 0.12
    failed_for_good: float = 0.1

    # Of events.
    late: float = 0.02  # sent days after it occurred
    duplicated: float = 0.02
    conflicting: float = 0.001  # sent again with the same id and another amount
    malformed: float = 0.006

    # Of those.
    duplicated_days_later: float = 0.3
    malformed_for_good: float = 0.2  # nobody noticed; else it is put right and sent again


EVERYDAY = Profile()
CLEAN = Profile(**dict.fromkeys(Profile.__dataclass_fields__, 0.0))
"""Nothing goes wrong: four events an invoice, each in its place."""

# Business days from one step to the next; one of each is drawn. 0 is up to three hours later.
AUTHORIZATION_LAGS = (0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 5)
RECONCILIATION_LAGS = (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 7)
POSTING_LAGS = (0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4)
INVOICE_AFTER_GOODS_LAGS = (1, 1, 2, 2, 3, 5)
REVERSAL_LAGS = (1, 2, 2, 3, 5, 8)
REPAIR_LAGS = (1, 2, 2, 3, 4, 6, 10)
REPOST_LAGS = (0, 0, 1, 1, 2)
CANCELLATION_LAGS = (0, 1, 1, 2, 4)
STUCK_LAGS = (8, 10, 12, 15, 20, 25, 30, 40)
MAX_LAG = 40

# Where it gets stuck and before which step it is cancelled; one of each is drawn.
STUCK_STAGES: tuple[Stage, ...] = ("authorization",) * 5 + ("reconciliation",) * 2 + ("posting",) * 3
CANCELLED_BEFORE = ("authorization",) * 4 + ("reconciliation",) * 2 + ("posting",) * 2 + ("the end",)

# Seconds, from and to.
LATENCY = (1, 90)
LATE = (DAY_SECONDS, 7 * DAY_SECONDS)
WEEKS_LATE = (14 * DAY_SECONDS, 45 * DAY_SECONDS)
RETRIED = (2, 2 * MINUTE_SECONDS)
REDELIVERED = (DAY_SECONDS, 9 * DAY_SECONDS)
CORRECTION_DELAY = (HOUR_SECONDS, 3 * DAY_SECONDS)

OPENS, CLOSES = 8 * HOUR_SECONDS, 18 * HOUR_SECONDS
WEEKEND_WORK = 0.3
"""Of the invoices that come in on a weekend, so many are sent then and not on the next business day."""

MEDIAN_EUROS = 900
ON_ORDER = 0.85

Form = Literal["sent", "repeat", "conflict", "malformed"]


class Emission(Struct, frozen=True, gc=False):
    """One line to be: `number` counts the invoice's events, `occurs` is in local seconds and `arrives` in UTC seconds
    since 1970."""

    arrives: int
    occurs: int
    stage: Stage
    status: str
    number: int
    form: Form


class Scenario(Struct, frozen=True, gc=False):
    """One invoice. `status`: what it ends as when all is sent, None if nothing valid is ever heard of it. `day` is when
    it begins, in local days since 1970; `details` is JSON: payment terms and attributes."""

    number: int
    invoice_id: str
    vendor: Vendor
    day: int
    amount: str
    details: str
    status: Status | None
    emissions: tuple[Emission, ...]


def make_scenario(number: int, day: int, supplier: Vendor, profile: Profile, random: Callable[[], float]) -> Scenario:
    """The story of an invoice that begins on a day, in local days since 1970; or on the next business day."""
    story = _Scenario(day, supplier, profile, random)
    status = story.run()
    kind, sign = ("CN", "-") if random() < profile.credit_note else ("INV", "")
    return Scenario(
        number=number,
        invoice_id=f"{kind}/{iso_date(day)[:4]}/{number:06}",
        vendor=supplier,
        day=day,
        amount=story.amount(sign),
        details=story.details(),
        status=status if story.any_valid_event else None,
        emissions=tuple(story.sendings),
    )


@lru_cache(1024)
def iso_date(day: int) -> str:
    """The date of a day, counted from 1970-01-01."""
    return date.fromordinal(EPOCH_DATE + day).isoformat()


def _deltas(weekend: frozenset[int]) -> list[list[int]]:
    """Calendar days from a weekday (Monday is 0) to the nth business day after it."""
    deltas = []
    for weekday in range(7):
        working = [delta for delta in range(1, 2 * MAX_LAG) if (weekday + delta) % 7 not in weekend]
        deltas.append([0, *working[:MAX_LAG]])
    return deltas


_DELTAS = {weekend: _deltas(weekend) for weekend in (SATURDAY_AND_SUNDAY, FRIDAY_AND_SATURDAY)}


class _Scenario:
    """One invoice while it is told. `now` is where the telling has come to, in local seconds since 1970; `heard` says
    whether any valid event is ever sent. A step answers the status in which it leaves the invoice, None if it goes on.
    """

    def __init__(self, day: int, supplier: Vendor, profile: Profile, random: Callable[[], float]) -> None:
        self.supplier, self.profile, self.random = supplier, profile, random
        self.deltas = _DELTAS[supplier.weekend]
        self.sendings: list[Emission] = []
        self.events = 0
        self.any_valid_event = self.goods_came = False
        weekend = (day + THURSDAY) % 7 in supplier.weekend
        self.now = self._working_hour(day, 1 if weekend and random() >= WEEKEND_WORK else 0)
        self.invoiced = self.now // DAY_SECONDS
        self.cancelled_before = self._pick(CANCELLED_BEFORE) if random() < profile.cancelled else None
        self.stuck_at = self._pick(STUCK_STAGES) if random() < profile.stuck else None

    def run(self) -> Status:
        if self.random() < self.profile.early:
            self.goods_came = self._report("reconciliation", "matched")
            self._advance(INVOICE_AFTER_GOODS_LAGS)
        ingested = self._ingest()
        left = self._authorize() or self._reconcile() or self._post()
        return left if ingested or left == "Cancelled" else "Orphan"

    def amount(self, sign: str) -> str:
        """A product of independent factors is near enough to log-normal, and exp is not the same on every machine."""
        random, supplier = self.random, self.supplier
        euros = MEDIAN_EUROS * 1.0
        for _ in range(3):
            euros *= (0.1 + random()) / (0.1 + random())
        whole, fraction = divmod(max(1, int(euros * supplier.minor_per_euro + 0.5)), 10**supplier.decimals)
        return f"{sign}{whole}.{fraction:0{supplier.decimals}}" if supplier.decimals else f"{sign}{whole}"

    def details(self) -> str:
        """Payment terms and attributes, as JSON to be put behind the other fields."""
        supplier, terms = self.supplier, ""
        if supplier.terms_style in ("days", "both"):
            terms = f'"days":{supplier.terms_days}'
        if supplier.terms_style in ("due_date", "both"):
            due_date = iso_date(self.invoiced + supplier.terms_days)
            terms += f'{"," if terms else ""}"due_date":"{due_date}"'
        order = f'"po":"{4_500_000_000 + int(self.random() * 10_000_000)}",' if self.random() < ON_ORDER else ""
        before = f',"payment_terms":{{{terms}}}' if terms else ""
        return f'{before},"attributes":{{{order}"cost_center":"{supplier.cost_center}"}}'

    # -- the steps

    def _ingest(self) -> bool:
        """Whether the ingestion is ever heard of. The business goes on without, but the invoice stays an orphan."""
        self.invoiced = self.now // DAY_SECONDS
        if self.random() >= self.profile.orphaned:
            return self._report("ingestion", "received")
        if self.random() < self.profile.orphaned_for_good:
            return False
        return self._report("ingestion", "received", WEEKS_LATE)

    def _authorize(self) -> Status | None:
        if self.cancelled_before == "authorization":
            return self._cancel("AwaitingAuthorization")
        if not self._wait_for_stage("authorization", AUTHORIZATION_LAGS):
            return "AwaitingAuthorization"
        if self.random() < self.profile.rejected:
            if not self._report("authorization", "rejected"):
                return "AwaitingAuthorization"
            self._advance(REVERSAL_LAGS)
            if self.random() < self.profile.reversed and self._report("authorization", "approved"):
                return None
            return "Rejected"
        if not self._report("authorization", "approved"):
            return "AwaitingAuthorization"
        if self.random() < self.profile.withdrawn:
            self._advance(REVERSAL_LAGS)
            if self._report("authorization", "rejected"):
                return "Rejected"
        return None

    def _reconcile(self) -> Status | None:
        if self.goods_came:
            return None
        if self.cancelled_before == "reconciliation":
            return self._cancel("AwaitingReconciliation")
        left: Status = "AwaitingReconciliation"
        if not self._wait_for_stage("reconciliation", RECONCILIATION_LAGS):
            return left
        if self.random() < self.profile.disputed:
            for _ in range(2 if self.random() < self.profile.disputed_twice else 1):
                if self._report("reconciliation", "mismatched"):
                    left = "Disputed"
                self._advance(REPAIR_LAGS)
            if self.random() < self.profile.disputed_for_good:
                return left
        return None if self._report("reconciliation", "matched") else left

    def _post(self) -> Status:
        left: Status = "AwaitingPosting"
        if self.cancelled_before == "posting":
            return self._cancel(left)
        if not self._wait_for_stage("posting", POSTING_LAGS):
            return left
        if self.random() < self.profile.failed:
            if self._report("posting", "failed"):
                left = "PostingFailed"
            self._advance(REPOST_LAGS)
            if self.random() < self.profile.failed_for_good:
                return left
        if not self._report("posting", "posted"):
            return left
        return self._cancel("Posted") if self.cancelled_before == "the end" else "Posted"

    def _cancel(self, left: Status) -> Status:
        self._advance(CANCELLATION_LAGS)
        return "Cancelled" if self._report("ingestion", "cancelled") else left

    # -- time

    def _wait_for_stage(self, stage: Stage, lags: tuple[int, ...]) -> bool:
        """Let the time to a stage pass; False if it never comes."""
        if self.stuck_at == stage:
            if self.random() < self.profile.stuck_for_good:
                return False
            lags = STUCK_LAGS
        self._advance(lags)
        return True

    def _advance(self, lags: tuple[int, ...]) -> None:
        lag = lags[int(self.random() * len(lags))]
        if lag:
            self.now = self._working_hour(self.now // DAY_SECONDS, lag)
        else:
            self.now += 10 * MINUTE_SECONDS + int(self.random() * 3 * HOUR_SECONDS)

    def _working_hour(self, day: int, lag: int) -> int:
        """Some time of the nth business day after a day (0: of that day), most likely around noon."""
        day += self.deltas[(day + THURSDAY) % 7][lag]
        return day * DAY_SECONDS + OPENS + int((self.random() + self.random()) / 2 * (CLOSES - OPENS))

    # -- what is sent

    def _report(self, stage: Stage, status: str, delay: tuple[int, int] | None = None) -> bool:
        """Send an event, with what comes of it; False if no valid form of it is ever sent."""
        random, profile = self.random, self.profile
        self.events += 1
        arrives = self._between(self.now - self.supplier.utc_offset, LATENCY)
        if delay:
            arrives = self._between(arrives, delay)
        elif random() < profile.late:
            arrives = self._between(arrives, LATE)
        if random() < profile.malformed:
            self._send(arrives, stage, status, "malformed")
            if random() < profile.malformed_for_good:
                return False
            arrives = self._between(arrives, CORRECTION_DELAY)
        self._send(arrives, stage, status, "sent")
        if random() < profile.duplicated:
            lag = REDELIVERED if random() < profile.duplicated_days_later else RETRIED
            self._send(self._between(arrives, lag), stage, status, "repeat")
        if random() < profile.conflicting:
            self._send(self._between(arrives, REDELIVERED), stage, status, "conflict")
        self.any_valid_event = True
        return True

    def _send(self, arrives: int, stage: Stage, status: str, form: Form) -> None:
        self.sendings.append(Emission(arrives, self.now, stage, status, self.events, form))

    # -- chance

    def _between(self, start: int, lag: tuple[int, int]) -> int:
        first, last = lag
        return start + first + int(self.random() * (last - first))

    def _pick(self, choices: tuple[Choice, ...]) -> Choice:
        return choices[int(self.random() * len(choices))]

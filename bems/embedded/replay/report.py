"""Report of a replay: final statuses of the invoices, durations of the stages, and stuck invoices."""

from array import array
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from math import ceil
from typing import Any, Literal, NamedTuple

from bems.tracker.actions import SEVERITIES, Alert, AlertKind, Severity
from bems.tracker.contract import STAGE_INDEX, STAGES, Stage, Vendor
from bems.tracker.decisions import Receipt
from bems.tracker.instants import SECOND, Instant
from bems.tracker.record import InvoiceRecord
from bems.tracker.status import WAITS_FOR, Status
from bems.tracker.transitions import Transition

AlertCategory = Stage | Literal["identity"]
"""Category of an alert: the stage that is overdue or failed, or `identity` if one id may belong to two invoices."""

ALERT_CATEGORIES: tuple[AlertCategory, ...] = (*STAGES, "identity")

CONFLICT_REASON = "event_id: sent before with another content"


class AlertLine(NamedTuple):
    """The facts of an alert that a report keeps."""

    stage: Stage
    severity: Severity
    kind: AlertKind
    due_at: Instant
    waiting_since: Instant
    detail: str | None = None

    @property
    def category(self) -> AlertCategory:
        return "identity" if self.kind == "identity" else self.stage


class InvoiceLine(NamedTuple):
    """Outcome of an invoice. `stage` is the stage it waits for; `waiting_since` is None unless it is stuck."""

    invoice_id: str
    status: Status
    alerts: list[AlertLine]
    stage: Stage | None
    parked: bool
    waiting_since: Instant | None
    amount: Decimal
    currency: str
    vendor: Vendor


class Attainment(NamedTuple):
    """How many stays in a stage were in time, late, completed by hand, and open past their first deadline.

    A stay begins when an invoice waits for a stage and ends when it no longer does. It is in time if the stage's event
    occurred by the deadline of the stay's first wait. Stays completed by hand are neither in time nor late. A stay that
    ended otherwise, because the invoice was cancelled or an earlier stage was reopened, does not count.
    """

    in_time: int = 0
    late: int = 0
    by_hand: int = 0
    overdue: int = 0

    @property
    def share(self) -> float | None:
        """Share in time of the ended and the overdue stays; None without any."""
        total = self.in_time + self.late + self.by_hand + self.overdue
        return self.in_time / total if total else None

    def plus(self, other: "Attainment") -> "Attainment":
        return Attainment(*(mine + its for mine, its in zip(self, other, strict=True)))


class ClockJump(NamedTuple):
    """The largest step of the clock between two lines of the log."""

    line: int
    before: Instant
    after: Instant


class Report:
    """Counts, updated during the replay. Times are instants; durations are in microseconds."""

    def __init__(self) -> None:
        self.accepted = self.duplicate = self.refused = self.left_out = 0
        self.reasons: Counter[str] = Counter()
        self.first: Instant | None = None
        self.last: Instant = 0
        self.end: Instant = 0
        self.longest_jump: ClockJump | None = None
        self.invoices: list[InvoiceLine] = []
        self.statuses: Counter[Status] = Counter()
        self.parked = 0
        self.alerts: Counter[tuple[AlertCategory, Severity]] = Counter()
        self.useful_alerts = 0
        """Alerts that a command or the completion of their stage followed before the next alert of their wait."""
        self.attainment: dict[Stage, Attainment] = dict.fromkeys(STAGES, Attainment())
        self._newest_alerts: dict[str, Stage] = {}
        self.durations: dict[Stage, array[int]] = {stage: array("q") for stage in STAGES}
        self._positions: dict[str, StagePosition] = {}

    # -- during the replay

    def count_refused(self, reasons: Iterable[str]) -> None:
        """Count a line that is not a valid event, once for each distinct reason."""
        self.refused += 1
        self.reasons.update(set(reasons))

    def count_receipt(self, receipt: Receipt, occurred_at: Instant) -> None:
        if receipt.result == "accepted":
            self.accepted += 1
            self.first = occurred_at if self.first is None else min(self.first, occurred_at)
            self.last = max(self.last, occurred_at)
        elif receipt.result == "duplicate":
            self.duplicate += 1
        else:
            self.count_refused([CONFLICT_REASON])

    def note_clock(self, line: int, before: Instant, after: Instant) -> None:
        """Record a step of the clock, at a line of the log."""
        if before and (
            self.longest_jump is None or after - before > self.longest_jump.after - self.longest_jump.before
        ):
            self.longest_jump = ClockJump(line, before, after)

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            self._add_usefulness(transition)
            if transition.first_deadline is not None:
                self._add_stay(transition, transition.first_deadline)
            if transition.from_status != transition.to_status:
                self._add_transition(transition)

    def _add_usefulness(self, transition: Transition) -> None:
        """Count an alert as useful if the next row of its stage, or any command, is not another alert."""
        id, kind = transition.invoice_id, transition.kind
        if kind == "alert":
            if transition.outcome != "identity":
                self._newest_alerts[id] = transition.stage
        elif id in self._newest_alerts:
            stage = self._newest_alerts[id]
            if kind == "command" or (kind == "event" and transition.stage == stage and transition.first_deadline):
                self.useful_alerts += 1
                del self._newest_alerts[id]
            elif transition.from_status != transition.to_status:
                del self._newest_alerts[id]

    def _add_stay(self, transition: Transition, first_deadline: Instant) -> None:
        stage = WAITS_FOR[transition.from_status] if transition.from_status else None
        if stage is None or transition.stage != stage:
            return
        occurred_at = transition.recorded_at if transition.occurred_at is None else transition.occurred_at
        if transition.kind == "command":
            one = Attainment(by_hand=1)
        else:
            one = Attainment(in_time=1) if occurred_at <= first_deadline else Attainment(late=1)
        self.attainment[stage] = self.attainment[stage].plus(one)

    def _add_transition(self, transition: Transition) -> None:
        """Record the durations of the stages that an invoice completes by this transition.

        A stage lasts from when the invoice first waits for it until it is complete. A stage whose event was early has
        a duration of 0. A stage is recorded again only if it was waited for again, after a dispute or a failed posting.
        A rejected invoice is still in authorization; a cancelled invoice is in no stage.
        """
        now, before = transition.recorded_at, transition.from_status
        position = self._positions.get(transition.invoice_id)
        at = 0 if before is None else position.stage if position else None
        since, passed = (position.since, position.passed) if position else (now, 0)
        to = _stage_of(transition.to_status)
        if at is not None:
            for number in range(at, len(STAGES) if to is None and transition.to_status == "Posted" else to or 0):
                again = number == at and before is not None and WAITS_FOR[before] == STAGES[number]
                if number >= passed or again:
                    self.durations[STAGES[number]].append(now - since if number == at else 0)
                passed = max(passed, number + 1)
        self._positions[transition.invoice_id] = StagePosition(to, since if at == to else now, passed)

    # -- at the end

    def finish(self, records: Iterable[InvoiceRecord], alerts: Iterable[Alert], end: Instant) -> None:
        """Add what the store contains at the end of the replay."""
        by_invoice: dict[str, list[AlertLine]] = {}
        for alert in alerts:
            if alert.kind == "resolved":
                continue
            line = AlertLine(alert.stage, alert.severity, alert.kind, alert.due_at, alert.waiting_since, alert.detail)
            by_invoice.setdefault(alert.invoice_id, []).append(line)
            self.alerts[line.category, alert.severity] += 1
        for record in records:
            self.invoices.append(_invoice_line(record, by_invoice.get(record.invoice_id, [])))
            self.statuses[self.invoices[-1].status] += 1
            self.parked += record.mark == "parked"
            stay = record.stay
            if stay is not None and stay.first_deadline < end:
                self.attainment[stay.stage] = self.attainment[stay.stage].plus(Attainment(overdue=1))

    def merge(self, other: "Report") -> None:
        """Add the report on other invoices."""
        self.invoices += other.invoices
        self.statuses += other.statuses
        self.alerts += other.alerts
        self.parked += other.parked
        self.useful_alerts += other.useful_alerts
        for stage, attainment in other.attainment.items():
            self.attainment[stage] = self.attainment[stage].plus(attainment)
        for stage, durations in other.durations.items():
            self.durations[stage].extend(durations)

    def stuck(self) -> list[InvoiceLine]:
        """Return the invoices that wait with an open alert or are parked, the longest wait first."""
        stuck = [invoice for invoice in self.invoices if invoice.waiting_since is not None]
        return sorted(stuck, key=lambda invoice: (invoice.waiting_since, invoice.invoice_id))

    def alerts_per_alerted_invoice(self) -> int:
        """Return the median number of alerts of the invoices with any; 0 without any."""
        counts = sorted(len(invoice.alerts) for invoice in self.invoices if invoice.alerts)
        return counts[(len(counts) - 1) // 2] if counts else 0

    def critical_share(self) -> float:
        """Return the share of critical alerts; 0 without alerts."""
        critical = sum(count for (_, severity), count in self.alerts.items() if severity == "critical")
        return critical / self.alerts.total() if self.alerts else 0.0

    def useful_share(self) -> float:
        """Return the share of alerts that somebody acted on or whose stage was completed before the next alert.

        Identity alerts do not count.
        """
        alerts = sum(count for (category, _), count in self.alerts.items() if category != "identity")
        return self.useful_alerts / alerts if alerts else 0.0

    def percentile(self, stage: Stage, percent: int) -> float | None:
        """Return a percentile of the stage's duration in seconds (nearest rank), or None if no invoice completed it."""
        durations = self.durations[stage]
        if not durations:
            return None
        return round(sorted(durations)[ceil(len(durations) * percent / 100) - 1] / SECOND, 3)

    def summary(self) -> dict[str, Any]:
        """Return the report as JSON, without the speed of the replay."""
        alerts: dict[str, dict[str, int]] = {}
        for category in ALERT_CATEGORIES:
            counts: dict[str, int] = {
                name: self.alerts[category, name] for name in SEVERITIES if self.alerts[category, name]
            }
            if counts:
                alerts[category] = counts
        return {
            "events": {"accepted": self.accepted, "duplicate": self.duplicate, "refused": self.refused},
            "invoices": len(self.invoices),
            "statuses": {status: self.statuses[status] for status in WAITS_FOR if self.statuses[status]},
            "alerts": alerts,
            "stages": {
                stage: {f"p{percent}_s": self.percentile(stage, percent) for percent in (50, 90, 99)}
                for stage in STAGES
            },
        }


class StagePosition(NamedTuple):
    """Position of an invoice: the index of its stage (None if it is in no stage or complete), the instant when it got
    there, and the number of stages it has completed."""

    stage: int | None
    since: Instant
    passed: int


def _stage_of(status: Status) -> int | None:
    if status == "Rejected":
        return STAGE_INDEX["authorization"]
    waits_for = WAITS_FOR[status]
    return None if waits_for is None else STAGE_INDEX[waits_for]


def _invoice_line(record: InvoiceRecord, alerts: list[AlertLine]) -> InvoiceLine:
    status, facts = record.status, record.facts
    return InvoiceLine(
        record.invoice_id,
        status,
        alerts,
        WAITS_FOR[status],
        record.mark == "parked",
        record.stuck_since,
        facts.amount,
        facts.currency,
        facts.vendor,
    )

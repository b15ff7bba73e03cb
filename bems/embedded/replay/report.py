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
            if transition.from_status != transition.to_status:
                self._add_transition(transition)

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

    def finish(self, records: Iterable[InvoiceRecord], alerts: Iterable[Alert]) -> None:
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

    def merge(self, other: "Report") -> None:
        """Add the report on other invoices."""
        self.invoices += other.invoices
        self.statuses += other.statuses
        self.alerts += other.alerts
        self.parked += other.parked
        for stage, durations in other.durations.items():
            self.durations[stage].extend(durations)

    def stuck(self) -> list[InvoiceLine]:
        """Return the invoices that wait with an open alert or are parked, the longest wait first."""
        stuck = [invoice for invoice in self.invoices if invoice.waiting_since is not None]
        return sorted(stuck, key=lambda invoice: (invoice.waiting_since, invoice.invoice_id))

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

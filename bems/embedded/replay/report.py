"""The report of a replay: what became of the invoices, how long each stage took, what would have been stuck."""

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
from bems.tracker.status import WAITS_FOR, Status, status_of
from bems.tracker.transitions import Transition

Alerted = Stage | Literal["identity"]
"""What an alert is counted under: the stage that is waited for or went wrong, or that one id may be two invoices."""

ALERTED: tuple[Alerted, ...] = (*STAGES, "identity")

CONFLICT = "event_id: sent before with another content"


class AlertLine(NamedTuple):
    """What a report keeps of an alert."""

    stage: Stage
    severity: Severity
    kind: AlertKind
    due_at: Instant
    waiting_since: Instant
    detail: str | None = None

    @property
    def counted_under(self) -> Alerted:
        return "identity" if self.kind == "identity" else self.stage


class InvoiceLine(NamedTuple):
    """What became of an invoice. `stage` is what it lacks; `waiting_since` is None unless it is stuck."""

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
    """The clock's longest way between two lines of the log."""

    line: int
    before: Instant
    after: Instant


class Report:
    """Counts, filled in as the replay goes on. Times are instants, durations microseconds."""

    def __init__(self) -> None:
        self.accepted = self.duplicate = self.refused = self.left_out = 0
        self.reasons: Counter[str] = Counter()
        self.first: Instant | None = None
        self.last: Instant = 0
        self.end: Instant = 0
        self.jump: ClockJump | None = None
        self.invoices: list[InvoiceLine] = []
        self.statuses: Counter[Status] = Counter()
        self.parked = 0
        self.alerts: Counter[tuple[Alerted, Severity]] = Counter()
        self.durations: dict[Stage, array[int]] = {stage: array("q") for stage in STAGES}
        self._standing: dict[str, StagePosition] = {}

    # -- while the log runs

    def refuse(self, reasons: Iterable[str]) -> None:
        """A line that is no event; it counts once under each of its reasons."""
        self.refused += 1
        self.reasons.update(set(reasons))

    def receive(self, receipt: Receipt, occurred_at: Instant) -> None:
        if receipt.result == "accepted":
            self.accepted += 1
            self.first = occurred_at if self.first is None else min(self.first, occurred_at)
            self.last = max(self.last, occurred_at)
        elif receipt.result == "duplicate":
            self.duplicate += 1
        else:
            self.refuse([CONFLICT])

    def advance(self, line: int, before: Instant, after: Instant) -> None:
        """The clock goes on with this line."""
        if before and (self.jump is None or after - before > self.jump.after - self.jump.before):
            self.jump = ClockJump(line, before, after)

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            if transition.from_status != transition.to_status:
                self._move(transition)

    def _move(self, transition: Transition) -> None:
        """Time in a stage runs from when the invoice first stands there until it has passed; a stage whose event was
        early takes 0. A stage counts again only if it was waited for again, by a dispute or a failed posting. A
        rejected invoice still stands in authorization; a cancelled one stands nowhere."""
        now, before = transition.recorded_at, transition.from_status
        was = self._standing.get(transition.invoice_id)
        at = 0 if before is None else was.stage if was else None
        since, passed = (was.since, was.passed) if was else (now, 0)
        to = _stage_of(transition.to_status)
        if at is not None:
            for number in range(at, len(STAGES) if to is None and transition.to_status == "Posted" else to or 0):
                again = number == at and before is not None and WAITS_FOR[before] == STAGES[number]
                if number >= passed or again:
                    self.durations[STAGES[number]].append(now - since if number == at else 0)
                passed = max(passed, number + 1)
        self._standing[transition.invoice_id] = StagePosition(to, since if at == to else now, passed)

    # -- at its end

    def finish(self, records: Iterable[InvoiceRecord], alerts: Iterable[Alert]) -> None:
        by_invoice: dict[str, list[AlertLine]] = {}
        for alert in alerts:
            line = AlertLine(alert.stage, alert.severity, alert.kind, alert.due_at, alert.waiting_since, alert.detail)
            by_invoice.setdefault(alert.invoice_id, []).append(line)
            self.alerts[line.counted_under, alert.severity] += 1
        for record in records:
            self.invoices.append(_invoice_line(record, by_invoice.get(record.invoice_id, [])))
            self.statuses[self.invoices[-1].status] += 1
            self.parked += record.mark == "parked"

    def add(self, share: "Report") -> None:
        """Add what became of other invoices."""
        self.invoices += share.invoices
        self.statuses += share.statuses
        self.alerts += share.alerts
        self.parked += share.parked
        for stage, durations in share.durations.items():
            self.durations[stage].extend(durations)

    def stuck(self) -> list[InvoiceLine]:
        """The invoices that wait with an alert out, or are parked, those that have waited longest first."""
        stuck = [invoice for invoice in self.invoices if invoice.waiting_since is not None]
        return sorted(stuck, key=lambda invoice: (invoice.waiting_since, invoice.invoice_id))

    def percentile(self, stage: Stage, percent: int) -> float | None:
        """Seconds within which that share of the invoices passed the stage (nearest rank); None where none did."""
        durations = self.durations[stage]
        if not durations:
            return None
        return round(sorted(durations)[ceil(len(durations) * percent / 100) - 1] / SECOND, 3)

    def summary(self) -> dict[str, Any]:
        """The report as JSON, but for how fast it was made."""
        alerts: dict[str, dict[str, int]] = {}
        for of in ALERTED:
            counts: dict[str, int] = {name: self.alerts[of, name] for name in SEVERITIES if self.alerts[of, name]}
            if counts:
                alerts[of] = counts
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
    """Where an invoice stands: its stage's number (None: nowhere, or through), since when, how many it has passed."""

    stage: int | None
    since: Instant
    passed: int


def _stage_of(status: Status) -> int | None:
    if status == "Rejected":
        return STAGE_INDEX["authorization"]
    waits_for = WAITS_FOR[status]
    return None if waits_for is None else STAGE_INDEX[waits_for]


def _invoice_line(record: InvoiceRecord, alerts: list[AlertLine]) -> InvoiceLine:
    status, facts = status_of(record.outcomes), record.facts
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

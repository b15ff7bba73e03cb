"""The report of a replay: what became of the invoices, how long each stage took, what would have been stuck."""

from array import array
from collections import Counter
from collections.abc import Iterable
from math import ceil
from typing import Any, NamedTuple

from bems.tracker.actions import Alert, AlertKind, Severity
from bems.tracker.contract import STAGES, Stage
from bems.tracker.decisions import Receipt
from bems.tracker.instants import SECOND, Instant
from bems.tracker.projection import WAITS_FOR, Status, project
from bems.tracker.record import InvoiceRecord
from bems.tracker.transitions import Transition

ORDER: dict[Stage, int] = {stage: number for number, stage in enumerate(STAGES)}
SEVERITIES: tuple[Severity, ...] = ("warning", "critical")
CONFLICT = "event_id: sent before with another content"


class AlertLine(NamedTuple):
    """What a report keeps of an alert."""

    stage: Stage
    severity: Severity
    kind: AlertKind
    due_at: Instant


class Report:
    """Counts, filled in as the replay goes on. Times are instants, durations microseconds."""

    def __init__(self) -> None:
        self.accepted = self.duplicate = self.refused = self.left_out = 0
        self.reasons: Counter[str] = Counter()
        self.first: Instant | None = None
        self.last: Instant = 0
        self.end: Instant = 0
        self.invoices: list[tuple[str, Status, list[AlertLine]]] = []
        self.statuses: Counter[Status] = Counter()
        self.parked = 0
        self.alerts: Counter[tuple[Stage, Severity]] = Counter()
        self.durations: dict[Stage, array[int]] = {stage: array("q") for stage in STAGES}
        self._entered: dict[str, tuple[int, Instant]] = {}

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

    def add_transitions(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            if transition.from_status != transition.to_status:
                self._move(transition)

    def _move(self, transition: Transition) -> None:
        """Time in a stage runs from when the invoice first stands there until it has passed; a stage whose event was
        early takes 0. A rejected invoice still stands in authorization; a cancelled one stands nowhere."""
        invoice_id, now = transition.invoice_id, transition.recorded_at
        to = _standing(transition.to_status)
        start: tuple[int | None, Instant] = (0, now) if transition.from_status is None else (None, now)
        at, since = self._entered.get(invoice_id, start)
        if to is None:
            self._entered.pop(invoice_id, None)
            return
        if at is not None:
            for number in range(at, to):
                self.durations[STAGES[number]].append(now - since)
                since = now
        if to == len(STAGES):
            self._entered.pop(invoice_id, None)
        else:
            self._entered[invoice_id] = (to, since if at == to else now)

    # -- at its end

    def finish(self, records: Iterable[InvoiceRecord], alerts: Iterable[Alert]) -> None:
        by_invoice: dict[str, list[AlertLine]] = {}
        for alert in alerts:
            line = AlertLine(alert.stage, alert.severity, alert.kind, alert.due_at)
            by_invoice.setdefault(alert.invoice_id, []).append(line)
            self.alerts[alert.stage, alert.severity] += 1
        for record in records:
            status = project(record.outcomes)
            self.invoices.append((record.invoice_id, status, by_invoice.get(record.invoice_id, [])))
            self.statuses[status] += 1
            self.parked += record.mark == "parked"

    def add(self, share: "Report") -> None:
        """Add what became of other invoices."""
        self.invoices += share.invoices
        self.statuses += share.statuses
        self.alerts += share.alerts
        self.parked += share.parked
        for stage, durations in share.durations.items():
            self.durations[stage].extend(durations)

    def percentile(self, stage: Stage, percent: int) -> float | None:
        """Seconds within which that share of the invoices passed the stage (nearest rank); None where none did."""
        durations = self.durations[stage]
        if not durations:
            return None
        return round(sorted(durations)[ceil(len(durations) * percent / 100) - 1] / SECOND, 3)

    def summary(self) -> dict[str, Any]:
        """The report as JSON, but for how fast it was made."""
        alerts: dict[str, dict[str, int]] = {}
        for stage in STAGES:
            counts: dict[str, int] = {name: self.alerts[stage, name] for name in SEVERITIES if self.alerts[stage, name]}
            if counts:
                alerts[stage] = counts
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


def _standing(status: Status) -> int | None:
    """The number of the stage in which an invoice of this status stands; one after the last where it is through."""
    if status == "Posted":
        return len(STAGES)
    if status == "Rejected":
        return ORDER["authorization"]
    waits_for = WAITS_FOR[status]
    return None if waits_for is None else ORDER[waits_for]

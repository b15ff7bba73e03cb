"""Builder of a record's next version: one decision's working copy.

A decision changes outcomes, marks or the wait, and then calls `align_wait`, which makes the wait, the run and the
answers consistent with them. That method implements rules 2, 3 and 6 of the lifecycle (docs/architecture.md).
"""

from typing import Any, Generic, TypeVar

from msgspec import Struct, structs

from bems.tracker.actions import (
    Action,
    Alert,
    AlertKind,
    RaiseAlert,
    SendTaskAnswer,
    Severity,
    StartExecution,
    TaskAnswer,
    alert_id,
    seconds_until,
)
from bems.tracker.contract import FAILURE_STATUS, STAGE_INDEX, STAGES, Facts, PaymentTerms, Stage
from bems.tracker.instants import DAY, LATEST, MINUTE, Instant, render, to_datetime
from bems.tracker.policy import Policy
from bems.tracker.record import (
    MAX_POSTINGS,
    MAX_REMEMBERED_COMMANDS,
    MAX_REMEMBERED_EVENTS,
    OPTIONAL_FACTS,
    IdentityAlert,
    InvoiceRecord,
    ManualOutcome,
    Parked,
    Received,
    Run,
    Stay,
    Wait,
)
from bems.tracker.status import WAITS_FOR, Outcome, negative_outcomes, open_stages, status_of, supersedes
from bems.tracker.transitions import Transition

GRACE_PERIOD = 5 * MINUTE
"""Time (in microseconds) for an open run to ask for a due alert, before the sweep raises the alert."""

MAX_SILENCE = 55 * MINUTE
"""Time (in microseconds) that an open run may stay silent after the sweep raised its alert, before it is replaced."""

MAX_VENDOR_IDS = 4
"""Maximum number of vendor ids that a record keeps."""

DISPUTABLE_STAGES: frozenset[Stage] = frozenset(("reconciliation", "posting"))
"""Stages whose negative outcome does not close the invoice, but is reported as a dispute."""

LATER_DISPUTABLE_STAGES: dict[Stage, tuple[Stage, ...]] = {
    stage: tuple(later for later in STAGES[number + 1 :] if later in DISPUTABLE_STAGES)
    for number, stage in enumerate(STAGES)
}
"""Disputable stages after each stage."""

MAX_RUN_AGE = 300 * DAY
"""Age (in microseconds) at which a run is replaced, because Step Functions ends an execution after one year."""

MAX_FAILED_RUNS = 2
"""Number of failed runs in one wait that makes the invoice dormant: whatever ends them would end the next run too."""


NO_TERMS = PaymentTerms()

AnswerT = TypeVar("AnswerT")


class Decision(Struct, Generic[AnswerT], frozen=True):
    """Result of a decision.

    If nothing changed, `record` is the same object that the decision received. `actions` are all pending actions,
    those of earlier decisions included: the caller carries them all out.
    """

    record: InvoiceRecord | None
    actions: tuple[Action, ...]
    transitions: tuple[Transition, ...]
    answer: AnswerT


class RecordBuilder:
    """Mutable working copy of a record. `finish` returns the decision."""

    def __init__(self, record: InvoiceRecord, policy: Policy, now: Instant, *, new: bool = False) -> None:
        self.before = record
        self.policy = policy
        self.now = now
        self.facts = record.facts
        self.facts_version = record.facts_version
        self.terms_version = record.terms_version
        self.tier_version = record.tier_version
        self.outcomes = record.outcomes
        self.recent_event_ids = record.recent_event_ids
        self.run = record.run
        self.wait = record.wait
        self.mark = record.mark
        self.parked = record.parked
        self.reported_disputes = record.reported_disputes
        self.vendor_ids = record.vendor_ids or (record.facts.vendor.id,)
        self.first_received = record.first_received
        self.last_received = record.last_received
        self.closed_at = record.closed_at
        if self.first_received is None and not new:
            self.backfill_identity(record)
        self.identity_alerts = record.identity_alerts
        self.stated_versions = record.stated_versions
        self.match_required = record.match_required
        self.stay = record.stay
        if self.stay is None and record.wait is not None:
            # The record was written before stays existed.
            self.stay = Stay(record.wait.stage, record.wait.since, record.wait.deadline)
        self.stay_before = self.stay
        self.manual_outcomes = record.manual_outcomes
        self.unalerted_disputes = record.unalerted_disputes
        self.postings = record.postings
        self.failed_at = record.failed_at
        self.assignee = record.assignee
        self.note = record.note
        self.recent_command_ids = record.recent_command_ids
        self.counts_from_occurrence = False
        self.status = status_of(record.outcomes, record.match_required)
        self.is_new = new
        self.status_before = self.status
        self.actions: list[Action] = []
        self.rows: list[dict[str, Any]] = []

    @property
    def waits_for(self) -> Stage | None:
        """Stage whose event the invoice waits for; None if it waits for nothing."""
        return WAITS_FOR[self.status]

    # -- events and outcomes

    def remember_event(self, event_id: str, digest: str) -> None:
        """Add an event id with its digest, and drop the oldest above `MAX_REMEMBERED_EVENTS`."""
        self.recent_event_ids = (*self.recent_event_ids[1 - MAX_REMEMBERED_EVENTS :], (event_id, digest))

    def remember_command(self, command_id: str) -> None:
        """Add a command id, and drop the oldest above `MAX_REMEMBERED_COMMANDS`."""
        self.recent_command_ids = (*self.recent_command_ids[1 - MAX_REMEMBERED_COMMANDS :], command_id)

    def merge_facts(self, facts: Facts, occurred_at: Instant, event_id: str) -> None:
        """Keep the facts of the newest event, and the newest value that any event states of each optional fact."""
        version = (occurred_at, event_id)
        before = self.facts
        terms = before.payment_terms
        if facts.payment_terms is not None:
            terms = self.merge_terms(facts.payment_terms, version)
        vendor = facts.vendor
        if vendor.tier and (self.tier_version is None or version > self.tier_version[:2]):
            self.tier_version = (*version, vendor.id, vendor.tier)
        if version >= self.facts_version:
            self.facts, self.facts_version = facts, version
        vendor = self.facts.vendor
        tier = self.tier_version[3] if self.tier_version and self.tier_version[2] == vendor.id else None
        if tier != vendor.tier:
            self.facts = structs.replace(self.facts, vendor=structs.replace(vendor, tier=tier))
        if terms != self.facts.payment_terms:
            self.facts = structs.replace(self.facts, payment_terms=terms)
        # Most source systems state none of these.
        if self.stated_versions or facts.number or facts.issue_date or facts.buyer or facts.purchase_orders:
            self.merge_optional_facts(before, facts, version)

    def merge_terms(self, stated: PaymentTerms, version: tuple[Instant, str]) -> PaymentTerms:
        """Return the newest payment terms. Days and due date are stated together, the other fields each alone."""
        known = self.facts.payment_terms or NO_TERMS
        if (stated.days is not None or stated.due_date is not None) and (
            self.terms_version is None or version > self.terms_version
        ):
            self.terms_version = version
            if known.days != stated.days or known.due_date != stated.due_date:
                known = structs.replace(known, days=stated.days, due_date=stated.due_date)
        if stated.baseline_date is not None and self.is_newest_stated("baseline_date", version):
            known = structs.replace(known, baseline_date=stated.baseline_date)
        if stated.cash_discounts and self.is_newest_stated("cash_discounts", version):
            known = structs.replace(known, cash_discounts=stated.cash_discounts)
        return known

    def merge_optional_facts(self, before: Facts, stated: Facts, version: tuple[Instant, str]) -> None:
        """Keep the newest stated value of each of `OPTIONAL_FACTS`."""
        values = {}
        for name in OPTIONAL_FACTS:
            value = getattr(stated, name)
            if not (value and self.is_newest_stated(name, version)):
                value = getattr(before, name)
            if value != getattr(self.facts, name):
                values[name] = value
        if values:
            self.facts = structs.replace(self.facts, **values)

    def is_newest_stated(self, name: str, version: tuple[Instant, str]) -> bool:
        """Return whether no newer event stated the fact, and remember this version of it if so."""
        known = self.stated_versions.get(name)
        if known is not None and version < tuple(known):
            return False
        self.stated_versions = {**self.stated_versions, name: version}
        return True

    def evaluate_match(self) -> None:
        """Apply the policy's rule on which invoices need no reconciliation."""
        if not self.policy.match_exemptions and self.match_required:
            return
        required = self.policy.requires_match(self.facts)
        if required != self.match_required:
            self.match_required = required
            self.update_status()

    def update_status(self) -> None:
        """Derive the status again. A change of the status revives a parked invoice."""
        status = status_of(self.outcomes, self.match_required)
        if status != self.status:
            self.status = status
            if self.mark == "parked":
                self.revive()

    def record_identity(self, outcome: Outcome, facts: Facts) -> None:
        """Keep what `check_identity` needs to detect two invoices under one id: vendor ids and `received` events."""
        vendor_id = facts.vendor.id
        if vendor_id not in self.vendor_ids and len(self.vendor_ids) < MAX_VENDOR_IDS:
            self.vendor_ids = (*self.vendor_ids, vendor_id)
        if outcome.status == "received":
            terms = facts.payment_terms
            received = Received(
                outcome.occurred_at,
                outcome.event_id,
                facts.amount,
                facts.currency,
                vendor_id,
                terms.due_date if terms else None,
            )
            version = (received.occurred_at, received.event_id)
            first, last = self.first_received, self.last_received or self.first_received
            if first is None or last is None:
                self.first_received = received
            elif version < (first.occurred_at, first.event_id):
                self.first_received, self.last_received = received, last
            elif version > (last.occurred_at, last.event_id):
                self.last_received = received

    def backfill_identity(self, record: InvoiceRecord) -> None:
        """Derive the identity fields from the outcomes, for a record written before these fields existed."""
        for stage, outcome in record.outcomes.items():
            self.record_closing(stage, outcome)
        ingestion = record.outcomes.get("ingestion")
        if ingestion:
            self.record_identity(ingestion, record.facts)

    def record_closing(self, stage: Stage, outcome: Outcome) -> None:
        """Keep when the invoice was first posted or cancelled, even if that outcome is superseded."""
        if (stage, outcome.status) in (("posting", "posted"), ("ingestion", "cancelled")):
            at = outcome.occurred_at
            self.closed_at = at if self.closed_at is None else min(self.closed_at, at)

    def record_posting(self, outcome: Outcome) -> None:
        """Keep when the invoice was posted and when that failed. Call it before the outcome is applied.

        Nothing is kept of a single posting, as long as its outcome says the same.
        """
        current = self.outcomes.get("posting")
        if current is None or current.event_id == outcome.event_id:
            return
        for known in (current, outcome):
            at = known.occurred_at
            if known.status == "failed":
                self.failed_at = at if self.failed_at is None else max(self.failed_at, at)
            elif at not in self.postings:
                self.postings = tuple(sorted((*self.postings, at))[-MAX_POSTINGS:])

    def record_manual_outcome(self, stage: Stage, status: str, operator: str, confirmed_by: str | None) -> None:
        manual = ManualOutcome(status, operator, self.now, confirmed_by)
        self.manual_outcomes = {**self.manual_outcomes, stage: manual}

    def find_contradicted(self, stage: Stage, status: str) -> tuple[Stage, ManualOutcome] | None:
        """Return the outcome that an operator recorded and an event contradicts, with its stage; None if none.

        A posting also contradicts a cancellation.
        """
        manual = self.manual_outcomes.get(stage)
        if manual and (manual.status == FAILURE_STATUS[stage]) != (status == FAILURE_STATUS[stage]):
            return stage, manual
        cancelled = self.manual_outcomes.get("ingestion")
        if cancelled and cancelled.status == "cancelled" and status == "posted":
            return "ingestion", cancelled
        return None

    def apply_outcome(self, stage: Stage, outcome: Outcome) -> bool:
        """Store an outcome and revive a parked invoice; return False if the stage has a newer outcome."""
        if not supersedes(stage, outcome, self.outcomes.get(stage)):
            return False
        self.outcomes = {**self.outcomes, stage: outcome}
        self.status = status_of(self.outcomes, self.match_required)
        if self.mark == "parked":
            self.revive()
        return True

    def find_unreported_dispute(self, stage: Stage) -> Outcome | None:
        """Return the stage's mismatch or failure if it has not been reported yet."""
        outcome = self.outcomes.get(stage) if stage in DISPUTABLE_STAGES else None
        if (
            outcome
            and outcome.status == FAILURE_STATUS[stage]
            and self.reported_disputes.get(stage) != outcome.event_id
        ):
            return outcome
        return None

    # -- marks and alerts

    def extend(self, wait: Wait, deadline: Instant, operator: str) -> None:
        """Move the deadline and restart the count of alerts from it. `step`, and so the alerts' ids, continues."""
        self.resolve(wait, f"{operator} extended the deadline to {render(deadline)}")
        self.wait = structs.replace(
            wait,
            deadline=deadline,
            due=self.policy.due(wait.stage, self.facts, deadline, 0),
            base=wait.step,
            extensions=wait.extensions + 1,
            extended_by=operator,
            alerted=(),
            snoozed_until=None,
        )

    def snooze(self, wait: Wait, until: Instant) -> None:
        """Raise no alert until the instant. The steps are due as before; the one reached by then is raised."""
        self.wait = structs.replace(wait, due=until, snoozed_until=until)

    def next_due_unsnoozed(self, wait: Wait) -> Instant:
        """Return when the next alert would be due if the wait were not snoozed."""
        if wait.snoozed_until is None:
            return wait.due
        return self.policy.due(wait.stage, self.facts, wait.deadline, wait.step - wait.base)

    def last_due(self, wait: Wait) -> Instant:
        """Return when the wait's last alert is due."""
        last = self.policy.give_up_at(wait.stage, self.facts)
        return self.policy.due(wait.stage, self.facts, wait.deadline, last - 1)

    def resolve(self, wait: Wait, detail: str) -> None:
        """Tell those who got the wait's alerts that it has ended or was extended."""
        for severity in wait.alerted:
            id = alert_id(self.before.invoice_id, wait.stage, wait.since, "resolved", wait.step, severity)
            self.actions.append(
                RaiseAlert(
                    Alert(
                        id=id,
                        invoice_id=self.before.invoice_id,
                        kind="resolved",
                        stage=wait.stage,
                        severity=severity,
                        step=wait.step,
                        waiting_since=wait.since,
                        due_at=self.now,
                        raised_at=self.now,
                        facts=self.facts,
                        detail=detail,
                        open_stages=open_stages(self.outcomes, self.match_required),
                        negative_outcomes=negative_outcomes(self.outcomes),
                    )
                )
            )

    def park(self, wait: Wait, operator: str | None = None) -> None:
        """Give up the wait, for an operator or, if None, after its last alert."""
        self.add_row("park", f"park {self.next_version}", wait.stage)
        self.parked = Parked(self.now, wait.stage, wait.since, wait.step, operator)
        self.wait, self.mark = None, "parked"

    def make_dormant(self, wait: Wait) -> None:
        """Start no more executions until the invoice's next event or alert."""
        self.add_row("dormant", f"dormant {self.next_version}", wait.stage)
        self.mark = "dormant"

    def revive(self) -> None:
        """End the parking of the invoice; `align_wait` starts a new wait."""
        self.add_row("revive", f"revive {self.next_version}", self.waits_for or "posting")
        self.mark = self.parked = None
        self.counts_from_occurrence = False

    def escalate(self) -> None:
        """Rule 4: raise the alert of the step that the wait has reached; the last alert parks the invoice."""
        wait = self.wait
        if wait is None or self.now < wait.due:
            return
        stage, policy, facts, base = wait.stage, self.policy, self.facts, wait.base
        give_up_at = base + policy.give_up_at(stage, facts)
        step, due_at = wait.step + 1, wait.due
        due = policy.due(stage, facts, wait.deadline, step - base)
        if self.now >= due or step > give_up_at or wait.snoozed_until is not None:
            # Several alerts became due without a request, or a new policy has them at other times.
            step = max(wait.step, base + policy.step(stage, facts, wait.deadline, self.now))
            due_at = policy.due(stage, facts, wait.deadline, step - base - 1)
            due = policy.due(stage, facts, wait.deadline, step - base)
        last = step >= give_up_at
        severity = policy.severity(stage, facts, step - base)
        if step > wait.step:
            id = alert_id(self.before.invoice_id, stage, wait.since, step)
            outcome = self.outcomes.get(stage)
            # If the stage has an outcome, it is the mismatch or failure that the wait is about.
            event_id = outcome.event_id if outcome else None
            self.raise_alert("stuck", stage, severity, due_at, id, step, last, event_id)
        if self.mark == "dormant":
            self.mark = None
        alerted = wait.alerted
        if step > wait.step and severity not in alerted:
            alerted = (*alerted, severity)
        self.wait = structs.replace(wait, step=step, due=due, alerted=alerted, snoozed_until=None)
        if last:
            outcome = self.find_unreported_dispute(stage)
            if outcome:
                self.raise_dispute_alert(stage, outcome)
            self.park(self.wait)

    def report_dispute(self, wait: Wait, outcome: Outcome) -> None:
        """Rule 5: report a mismatch or failed posting once, and restart the wait."""
        self.raise_dispute_alert(wait.stage, outcome)
        self.resolve(wait, self.describe_outcome(wait.stage))
        self.wait = None

    def describe_outcome(self, stage: Stage) -> str:
        """Return how a wait for the stage ended, such as `authorization is approved`."""
        outcome = self.outcomes.get(stage)
        if self.status == "Cancelled" or outcome is None:
            return f"the invoice is {self.status}"
        is_dispute = stage in DISPUTABLE_STAGES and outcome.status == FAILURE_STATUS[stage]
        if is_dispute and self.waits_for != stage:
            # The wait that followed the dispute was ended by an earlier stage.
            return f"the invoice is {self.status}"
        return f"{stage} is {outcome.status}"

    def raise_dispute_alert(self, stage: Stage, outcome: Outcome) -> None:
        """Raise the alert of a mismatch or failed posting, and remember that it was reported."""
        kind: AlertKind = "dispute" if stage == "reconciliation" else "failed"
        id = alert_id(self.before.invoice_id, kind, outcome.event_id)
        self.raise_alert(kind, stage, "warning", self.now, id, event_id=outcome.event_id)
        self.reported_disputes = {**self.reported_disputes, stage: outcome.event_id}

    def check_identity(self, event_id: str) -> None:
        """Raise an alert, once each, if two vendors or two invoices seem to share the id."""
        if not self.policy.identity:
            return
        if len(self.vendor_ids) > 1 and "vendor" not in self.identity_alerts:
            self.raise_identity_alert(
                "vendor", f"vendors {' and '.join(self.vendor_ids[:2])} both use this id", event_id
            )
        first, last = self.first_received, self.last_received
        if first is None or last is None or self.closed_at is None or "reused" in self.identity_alerts:
            return
        if last.occurred_at > self.closed_at and last.differs_from(first):
            detail = (
                f"{first.amount:f} {first.currency} of {first.vendor_id} was closed on"
                f" {to_datetime(self.closed_at).date()}, and {last.amount:f} {last.currency} of {last.vendor_id}"
                f" received on {to_datetime(last.occurred_at).date()}"
            )
            self.raise_identity_alert("reused", detail, event_id)

    def raise_identity_alert(self, problem: IdentityAlert, detail: str, event_id: str) -> None:
        self.identity_alerts = (*self.identity_alerts, problem)
        id = alert_id(self.before.invoice_id, "identity", problem)
        self.raise_alert("identity", "ingestion", "warning", self.now, id, event_id=event_id, detail=detail)

    def check_contradiction(self, outcome: Outcome, stage: Stage) -> None:
        """Raise an alert if an event contradicts what an operator recorded by hand, whichever of them is newer."""
        contradicted = self.find_contradicted(stage, outcome.status)
        if contradicted is None:
            return
        manual_stage, manual = contradicted
        detail = (
            f"an event says {outcome.status}, but {manual.operator} recorded {manual_stage} as {manual.status} by hand"
            f" on {to_datetime(manual.at).date()}"
        )
        id = alert_id(self.before.invoice_id, "contradiction", outcome.event_id)
        self.raise_alert("contradiction", stage, "warning", self.now, id, event_id=outcome.event_id, detail=detail)

    def raise_alert(
        self,
        kind: AlertKind,
        stage: Stage,
        severity: Severity,
        due_at: Instant,
        id: str,
        step: int = 0,
        last: bool = False,
        event_id: str | None = None,
        detail: str | None = None,
    ) -> None:
        self.actions.append(
            RaiseAlert(
                Alert(
                    id=id,
                    invoice_id=self.before.invoice_id,
                    kind=kind,
                    stage=stage,
                    severity=severity,
                    step=step,
                    waiting_since=self.wait.since if self.wait else self.now,
                    due_at=due_at,
                    raised_at=self.now,
                    facts=self.facts,
                    event_id=event_id,
                    last=last,
                    detail=detail,
                    open_stages=open_stages(self.outcomes, self.match_required),
                    negative_outcomes=negative_outcomes(self.outcomes),
                )
            )
        )
        self.add_row("alert", f"alert {id}", stage, outcome=kind, step=step, severity=severity, event_id=event_id)

    # -- the run

    def clear_silence(self) -> None:
        """Note that the run has called, so it is not silent."""
        if self.run.silent_since:
            self.run = structs.replace(self.run, silent_since=0)

    def close_run(self) -> None:
        """Mark the run as ended and discard its token."""
        self.run = structs.replace(self.run, state="closing", token=None)

    def replace_run(self) -> None:
        """Close the run and answer its token `Superseded`; `align_wait` starts the next run."""
        if self.run.token:
            self.actions.append(SendTaskAnswer(self.run.token, "Superseded", self.now))
        self.close_run()

    def choose_answer(self, stage: Stage) -> tuple[TaskAnswer | None, bool]:
        """Rule 3: return the answer for an execution that waits at `stage` (None: keep waiting), and whether it ends
        the execution."""
        if self.status == "Cancelled" or self.status == "Rejected":
            return self.status, True
        if self.mark == "parked":
            return "Parked", True
        waits_for = self.waits_for
        if waits_for is None:
            return "ok", stage == "posting"
        if STAGE_INDEX[waits_for] > STAGE_INDEX[stage]:
            return "ok", False
        if STAGE_INDEX[waits_for] < STAGE_INDEX[stage]:
            return "Mismatched", False
        if self.find_unreported_dispute(stage):
            return ("Mismatched" if stage == "reconciliation" else "PostingFailed"), False
        return None, False

    def align_wait(self) -> None:
        """Make wait, run and answers consistent with outcomes and marks."""
        waits_for = self.waits_for
        if waits_for is None or self.mark == "parked":
            if self.wait is not None and self.wait.alerted:
                self.resolve(self.wait, self.describe_outcome(self.wait.stage))
            self.wait = None
            if waits_for is None:
                self.mark = self.stay = None
        else:
            if self.wait is None or self.wait.stage != waits_for:
                self.begin_wait(waits_for)
            if self.find_unreported_dispute(waits_for) and self.lacks_responsive_run():
                self.report_without_run(waits_for)
            for stage in LATER_DISPUTABLE_STAGES[waits_for]:
                # The current wait continues.
                outcome = self.find_unreported_dispute(stage)
                if outcome:
                    self.raise_dispute_alert(stage, outcome)
            if self.stay is None or self.stay.stage != waits_for:
                assert self.wait is not None
                self.stay = Stay(waits_for, self.now, self.wait.deadline)
            if self.run.state != "open" and self.mark is None and self.status != "Orphan":
                self.start_run()
        run = self.run
        if run.token and run.stage:
            answer, ends_run = self.choose_answer(run.stage)
            if answer:
                self.actions.append(SendTaskAnswer(run.token, answer, self.wait.due if self.wait else self.now))
                self.run = structs.replace(run, token=None, state="closing" if ends_run else run.state)

    def begin_wait(self, stage: Stage) -> Wait:
        """Start and return a new wait for the stage's event, and clear the mark."""
        if self.wait is not None and self.wait.alerted:
            self.resolve(self.wait, self.describe_outcome(self.wait.stage))
        ingestion = self.outcomes.get("ingestion")
        ingested_at = ingestion.occurred_at if ingestion else None
        counted_from = self.now
        if self.counts_from_occurrence:
            # An orphan waits for its ingestion since its earliest event.
            is_orphan = stage == "ingestion"
            occurred = [
                outcome.occurred_at
                for outcome_stage, outcome in self.outcomes.items()
                if is_orphan or STAGE_INDEX[outcome_stage] <= STAGE_INDEX[stage]
            ]
            counted_from = min(self.now, min(occurred) if is_orphan else max(occurred))
        deadline = self.policy.deadline(stage, self.facts, ingested_at, counted_from)
        # The alert of a mismatch or failure belongs to the wait that follows it.
        alerted: tuple[Severity, ...] = (
            ("warning",) if self.reported_disputes and self.has_alerted_dispute(stage) else ()
        )
        if not self.counts_from_occurrence:
            wait = Wait(stage, self.now, deadline, deadline, alerted=alerted)
        else:
            # Allow a day for the import of the invoice's other past events.
            deadline = min(max(deadline, self.now + DAY), LATEST)
            wait = Wait(stage, self.now, deadline, deadline, counted_from=counted_from, alerted=alerted)
        self.wait, self.mark = wait, None
        return wait

    def has_alerted_dispute(self, stage: Stage) -> bool:
        """Return whether the stage's outcome is a mismatch or failure that an alert was raised for."""
        outcome, reported = self.outcomes.get(stage), self.reported_disputes.get(stage)
        return (
            outcome is not None
            and outcome.event_id == reported
            and outcome.status == FAILURE_STATUS[stage]
            and self.unalerted_disputes.get(stage) != reported
        )

    def postpone_first_alert(self) -> None:
        """Postpone the first alert to at least a day from now, after an import; do nothing once alerts were raised."""
        wait, earliest = self.wait, min(self.now + DAY, LATEST)
        if wait and not wait.is_stuck and wait.due < earliest:
            self.wait = structs.replace(wait, deadline=earliest, due=earliest)

    def lacks_responsive_run(self) -> bool:
        """Return whether no execution can ask for a report: the invoice is dormant, its run silent or not started."""
        return self.mark == "dormant" or self.run.silent_since > 0 or self.is_starting()

    def is_starting(self) -> bool:
        """Return whether the start of the run, by an earlier decision, is still pending."""
        return any(isinstance(a, StartExecution) and a.run == self.run.number for a in self.before.pending)

    def report_without_run(self, stage: Stage) -> None:
        """Report a dispute that no execution can ask for. A dormant invoice stays dormant: the next run would fail."""
        wait, mark, outcome = self.wait, self.mark, self.find_unreported_dispute(stage)
        assert wait and outcome
        self.report_dispute(wait, outcome)
        self.counts_from_occurrence = False
        self.wait = structs.replace(self.begin_wait(stage), ended_runs=wait.ended_runs)
        self.mark = mark

    def start_run(self) -> None:
        """Start the next run, with an action that starts its execution."""
        assert self.wait is not None
        number = self.run.number + 1
        self.run = Run(number, "open", self.now)
        seconds = seconds_until(self.wait.due, self.now)
        self.actions.append(StartExecution(self.before.invoice_id, number, seconds))

    # -- result

    @property
    def next_version(self) -> int:
        return self.before.version + 1

    def add_row(self, kind: str, id: str, stage: Stage, facts: Facts | None = None, **values: Any) -> dict[str, Any]:
        """Add the fields of a transition and return them; `facts` are those that an event states."""
        row = {"kind": kind, "transition_id": id, "stage": stage, "facts": facts, **values}
        self.rows.append(row)
        return row

    def build_transitions(self) -> tuple[Transition, ...]:
        """Build the transitions, each at its own instant: a time series has one row per invoice, stage and instant."""
        transitions, at = [], max(self.now, self.before.recorded_at + 1)
        before = self.before.facts
        status, amount, currency = self.status_before, before.amount, before.currency
        current = before
        for number, row in enumerate(self.rows):
            stated = row.pop("facts")
            start = (None, None, None) if self.is_new and number == 0 else (status, amount, currency)
            if row["kind"] in ("event", "command"):
                current = self.facts
                status, amount, currency = self.status, current.amount, current.currency
                if self.stay is not self.stay_before:
                    row["first_deadline"] = self.stay_before.first_deadline if self.stay_before else None
                    row["next_first_deadline"] = self.stay.first_deadline if self.stay else None
            facts = stated or current
            terms, received_at = facts.payment_terms, row.get("received_at")
            transitions.append(
                Transition(
                    invoice_id=self.before.invoice_id,
                    recorded_at=at,
                    decided_at=self.now,
                    policy_digest=self.policy.digest,
                    from_status=start[0],
                    from_amount=start[1],
                    from_currency=start[2],
                    to_status=status,
                    to_amount=amount,
                    to_currency=currency,
                    amount=facts.amount,
                    currency=facts.currency,
                    vendor_id=facts.vendor.id,
                    vendor_tier=facts.vendor.tier,
                    terms_days=terms.days if terms else None,
                    due_date=terms.due_date if terms else None,
                    lag_ms=None if received_at is None else max(0, (at - received_at) // 1000),
                    source=stated.source.system if stated else None,
                    attributes=stated.attributes if stated else {},
                    number=current.number,
                    issue_date=current.issue_date,
                    buyer=current.buyer.id if current.buyer else None,
                    **row,
                )
            )
            at += 1
        return tuple(transitions)

    def finish(self, answer: AnswerT) -> Decision[AnswerT]:
        """Return the decision, with the next version of the record, or the given record if nothing changed."""
        before = self.before
        pending = (*before.pending, *self.actions) if self.actions else before.pending
        check_at = next_check_at(self.run, self.wait, pending, self.now)
        is_unchanged = not self.rows and not self.actions and self._is_unchanged()
        # If actions are pending, a new check_at alone is no reason to save: it changes on every look at the record.
        if is_unchanged and (pending or check_at == before.check_at):
            return Decision(before, pending, (), answer)
        changes = self.build_transitions()
        record = InvoiceRecord(
            invoice_id=before.invoice_id,
            facts=self.facts,
            facts_version=self.facts_version,
            terms_version=self.terms_version,
            tier_version=self.tier_version,
            version=self.next_version,
            outcomes=self.outcomes,
            recent_event_ids=self.recent_event_ids,
            run=self.run,
            wait=self.wait,
            mark=self.mark,
            parked=self.parked,
            reported_disputes=self.reported_disputes,
            vendor_ids=self.vendor_ids,
            first_received=self.first_received,
            last_received=self.last_received,
            closed_at=self.closed_at,
            identity_alerts=self.identity_alerts,
            stated_versions=self.stated_versions,
            match_required=self.match_required,
            stay=self.stay,
            manual_outcomes=self.manual_outcomes,
            unalerted_disputes=self.unalerted_disputes,
            postings=self.postings,
            failed_at=self.failed_at,
            assignee=self.assignee,
            note=self.note,
            recent_command_ids=self.recent_command_ids,
            pending=pending,
            check_at=check_at,
            changes=changes,
            recorded_at=changes[-1].recorded_at if changes else before.recorded_at,
        )
        return Decision(record, pending, changes, answer)

    def _is_unchanged(self) -> bool:
        """Return whether run, wait and mark are unchanged. Only these change without a transition."""
        before = self.before
        return self.run == before.run and self.wait == before.wait and self.mark == before.mark


def next_check_at(run: Run, wait: Wait | None, pending: tuple[Action, ...], now: Instant) -> Instant | None:
    """Return the earliest instant at which the sweep must look at the record; None if it need not."""
    at = now + GRACE_PERIOD if pending else None
    if wait:
        due = wait.due
        if run.state == "open":
            due = min(due + GRACE_PERIOD, run.started_at + MAX_RUN_AGE)
            if run.silent_since:
                due = min(due, run.silent_since + MAX_SILENCE)
        at = due if at is None else min(at, due)
    return at


def clear_pending(record: InvoiceRecord, now: Instant, failed: tuple[Action, ...] = ()) -> InvoiceRecord:
    """Return the record after its pending actions were carried out, except those that failed (rule 1's second write).

    Returns the given record if nothing changes.
    """
    check_at = next_check_at(record.run, record.wait, failed, now)
    if failed == record.pending and check_at == record.check_at:
        return record
    return structs.replace(record, version=record.version + 1, pending=failed, changes=(), check_at=check_at)

"""Adversarial simulation of a runtime: everything that can go wrong between decisions, driven by small integers.

It has a versioned table, functions that run the protocol step by step, executions of the state machine, messages that
are delivered at least once, a sweeper, operators, and functions whose clocks lag. Between any two steps of a function,
other functions run, the function crashes, or Step Functions abandons it while it still runs. Some simulations refuse
every StartExecution for a while.

A schedule is a seed and a list of moves. After the moves, the simulation runs everything that is ready and checks its
invariants; then time passes until every wait has ended.

The invariants, by the number with which the message of `InvariantViolated` begins:

1. The status is derived from the newest event of each stage.
2. A waiting invoice has a check_at, and exactly one live execution, unless it is orphan, parked or dormant. There are
   never two.
3. The execution waits at the stage that the record waits for, with the token that the record has.
4. Every decided alert is raised. None is decided twice or without a wait, and none is overdue. In the end, every wait
   is given up. When an alert is due follows from its number, counted from the newest extension. Without crashes, an
   alert is raised once.
5. An invoice that waits for nothing has no live execution.
6. The simulation comes to rest.
7. A dispute is reported once, even if no execution can ask for it; a dispute of an imported event is not reported.
8. No action stays pending.
9. An event that changes no outcome does not revive a parked invoice.
10. The time series has one row per instant, and one row for every new event. Its rows form a chain, and its counts and
    amounts by status and currency equal those of the records.
11. A parked invoice keeps the wait that was given up.
12. Two vendors, or another invoice after the first was closed, raise an identity alert, in any order of events.
13. The rows that begin and end an invoice's stays alternate, with the deadline of the stay's first wait.
14. Those who got the alerts of a wait are told once that it ended or was extended, but not that it was parked.
15. An event that contradicts an outcome recorded by hand raises an alert, and no other event does.
16. While a wait is snoozed, no alert of it is raised.
17. Assignments and notes are kept, and change nothing else.
18. The optional facts and the posting date follow from the set of events, in any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from decimal import Decimal
from types import ModuleType
from typing import Any, NamedTuple

from msgspec import structs

from bems.tracker import apply_decision, decisions
from bems.tracker.actions import RaiseAlert, SendTaskAnswer, StartExecution, alert_id, seconds_until
from bems.tracker.commands import (
    Acknowledge,
    AddNote,
    Assign,
    Cancel,
    Command,
    Complete,
    Extend,
    Park,
    Revive,
    Snooze,
    Verb,
)
from bems.tracker.contract import FAILURE_STATUS, STAGES, SUCCESS_STATUS, Event, Facts, Source, Stage, Vendor
from bems.tracker.instants import DAY, MINUTE, SECOND, Instant
from bems.tracker.policy import (
    CalendarSpec,
    MatchExemption,
    OverrideSpec,
    Policy,
    PolicySpec,
    ReconciliationSpec,
    StageSpec,
    StagesSpec,
    WhenSpec,
    build_policy,
)
from bems.tracker.record import InvoiceRecord
from bems.tracker.record_builder import GRACE_PERIOD, MAX_RUN_AGE, MAX_SILENCE, next_check_at
from bems.tracker.status import WAITS_FOR, Outcome, status_of, supersedes
from bems.tracker.transitions import Transition

EPOCH = 20_000 * DAY
ATTEMPTS = 4
AWAITED: tuple[Stage, ...] = ("authorization", "reconciliation", "posting")
SILVER = Facts(Decimal("10.00"), "EUR", Vendor("V-1"), Source("erp"))
GOLD = Facts(Decimal("10.00"), "EUR", Vendor("V-1", tier="gold"), Source("erp"))
DEARER = Facts(Decimal("12.00"), "EUR", Vendor("V-1"), Source("erp"))
DOLLARS = Facts(Decimal("11.00"), "USD", Vendor("V-1"), Source("erp"))
ORDERED = Facts(Decimal("10.00"), "EUR", Vendor("V-1"), Source("erp"), number="RE-1", purchase_orders=("45",))
RENUMBERED = Facts(Decimal("10.00"), "EUR", Vendor("V-1"), Source("erp"), number="RE-2")
FOREIGN = Facts(Decimal("10.00"), "EUR", Vendor("V-2"), Source("erp"))
# Longer than the 30 days of a task's maximum timeout, so that waits also wake early.
RULE = StageSpec("40d", "20d", critical_at=2, give_up_at=3)
GOLDEN = OverrideSpec(WhenSpec(vendor_tier="gold"), deadline="25d", escalate_every="35d", give_up_at=2)


def policy_of(rule: StageSpec, exemptions: tuple[MatchExemption, ...] = ()) -> Policy:
    reconciliation = structs.replace(ReconciliationSpec(*structs.astuple(rule)), not_required=exemptions)
    stages = StagesSpec(rule, rule, reconciliation, rule)
    spec = PolicySpec(CalendarSpec("NL", "UTC"), stages, critical_amount_from={})
    return build_policy(spec, frozenset())


POLICY = policy_of(RULE)
EXEMPTING = policy_of(RULE, (MatchExemption(WhenSpec(has_purchase_order=False)),))
OTHER = policy_of(StageSpec("70d", "10d", critical_at=1, give_up_at=2, overrides=(GOLDEN,)))


class Core(NamedTuple):
    """Modules under test: the real ones or mutants."""

    decisions: ModuleType
    apply_decision: ModuleType


REAL = Core(decisions, apply_decision)


class StartRefused(Exception):
    """Failure of StartExecution while starts are refused."""


class InvariantViolated(AssertionError):
    """Violation of an invariant. `trace` lists the steps that lead to it."""

    trace: list[str]


class Execution:
    """Execution of statemachines/invoice_lifecycle.asl.json."""

    def __init__(self, simulation: Simulation, invoice_id: str, run: int, seconds: int) -> None:
        self.simulation, self.invoice_id, self.run = simulation, invoice_id, run
        self.entries = 0
        self.state, self.stage = "Start", AWAITED[0]
        self.ended: str | None = None
        self.token: str | None = None
        self.timer: Instant | None = None
        self.job = 0
        if simulation.fails_every_execution:
            self.end("failed")
        else:
            self.to_await("authorization", seconds)

    def to_await(self, stage: Stage, seconds: int) -> None:
        self.state, self.stage, self.retry, self.seconds = "Await", stage, -1, seconds
        self.simulation.sequence += 0 if self.simulation.has_coarse_clock else 1
        self.entered = self.simulation.now if self.simulation.has_coarse_clock else self.simulation.sequence
        self.nonce = self.simulation.unique()
        self.count_entry()
        self.call_function()

    def to_escalate(self, kind: str, stage: Stage) -> None:
        self.state, self.stage, self.kind, self.retry = "Escalate", stage, kind, -1
        self.token = self.timer = None
        self.count_entry()
        self.call_function()

    def count_entry(self) -> None:
        self.entries += 1
        if self.entries > self.simulation.max_entries:
            raise InvariantViolated(f"6: {self.entries} state entries in {self.invoice_id}#{self.run}")

    def end(self, how: str) -> None:
        self.state, self.ended, self.token, self.timer, self.job = "End", how, None, None, -1
        if how in ("failed", "killed") and not self.simulation.loses_end_notices:
            self.simulation.messages += [Message("ended", self.invoice_id, self.run)] * (1 + self.run % 2)

    def call_function(self) -> None:
        """Call or retry the state's function. On AWS a retry has a new token; `reuses_tokens` models the opposite."""
        self.retry += 1
        if self.retry >= ATTEMPTS:
            return self.end("failed")
        self.job = job = self.simulation.unique()
        core, run, stage = self.simulation.core.decisions, self.run, self.stage
        if self.state == "Await":
            token = self.token = f"{self.invoice_id}#{run}@{self.nonce}" + (
                "" if self.simulation.reuses_tokens else f".{self.retry}"
            )
            self.timer = self.simulation.now + self.seconds * SECOND
            request = core.WaitRequest(run, stage, token, (self.entered, self.retry))
            self.simulation.spawn(
                f"wait {token} {stage}",
                self.invoice_id,
                lambda r, t: core.on_wait(r, request, self.simulation.policy, t),
                self,
                job,
            )
        else:
            name = f"{self.kind} {stage} #{run}"
            self.simulation.spawn(name, self.invoice_id, self.make_escalation(self.kind, run, stage), self, job)
        return None

    def make_escalation(self, kind: str, run: int, stage: Stage) -> Decide:
        core = self.simulation.core.decisions

        def decide(record: InvoiceRecord | None, now: Instant) -> Any:
            decision = (core.on_timeout if kind == "timeout" else core.on_dispute)(
                record, run, stage, self.simulation.policy, now
            )
            wait = decision.record.wait
            mine = kind == "timeout" and wait and wait.stage == stage and run == decision.record.run.number
            if mine and now >= wait.due:
                raise InvariantViolated(f"4: {self.invoice_id} asked after its alert was due and received none")
            return decision

        return decide

    def on_function_lost(self, job: int) -> None:
        """Retry a function that crashed, or that Step Functions abandoned."""
        if job != self.job:
            return
        if self.simulation.has_coarse_clock:
            self.simulation.now += MINUTE  # a retry backs off, so it never has the same instant as the next state
        self.call_function()

    def on_reply(self, job: int, reply: Any) -> None:
        if job != self.job:
            return
        if self.state == "Await":
            self.job = 0  # registered; only the token or the timer continues it
        elif reply.next == "Await" or self.kind == "dispute":
            self.to_await(self.stage, seconds_until(reply.wait_until, self.simulation.now))
        else:
            self.end(reply.next)

    def on_task_answer(self, answer: SendTaskAnswer) -> None:
        if self.token != answer.token:
            return  # TaskTimedOut, which is harmless
        self.token, self.timer, self.job = None, None, -1
        name = answer.answer
        if name == "ok" and self.stage == "posting":
            self.end("Posted")
        elif name == "ok":
            self.to_await(AWAITED[AWAITED.index(self.stage) + 1], seconds_until(answer.until, self.simulation.now))
        elif name == "Mismatched" and self.stage != "authorization":
            self.to_escalate("dispute", "reconciliation")
        elif name == "PostingFailed" and self.stage == "posting":
            self.to_escalate("dispute", "posting")
        elif name in ("Rejected", "Cancelled", "Superseded", "Parked"):
            self.end(name)
        else:
            self.end("failed")
            raise InvariantViolated(f"3: {name} is not caught while waiting for {self.stage}")


Decide = Callable[[InvoiceRecord | None, Instant], Any]


class Message:
    """Message that is delivered at least once: an event, a command, or the notice that an execution failed."""

    def __init__(self, kind: str, invoice_id: str, content: Any) -> None:
        self.kind, self.invoice_id, self.content = kind, invoice_id, content


class Function:
    """Invocation of a function that runs the protocol."""

    def __init__(
        self, name: str, invoice_id: str, generator: Generator[Any], caller: Execution | None, job: int
    ) -> None:
        self.name, self.invoice_id, self.generator, self.caller, self.job = name, invoice_id, generator, caller, job
        self.message: Message | None = None


class Simulation:
    """State of a simulated runtime. The seed determines its faults, events, commands and policies."""

    def __init__(self, seed: int, core: Core = REAL, without: frozenset[str] = frozenset()) -> None:
        draw = random.Random(seed)
        self.core = core
        self.reuses_tokens = draw.random() < 0.3
        self.loses_end_notices = draw.random() < 0.2
        self.has_coarse_clock = draw.random() < 0.15
        self.crashes = draw.randint(0, 4)
        self.abandonments = 0 if self.has_coarse_clock else draw.choice((0, 1, 2, 6))
        self.kills = draw.randint(0, 3)
        # Every execution fails at once, as with a missing permission.
        self.fails_every_execution = draw.random() < 0.05 and not self.loses_end_notices
        self.max_lag_minutes = 0 if self.has_coarse_clock else draw.choice((0, 0, 1, 2))
        self.now: Instant = EPOCH + 100 * DAY
        self.sequence = self.last_unique = 0
        # Some simulations change the policy midway, or have facts to which another rule applies.
        self.policy, self.varies_rules = POLICY, draw.random() < 0.25
        # Some vary amount, currency and vendor; some have past events; some cannot start executions.
        varies_facts, has_past_events = draw.random() < 0.3, draw.random() < 0.15
        self.refuses_starts = draw.random() < 0.15
        # Some need no match without a purchase order, and have numbers and orders.
        exempts = not self.varies_rules and draw.random() < 0.15
        varies_optional_facts = exempts or draw.random() < 0.15
        if exempts:
            self.policy = EXEMPTING
        self.trace: list[str] | None = []
        self.records: dict[str, InvoiceRecord] = {}
        self.executions: dict[tuple[str, int], Execution] = {}
        self.functions: list[Function] = []
        self.raised: dict[str, int] = {}
        self.publish_counts: dict[str, int] = {}
        self.extension_steps: dict[tuple[str, Instant], int] = {}
        self.rows: dict[str, list[Transition]] = {}
        self.decided: dict[str, int] = {}
        self.recorded_ids: dict[str, set[str]] = {}
        self.stays: dict[str, tuple[Stage, Instant]] = {}
        self.alerted: dict[tuple[str, Stage, Instant], set[str]] = {}
        self.manual: dict[tuple[str, Stage], str] = {}
        self.newest_notes: dict[str, str] = {}
        self.assignees: dict[str, str | None] = {}
        self.command_outcomes: list[tuple[str, Stage, Outcome]] = []
        self.replaced_by: dict[str, Instant] = {}
        self.decided_before_late_phase: set[str] = set()
        invoices = ["A", "B"][: 1 + (draw.random() < 0.25)]
        self.messages: list[Message] = []
        for k in range(draw.randint(3, 8)):
            invoice_id = draw.choice(invoices)
            stage: Stage = STAGES[min(k, 3)] if draw.random() < 0.5 else draw.choice(STAGES)
            status = (FAILURE_STATUS if draw.random() < 0.35 else SUCCESS_STATUS)[stage]
            if status == "matched" and draw.random() < 0.2:
                status = "not_applicable"
            at = EPOCH + draw.randint(90, 100) * DAY
            facts = GOLD if self.varies_rules and draw.random() < 0.5 else SILVER
            if varies_facts and draw.random() < 0.5:
                facts = draw.choice((DEARER, DOLLARS, FOREIGN))
            elif varies_optional_facts and draw.random() < 0.6:
                facts = draw.choice((ORDERED, RENUMBERED))
            imported = has_past_events and draw.random() < 0.5
            event = Event(stage, f"e{k}", invoice_id, status, at, self.now, facts, f"d{k}", imported)
            self.messages += [Message("event", invoice_id, event)] * draw.choice((1, 1, 2, 3))
        for k in range(draw.choice((0, 0, 1, 2, 3, 4))):
            invoice_id = draw.choice(invoices)
            verb: Verb = draw.choice(
                (
                    Park(),
                    Revive(),
                    Acknowledge(),
                    Cancel(),
                    Extend(self.now + draw.choice((30, 60, 90, 350)) * DAY),
                    Complete(draw.choice(AWAITED)),
                    Complete(draw.choice(AWAITED)),
                    Snooze(self.now + draw.choice((30, 50, 65, 75, 130)) * DAY),
                    draw.choice((Assign("eve"), Assign("bob"), Assign(None), AddNote())),
                )
            )
            note = "" if draw.random() < 0.1 else f"note {k}"
            command = Command(f"c{k}", invoice_id, "ann", EPOCH + draw.randint(95, 104) * DAY, verb, note)
            self.messages += [Message("command", invoice_id, command)] * draw.choice((1, 1, 2))
        draw.shuffle(self.messages)
        self.messages = [
            m for m in self.messages if (m.content.event_id if m.kind == "event" else m.content.id) not in without
        ]
        self.events = [(m.invoice_id, m.content) for m in self.messages if m.kind == "event"]
        self.commands = list({m.content.id: m.content for m in self.messages if m.kind == "command"}.values())
        self.max_entries = 60 + 12 * len(self.messages)

    def unique(self) -> int:
        self.last_unique += 1
        return self.last_unique

    def log(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{(self.now - EPOCH) / DAY:.3f} {text}")

    # -- functions

    def spawn(
        self,
        name: str,
        invoice_id: str,
        decide: Callable[[InvoiceRecord | None, Instant], Any],
        caller: Execution | None = None,
        job: int = 0,
    ) -> Function:
        lag = self.unique() * 7 % (self.max_lag_minutes + 1) * MINUTE
        function = Function(name, invoice_id, self.invoke(name, invoice_id, decide, lag), caller, job)
        self.functions.append(function)
        return function

    def invoke(
        self, name: str, invoice_id: str, decide: Callable[[InvoiceRecord | None, Instant], Any], lag: int
    ) -> Generator[str, None, Any]:
        """Run the protocol, pausing before each step takes effect."""
        steps: Generator[Any, Any, Any] = self.core.apply_decision.apply_steps(invoice_id, decide)
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as end:
                yield "return"
                return end.value
            result = None
            if isinstance(step, self.core.apply_decision.Load):
                result = self.records.get(invoice_id), self.now - lag
                yield "load"
                continue
            yield type(step).__name__
            if isinstance(step, self.core.apply_decision.Save):
                result = self.save(name, step.record)
            elif isinstance(step, RaiseAlert):
                self.log(f"    raise {step.alert.kind} {step.alert.step} {step.alert.id}")
                if self.raised.setdefault(step.alert.id, step.alert.step) != step.alert.step:
                    raise InvariantViolated(f"4: alert {step.alert.id} with two contents")
                self.publish_counts[step.alert.id] = self.publish_counts.get(step.alert.id, 0) + 1
            elif isinstance(step, StartExecution) and self.refuses_starts:
                self.log(f"    refused {step}")
                result = StartRefused()
            elif isinstance(step, StartExecution):
                self.log(f"    start {step}")
                if (invoice_id, step.run) not in self.executions:
                    self.executions[invoice_id, step.run] = Execution(self, invoice_id, step.run, step.deadline_seconds)
            else:
                self.log(f"    {step}")
                execution = self.executions.get((invoice_id, int(step.token.split("#")[1].split("@")[0])))
                if execution:
                    execution.on_task_answer(step)

    def save(self, name: str, new: InvoiceRecord) -> bool:
        old = self.records.get(new.invoice_id)
        if (old.version if old else 0) != new.version - 1:
            return False
        if name == "event" and old and old.mark and new.changes:
            changed = old.outcomes != new.outcomes
            if old.mark == "parked" and not new.mark and not changed:
                raise InvariantViolated(f"9: parked {new.invoice_id} revived by an event that changes nothing")
            if new.mark == old.mark and (old.mark == "dormant" or changed):
                raise InvariantViolated(f"9: {new.invoice_id} stays {new.mark} when an event comes")
        if old and old.mark == new.mark == "dormant" and old.wait and new.wait and old.wait.step != new.wait.step:
            raise InvariantViolated(f"2: {new.invoice_id} stays dormant when its alert is due")
        before = old.pending if old else ()
        for action in new.pending:
            if isinstance(action, RaiseAlert) and action not in before:
                alert = action.alert
                if alert.id in self.decided:
                    number = {"stuck": 4, "identity": 12, "resolved": 14, "contradiction": 15}.get(alert.kind, 7)
                    raise InvariantViolated(f"{number}: alert {alert} decided twice")
                if alert.kind == "stuck" and (not old or not old.wait or old.wait.stage != alert.stage):
                    raise InvariantViolated(f"4: alert {alert} decided while not waiting")
                if alert.kind == "stuck" and old and old.wait and alert.raised_at < (old.wait.snoozed_until or 0):
                    raise InvariantViolated(f"16: alert {alert} decided in a snooze until {old.wait.snoozed_until}")
                if alert.last and not any(change.kind == "park" for change in new.changes):
                    raise InvariantViolated(f"4: {new.invoice_id} is not parked by its last alert")
                self.decided[alert.id] = alert.step
                if alert.kind == "stuck" and old and old.wait and not self.varies_rules:
                    self.check_number(alert, old.wait)
                if alert.kind in ("dispute", "failed") and any(
                    event.imported and event.event_id == alert.event_id for _, event in self.events
                ):
                    raise InvariantViolated(f"7: {alert} is of a past event")
        if new.mark == "parked" and old and old.mark != "parked":
            gave_up = new.parked is not None and new.parked.by is None
            if gave_up and self.find_unreported(new):
                raise InvariantViolated(f"7: {new.invoice_id} gives up before its dispute was reported")
            wait, kept = old.wait, new.parked
            steps = [action.alert.step for action in new.pending if isinstance(action, RaiseAlert)]
            if not wait or not kept or (kept.stage, kept.since) != (wait.stage, wait.since) or kept.step < wait.step:
                raise InvariantViolated(f"11: {new.invoice_id} was parked in {wait} and keeps {kept}")
            if not kept.by and kept.step != max([wait.step, *steps]):
                raise InvariantViolated(f"11: {new.invoice_id} gave up at {steps} and keeps {kept}")
        if (new.mark == "parked") is not (new.parked is not None):
            raise InvariantViolated(f"11: {new.invoice_id} is {new.mark} and keeps {new.parked}")
        if name == "command" and old and old.wait and new.wait and new.wait.extensions > old.wait.extensions:
            self.extension_steps[new.invoice_id, new.wait.since] = max(
                [old.wait.step, *(a.alert.step for a in new.pending if isinstance(a, RaiseAlert))]
            )
            if new.wait.due != new.wait.deadline or new.is_stuck:
                raise InvariantViolated(f"4: {new.invoice_id} is extended to {new.wait}")
        alerts = [a.alert for a in new.pending if isinstance(a, RaiseAlert) and a not in before]
        self.check_resolved(old, new, [alert for alert in alerts if alert.kind == "resolved"], alerts)
        self.check_contradiction(new, [alert for alert in alerts if alert.kind == "contradiction"])
        if name == "command":
            self.check_command(old, new)
        becomes_dormant = new.mark == "dormant" and not (old and old.mark == "dormant")
        if becomes_dormant and not any(change.kind == "dormant" for change in new.changes):
            raise InvariantViolated(f"10: {new.invoice_id} becomes dormant without a row")
        for change in new.changes:
            self.check_stay(change, new)
            self.check_row(new.invoice_id, change)
            if old and change.recorded_at <= old.recorded_at:
                raise InvariantViolated(f"10: {change.transition_id} recorded at or before its predecessor")
            if change.transition_id in self.recorded_ids.setdefault(new.invoice_id, set()):
                raise InvariantViolated(f"10: {change.transition_id} recorded twice")
            self.recorded_ids[new.invoice_id].add(change.transition_id)
        if name == "command":
            for stage, outcome in new.outcomes.items():
                if outcome.event_id.startswith("command") and (not old or old.outcomes.get(stage) != outcome):
                    self.command_outcomes.append((new.invoice_id, stage, outcome))
        self.log(f"    save {new.run} {new.wait} {new.mark} {new.status}")
        self.records[new.invoice_id] = new
        return True

    def check_stay(self, row: Transition, new: InvoiceRecord) -> None:
        id, stay = row.invoice_id, self.stays.get(row.invoice_id)
        before = WAITS_FOR[row.from_status] if row.from_status else None
        after = WAITS_FOR[row.to_status]
        if before == after:
            if row.first_deadline is not None or row.next_first_deadline is not None:
                raise InvariantViolated(f"13: {row} ends or begins a stay, though its invoice waits as before")
            return
        if row.first_deadline != (stay[1] if stay else None):
            raise InvariantViolated(f"13: {row} ends a stay until {row.first_deadline}, not {stay}")
        if after is None:
            self.stays.pop(id, None)
        else:
            # The wait may have been extended or ended in the same decision only by an alert, which moves no deadline.
            if row.next_first_deadline is None or (new.wait and row.next_first_deadline != new.wait.deadline):
                raise InvariantViolated(f"13: {row} begins a stay of {new.wait}")
            self.stays[id] = after, row.next_first_deadline

    def check_resolved(
        self, old: InvoiceRecord | None, new: InvoiceRecord, resolved: list[Any], alerts: list[Any]
    ) -> None:
        wait, now = old.wait if old else None, new.wait
        told = sorted(alert.severity for alert in resolved)
        # A wait that a dispute restarts may begin at the same instant again.
        restarted = bool(wait and any(a.kind in ("dispute", "failed") and a.stage == wait.stage for a in alerts))
        expected: list[str] = []
        if wait:
            key = new.invoice_id, wait.stage, wait.since
            severities = self.alerted.setdefault(key, set())
            severities |= {a.severity for a in alerts if a.kind == "stuck" and a.waiting_since == wait.since}
            is_over = now is None or restarted or (now.stage, now.since) != (wait.stage, wait.since)
            was_parked = any(change.kind == "park" for change in new.changes)
            if (is_over and not was_parked) or (now and now.extensions > wait.extensions):
                expected = sorted(severities)
                severities.clear()
        if told != expected:
            raise InvariantViolated(f"14: {new.invoice_id} tells {told}, not {expected}, that {wait} became {now}")
        if now and (wait is None or restarted or (now.stage, now.since) != (wait.stage, wait.since)):
            outcome = new.outcomes.get(now.stage)
            ids = {alert_id(new.invoice_id, kind, outcome.event_id) for kind in ("dispute", "failed") if outcome}
            raised = self.decided.keys() | {alert.id for alert in alerts}
            self.alerted[new.invoice_id, now.stage, now.since] = {"warning"} if raised & ids else set()

    def check_contradiction(self, new: InvoiceRecord, contradictions: list[Any]) -> None:
        for row in new.changes:
            if row.kind != "event":
                continue
            manual = self.manual.get((new.invoice_id, row.stage))
            is_bad = row.outcome == FAILURE_STATUS[row.stage]
            contradicts = (manual is not None and (manual == FAILURE_STATUS[row.stage]) is not is_bad) or (
                row.outcome == "posted" and self.manual.get((new.invoice_id, "ingestion")) == "cancelled"
            )
            if [alert.event_id for alert in contradictions] != ([row.event_id] if contradicts else []):
                raise InvariantViolated(f"15: {row} after {self.manual} raises {contradictions}")

    def check_command(self, old: InvoiceRecord | None, new: InvoiceRecord) -> None:
        rows = [row for row in new.changes if row.kind == "command"]
        for command in (c for c in self.commands if rows and f"command {c.id}" == rows[0].event_id):
            if isinstance(command.verb, Assign | AddNote):
                assert old
                if (old.run, old.wait, old.mark, old.outcomes, old.pending) != (
                    new.run, new.wait, new.mark, new.outcomes, new.pending,
                ):  # fmt: skip
                    raise InvariantViolated(f"17: {command} changes {old} to {new}")
            if isinstance(command.verb, Assign):
                self.assignees[new.invoice_id] = command.verb.assignee
            if command.note:
                self.newest_notes[new.invoice_id] = command.note
            elif command.name in ("complete", "cancel", "park", "note"):
                raise InvariantViolated(f"17: {command} is accepted without a note")
            if isinstance(command.verb, Complete):
                self.manual[new.invoice_id, command.verb.stage] = SUCCESS_STATUS[command.verb.stage]
            if isinstance(command.verb, Cancel):
                self.manual[new.invoice_id, "ingestion"] = "cancelled"
        note = new.note.text if new.note else None
        if (new.assignee, note) != (self.assignees.get(new.invoice_id), self.newest_notes.get(new.invoice_id)):
            raise InvariantViolated(f"17: {new.invoice_id} keeps {new.assignee} and {note}")

    def check_optional_facts(self, record: InvoiceRecord) -> None:
        events = [event for i, event in self.events if i == record.invoice_id]
        for name in ("number", "purchase_orders"):
            stated = [(e.occurred_at, e.event_id, value) for e in events if (value := getattr(e.facts, name))]
            expected = max(stated)[2] if stated else getattr(SILVER, name)
            if getattr(record.facts, name) != expected:
                raise InvariantViolated(f"18: {name} of {record.invoice_id} is not {expected}: {record.facts}")
        outcomes = [(e.status, e.occurred_at) for e in events if e.stage == "posting"]
        outcomes += [
            (outcome.status, outcome.occurred_at)
            for i, stage, outcome in self.command_outcomes
            if (i, stage) == (record.invoice_id, "posting")
        ]
        failed_at = max([at for status, at in outcomes if status == "failed"], default=0)
        posted_on = min([at for status, at in outcomes if status == "posted" and at > failed_at], default=None)
        if record.posted_on != posted_on:
            raise InvariantViolated(f"18: {record.invoice_id} was posted on {record.posted_on}, not {posted_on}")

    def find_unreported(self, record: InvoiceRecord) -> list[Stage]:
        """Return the stages whose mismatch or failure has not been reported."""
        return [
            stage
            for stage in STAGES[2:]
            if (outcome := record.outcomes.get(stage))
            and outcome.status == FAILURE_STATUS[stage]
            and record.reported_disputes.get(stage) != outcome.event_id
        ]

    def check_number(self, alert: Any, wait: Any) -> None:
        """Check that an alert's number alone determines when it is due, its severity and whether it is the last."""
        number = alert.step - self.extension_steps.get((alert.invoice_id, wait.since), 0)
        expected = wait.deadline + (number - 1) * 20 * DAY, "critical" if number >= 2 else "warning", number >= 3
        if (alert.due_at, alert.severity, alert.last) != expected:
            raise InvariantViolated(f"4: alert {alert} should be {expected}")

    def check_row(self, invoice_id: str, row: Transition) -> None:
        rows = self.rows.setdefault(invoice_id, [])
        start = row.from_status, row.from_amount, row.from_currency
        end = row.to_status, row.to_amount, row.to_currency
        before = (rows[-1].to_status, rows[-1].to_amount, rows[-1].to_currency) if rows else (None, None, None)
        if start != before:
            raise InvariantViolated(f"10: {row.transition_id} begins at {start}, its predecessor ends at {before}")
        if row.kind not in ("event", "command") and start != end:
            raise InvariantViolated(f"10: {row.transition_id}, a row of kind {row.kind}, moves {start} to {end}")
        rows.append(row)

    # -- moves

    def deliver(self, index: int, keep: bool = False) -> None:
        message = self.messages[index]
        if not keep:
            self.messages.pop(index)
        core, content = self.core.decisions, message.content
        self.log(f"deliver {message.kind} {content}")

        def decide(record: InvoiceRecord | None, now: Instant) -> Any:
            if message.kind == "event":
                return core.on_event(record, content, self.policy, now)
            if message.kind == "command":
                return core.on_command(record, content, self.policy, now)
            return core.on_sweep(record, self.policy, now, content)

        self.spawn(message.kind, message.invoice_id, decide).message = message

    def sweep(self, invoice_id: str) -> None:
        self.log(f"sweep {invoice_id}")
        self.spawn("sweep", invoice_id, lambda r, t: self.core.decisions.on_sweep(r, self.policy, t))

    def step(self, index: int) -> None:
        function = self.functions[index]
        try:
            at = next(function.generator)
            self.log(f"  {function.name}: {at}")
        except StopIteration as end:
            self.functions.remove(function)
            if function.caller:
                function.caller.on_reply(function.job, end.value)
        except StartRefused:
            # The message goes to the dead-letter queue; the saved record stays.
            self.functions.remove(function)
            if function.caller:
                function.caller.on_function_lost(function.job)

    def crash(self, index: int) -> None:
        function = self.functions.pop(index)
        self.log(f"  CRASH {function.name}")
        if function.message:
            self.messages.append(function.message)  # not acknowledged: redelivered
        if function.caller:
            function.caller.on_function_lost(function.job)

    def due_timers(self) -> list[Execution]:
        return [x for x in self.executions.values() if x.timer is not None and x.timer <= self.now]

    def fire(self, execution: Execution) -> None:
        self.log(f"timer {execution.invoice_id}#{execution.run} {execution.stage}")
        execution.job = -1
        execution.to_escalate("timeout", execution.stage)

    def move(self, what: int, which: int) -> None:
        """Make one move of the adversary, or none if it is not possible now."""
        functions, messages = self.functions, self.messages
        if what < 9:
            if functions:
                self.step(which % len(functions))
        elif what < 15:
            if functions:  # run one function to its end
                function = functions[which % len(functions)]
                while function in functions:
                    self.step(functions.index(function))
        elif (what == 23 or (what in (20, 22, 28) and self.abandonments > 2)) and self.abandon(which):
            return
        elif what <= 20:
            if messages:
                index = which % len(messages)
                self.deliver(index, keep=what == 20 and messages[index].kind == "event" and which % 7 == 0)
        elif what < 23:
            if functions and self.crashes:
                self.crashes -= 1
                self.crash(which % len(functions))
        elif what == 24 and self.varies_rules and which % 3 == 0:
            self.policy = OTHER if self.policy is POLICY else POLICY
            self.log("another policy")
        elif what == 24:
            self.now += MINUTE
        elif what == 25:
            self.now = max(self.now, self.next_instant() or 0)
        elif what == 26:
            self.now += which % 90 * DAY
        elif what == 27:
            if self.records:
                self.sweep(sorted(self.records)[which % len(self.records)])
        elif what == 28:
            live = [x for x in self.executions.values() if not x.ended]
            if live and self.kills:
                self.kills -= 1
                self.log("KILL")
                live[which % len(live)].end("killed")
        elif timers := self.due_timers():
            self.fire(timers[which % len(timers)])

    def abandon(self, which: int) -> bool:
        """Let Step Functions abandon a function that still runs."""
        waited = [f for f in self.functions if f.caller and f.job == f.caller.job]
        if not waited or not self.abandonments:
            return False
        self.abandonments -= 1
        function = waited[which % len(waited)]
        self.log(f"  GIVEN UP {function.name}")
        assert function.caller
        function.caller.on_function_lost(function.job)
        return True

    def next_instant(self) -> Instant | None:
        """Return when the next timer or check is due.

        While starts are refused, checks that only retry pending actions are left out, because they repeat every few
        minutes.
        """
        timers = [x.timer for x in self.executions.values() if x.timer is not None]
        checks = [
            next_check_at(record.run, record.wait, (), self.now) if self.refuses_starts else record.check_at
            for record in self.records.values()
        ]
        return min(timers + [at for at in checks if at is not None], default=None)

    def drain(self) -> None:
        """Run everything that is ready without advancing time, in a fair order and without faults."""
        for _ in range(5000):
            if self.functions:
                self.step(0)
            elif self.messages:
                self.deliver(0)
            elif timers := self.due_timers():
                self.fire(timers[0])
            elif due := [i for i, r in self.records.items() if r.check_at is not None and r.check_at <= self.now]:
                self.sweep(due[0])
            else:
                return
        raise InvariantViolated("6: does not come to rest")

    # -- invariants

    def pass_grace_period(self) -> None:
        """Let more than the grace period pass, minute by minute."""
        for _ in range(2 * GRACE_PERIOD // MINUTE + 1):
            self.now += MINUTE
            self.drain()

    def pass_time(self) -> bool:
        """Move to the next instant at which something happens, and check; return whether there is one."""
        at = self.next_instant()
        if at is None:
            return False
        self.now = max(self.now + MINUTE, at)
        self.drain()
        self.check(late=True)
        return True

    def check(self, late: bool) -> None:
        for invoice_id, record in self.records.items():
            self.check_record(invoice_id, record, late)
        if self.decided != self.raised:
            raise InvariantViolated(f"4: decided {self.decided} but raised {self.raised}")
        if late:
            often = [
                id
                for id, count in self.publish_counts.items()
                if id not in self.decided_before_late_phase and count > 1
            ]
            if often:
                raise InvariantViolated(f"4: raised more than once: {often}")
        self.check_totals()

    def check_totals(self) -> None:
        """Check that the series and the records give the same counts and amounts by status and currency."""
        series: dict[tuple[str, str], tuple[int, Decimal]] = {}
        records: dict[tuple[str, str], tuple[int, Decimal]] = {}

        def add(to: dict[tuple[str, str], tuple[int, Decimal]], key: Any, amount: Any, sign: int = 1) -> None:
            count, total = to.get(key, (0, Decimal(0)))
            to[key] = count + sign, total + sign * amount

        for rows in self.rows.values():
            for row in rows:
                add(series, (row.to_status, row.to_currency), row.to_amount)
                if row.from_status:
                    add(series, (row.from_status, row.from_currency), row.from_amount, -1)
        for record in self.records.values():
            add(records, (record.status, record.facts.currency), record.facts.amount)
        series = {key: value for key, value in series.items() if value != (0, Decimal(0))}
        if series != records:
            raise InvariantViolated(f"10: the series says {series}, the records {records}")

    def check_identity(self, invoice_id: str) -> None:
        """Check, at the end, that the identity alerts raised are those that the set of all events requires."""
        events = [event for i, event in self.events if i == invoice_id]
        if len({event.facts.vendor.id for event in events}) > 1:
            if alert_id(invoice_id, "identity", "vendor") not in self.decided:
                raise InvariantViolated(f"12: two vendors of {invoice_id} are not reported")
        elif alert_id(invoice_id, "identity", "vendor") in self.decided:
            raise InvariantViolated(f"12: two vendors of {invoice_id} are reported, which has one")
        received = sorted((e.occurred_at, e.event_id, e.facts) for e in events if e.status == "received")
        closed = [e.occurred_at for e in events if e.status in ("posted", "cancelled")]
        if not received or not closed:
            return
        (_, _, first), (at, _, last) = received[0], received[-1]
        same = (first.amount, first.currency, first.vendor.id) == (last.amount, last.currency, last.vendor.id)
        if at > min(closed) and not same and alert_id(invoice_id, "identity", "reused") not in self.decided:
            raise InvariantViolated(f"12: the second invoice of {invoice_id} is not reported")

    def check_record(self, invoice_id: str, record: InvoiceRecord, late: bool) -> None:
        status = record.status
        self.check_optional_facts(record)
        waits_for = WAITS_FOR[status]
        live = [x for (i, _), x in self.executions.items() if i == invoice_id and not x.ended]
        if status != self.expected_status(invoice_id):
            raise InvariantViolated(f"1: {invoice_id} is {status}, events say {self.expected_status(invoice_id)}")
        if record.pending and not (self.refuses_starts and all(isinstance(a, StartExecution) for a in record.pending)):
            raise InvariantViolated(f"8: {invoice_id} pending {record.pending}")
        if len(live) > 1:
            raise InvariantViolated(f"2: {invoice_id} has live executions {[x.run for x in live]}")
        if waits_for is None or record.mark == "parked":
            if live:
                raise InvariantViolated(
                    f"5: {invoice_id} is {status} {record.mark} but #{live[0].run} lives at {live[0].stage}"
                )
        elif record.wait is None or record.check_at is None or record.wait.stage != waits_for:
            raise InvariantViolated(f"2: {invoice_id} unwatched {record}")
        elif record.mark == "dormant":
            if live or not record.wait.ended_runs:
                raise InvariantViolated(f"2: {invoice_id} is dormant without reason, or has a live execution")
        elif (
            status != "Orphan"
            and not self.refuses_starts
            and (not self.loses_end_notices or (late and self.now > self.replaced_by.get(invoice_id, self.now)))
        ):
            if not live:
                raise InvariantViolated(f"2: {invoice_id} waits ({status}) without a live execution: {record.run}")
            if live[0].token != record.run.token:
                raise InvariantViolated(
                    f"3: {invoice_id} execution waits on {live[0].token}, record has {record.run.token}"
                )
            if live[0].stage != waits_for:
                raise InvariantViolated(f"3: {invoice_id} waits for {waits_for}, execution at {live[0].stage}")
        if record.wait and waits_for:
            is_asked_for = self.loses_end_notices and not self.refuses_starts and record.mark != "dormant"
            if [stage for stage in self.find_unreported(record) if stage != waits_for or not is_asked_for]:
                raise InvariantViolated(f"7: {invoice_id} dispute not reported")
        if record.wait and self.now > record.wait.due + GRACE_PERIOD:
            raise InvariantViolated(f"4: {invoice_id} alert {record.wait.step + 1} is overdue")
        if record.run.state == "open" and record.wait and self.now > record.run.started_at + MAX_RUN_AGE:
            raise InvariantViolated(f"2: {invoice_id} run {record.run.number} is too old")
        if {f"event {event.event_id}" for i, event in self.events if i == invoice_id} - self.recorded_ids[invoice_id]:
            raise InvariantViolated(f"10: an event of {invoice_id} is not recorded")
        last = self.rows[invoice_id][-1]
        if (last.to_status, last.to_amount, last.to_currency) != (status, record.facts.amount, record.facts.currency):
            raise InvariantViolated(f"10: the last row of {invoice_id} ends at {last}")

    def expected_status(self, invoice_id: str) -> str:
        """Compute the status independently, from all outcomes ever stated."""
        registers: dict[Stage, Outcome] = {}
        stated = [
            (e.stage, Outcome(e.status, e.event_id, e.occurred_at, e.received_at))
            for i, e in self.events
            if i == invoice_id
        ] + [(stage, outcome) for i, stage, outcome in self.command_outcomes if i == invoice_id]
        for stage, outcome in stated:
            if supersedes(stage, outcome, registers.get(stage)):
                registers[stage] = outcome
        facts = self.records[invoice_id].facts
        return status_of(registers, self.policy is not EXEMPTING or bool(facts.purchase_orders))


Moves = list[tuple[int, int]]


def run_schedule(
    seed: int, moves: Moves, core: Core = REAL, without: frozenset[str] = frozenset(), trace: bool = False
) -> Simulation:
    """Run one schedule, without the messages whose ids are in `without`. Raise InvariantViolated."""
    simulation, draw = Simulation(seed, core, without), random.Random(f"{seed} refusals")
    if not trace:
        simulation.trace = None
    try:
        # A command for an unknown invoice is refused, so every invoice starts with one of its events.
        for invoice_id in dict.fromkeys(m.invoice_id for m in simulation.messages):
            first = next(
                (k for k, m in enumerate(simulation.messages) if m.invoice_id == invoice_id and m.kind == "event"), None
            )
            if first is None:
                simulation.messages = [m for m in simulation.messages if m.invoice_id != invoice_id]
                continue
            simulation.deliver(first)
            while simulation.functions and invoice_id not in simulation.records:
                simulation.step(len(simulation.functions) - 1)
        for what, which in moves:
            simulation.move(what, which)
        simulation.log("-- drain")
        simulation.drain()
        simulation.pass_grace_period()
        simulation.check(late=False)
        simulation.decided_before_late_phase = set(simulation.decided)
        if simulation.refuses_starts:
            simulation.log("-- time passes, and no execution can be started")
            for _ in range(draw.randint(1, 20)):
                if not simulation.pass_time():
                    break
            simulation.refuses_starts = False
            simulation.pass_grace_period()
        for invoice_id, record in simulation.records.items():
            wait = record.wait if simulation.loses_end_notices else None
            due = wait.due + GRACE_PERIOD + MAX_SILENCE if wait else 0
            simulation.replaced_by[invoice_id] = due
        simulation.log("-- time passes")
        for _ in range(400):
            if not simulation.pass_time():
                break
        else:
            raise InvariantViolated("6: time passes and the simulation never ends")
        for invoice_id, record in simulation.records.items():
            if WAITS_FOR[record.status] and record.mark != "parked":
                raise InvariantViolated(f"4: {invoice_id} is never given up")
            simulation.check_identity(invoice_id)
    except InvariantViolated as broken:
        broken.trace = simulation.trace or []
        raise
    return simulation


def generate_moves(seed: int) -> Moves:
    """Return the moves of a seed."""
    draw = random.Random(~seed)
    return [(draw.randrange(32), draw.randrange(1000)) for _ in range(draw.choice((10, 40, 80, 140)))]

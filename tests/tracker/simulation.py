"""An adversarial world around the core: everything that may go wrong between decisions, driven by small integers.

A versioned table, functions that run the protocol step by step (between any two steps others run, or it dies, or Step
Functions gives it up while it still runs), executions of the state machine, messages delivered at least once, a
sweeper, operators, and functions whose clocks lag. Some worlds refuse every StartExecution for a while. A schedule is a
seed and a list of moves; when they are used up, the world is drained of all that can happen and its invariants are
checked; then time passes until every wait has ended.

The invariants, by the number with which `Broken` begins:

1. The status is what the newest event of each stage says.
2. A waiting invoice has one live execution, unless orphan, parked or dormant; and a check_at. There are never two.
3. The execution waits at the stage that the record waits for, with the token that the record knows.
4. Every alert decided is raised, none is decided twice or while not waiting, none is overdue, every wait is given up;
   each comes when its number says, counted from the newest extension; without crashes it is raised once.
5. An invoice that waits for nothing has no live execution.
6. Everything comes to rest.
7. A dispute is reported, once, even where no execution can ask; that of an imported event is not.
8. Nothing stays pending.
9. An event that changes nothing does not revive.
10. The time series has one row per instant, and tells every new event once. Its rows are a chain, and the counts and
    amounts that it gives by status and currency are those of the records.
11. A parked invoice keeps the wait that was given up.
12. Two vendors, or another invoice after the first was closed, raise an identity alert, in whatever order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from decimal import Decimal
from types import ModuleType
from typing import Any, NamedTuple

from bems.tracker import apply_decision, decisions
from bems.tracker.actions import RaiseAlert, SendTaskAnswer, StartExecution, alert_id, seconds_until
from bems.tracker.commands import Acknowledge, Cancel, Command, Complete, Extend, Park, Revive, Verb
from bems.tracker.contract import FAILURE_STATUS, STAGES, SUCCESS_STATUS, Event, Facts, Source, Stage, Vendor
from bems.tracker.instants import DAY, MINUTE, SECOND, Instant
from bems.tracker.policy import (
    CalendarSpec,
    OverrideSpec,
    Policy,
    PolicySpec,
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
FOREIGN = Facts(Decimal("10.00"), "EUR", Vendor("V-2"), Source("erp"))
# Longer than the 30 days that a state machine is told at once, so that waits wake early too.
RULE = StageSpec("40d", "20d", critical_at=2, give_up_at=3)
GOLDEN = OverrideSpec(WhenSpec(vendor_tier="gold"), deadline="25d", escalate_every="35d", give_up_at=2)


def policy_of(rule: StageSpec) -> Policy:
    return build_policy(PolicySpec(CalendarSpec("NL", "UTC"), StagesSpec(rule, rule, rule, rule)), frozenset())


POLICY = policy_of(RULE)
OTHER = policy_of(StageSpec("70d", "10d", critical_at=1, give_up_at=2, overrides=(GOLDEN,)))


class Core(NamedTuple):
    """The modules under test, which may be mutants of the real ones."""

    decisions: ModuleType
    apply_decision: ModuleType


REAL = Core(decisions, apply_decision)


class Refused(Exception):
    """What StartExecution raises while it is refused."""


class InvariantViolated(AssertionError):
    """An invariant does not hold; the trace leads there."""

    trace: list[str]


class Execution:
    """One run of statemachines/invoice_lifecycle.asl.json."""

    def __init__(self, world: Simulation, invoice_id: str, run: int, seconds: int) -> None:
        self.world, self.invoice_id, self.run = world, invoice_id, run
        self.entries = 0
        self.state, self.stage = "Start", AWAITED[0]
        self.ended: str | None = None
        self.token: str | None = None
        self.timer: Instant | None = None
        self.job = 0
        if world.doomed:
            self.end("failed")
        else:
            self.to_await("authorization", seconds)

    def to_await(self, stage: Stage, seconds: int) -> None:
        self.state, self.stage, self.retry, self.seconds = "Await", stage, -1, seconds
        self.world.sequence += 0 if self.world.coarse else 1
        self.entered = self.world.now if self.world.coarse else self.world.sequence
        self.nonce = self.world.unique()
        self.count()
        self.attempt()

    def to_escalate(self, kind: str, stage: Stage) -> None:
        self.state, self.stage, self.kind, self.retry = "Escalate", stage, kind, -1
        self.token = self.timer = None
        self.count()
        self.attempt()

    def count(self) -> None:
        self.entries += 1
        if self.entries > self.world.bound:
            raise InvariantViolated(f"6: {self.entries} state entries in {self.invoice_id}#{self.run}")

    def end(self, how: str) -> None:
        self.state, self.ended, self.token, self.timer, self.job = "End", how, None, None, -1
        if how in ("failed", "killed") and not self.world.lossy:
            self.world.messages += [Message("ended", self.invoice_id, self.run)] * (1 + self.run % 2)

    def attempt(self) -> None:
        """Call the function (again): on AWS a new attempt has a new token; `reuse` models the other possibility."""
        self.retry += 1
        if self.retry >= ATTEMPTS:
            return self.end("failed")
        self.job = job = self.world.unique()
        core, run, stage = self.world.core.decisions, self.run, self.stage
        if self.state == "Await":
            token = self.token = f"{self.invoice_id}#{run}@{self.nonce}" + (
                "" if self.world.reuse else f".{self.retry}"
            )
            self.timer = self.world.now + self.seconds * SECOND
            request = core.WaitRequest(run, stage, token, (self.entered, self.retry))
            self.world.spawn(
                f"wait {token} {stage}",
                self.invoice_id,
                lambda r, t: core.on_wait(r, request, self.world.policy, t),
                self,
                job,
            )
        else:
            name = f"{self.kind} {stage} #{run}"
            self.world.spawn(name, self.invoice_id, self.escalation(self.kind, run, stage), self, job)
        return None

    def escalation(self, kind: str, run: int, stage: Stage) -> Decide:
        core = self.world.core.decisions

        def decide(record: InvoiceRecord | None, now: Instant) -> Any:
            decision = (core.on_timeout if kind == "timeout" else core.on_dispute)(
                record, run, stage, self.world.policy, now
            )
            wait = decision.record.wait
            mine = kind == "timeout" and wait and wait.stage == stage and run == decision.record.run.number
            if mine and now >= wait.due:
                raise InvariantViolated(f"4: {self.invoice_id} asked after its alert was due and got none")
            return decision

        return decide

    def lost(self, job: int) -> None:
        """The function died, or Step Functions thinks so."""
        if job != self.job:
            return
        if self.world.coarse:
            self.world.now += MINUTE  # a retry backs off, so its instant is never the next state's
        self.attempt()

    def reply(self, job: int, reply: Any) -> None:
        if job != self.job:
            return
        if self.state == "Await":
            self.job = 0  # registered; now only the token or the timer moves it
        elif reply.next == "Await" or self.kind == "dispute":
            self.to_await(self.stage, seconds_until(reply.wait_until, self.world.now))
        else:
            self.end(reply.next)

    def answer(self, answer: SendTaskAnswer) -> None:
        if self.token != answer.token:
            return  # TaskTimedOut: benign
        self.token, self.timer, self.job = None, None, -1
        told = answer.answer
        if told == "ok" and self.stage == "posting":
            self.end("Posted")
        elif told == "ok":
            self.to_await(AWAITED[AWAITED.index(self.stage) + 1], seconds_until(answer.until, self.world.now))
        elif told == "Mismatched" and self.stage != "authorization":
            self.to_escalate("dispute", "reconciliation")
        elif told == "PostingFailed" and self.stage == "posting":
            self.to_escalate("dispute", "posting")
        elif told in ("Rejected", "Cancelled", "Superseded", "Parked"):
            self.end(told)
        else:
            self.end("failed")
            raise InvariantViolated(f"3: {told} is not caught while waiting for {self.stage}")


Decide = Callable[[InvoiceRecord | None, Instant], Any]


class Message:
    """Something to be delivered at least once: an event, a command, or the notice that an execution ended by itself."""

    def __init__(self, kind: str, invoice_id: str, content: Any) -> None:
        self.kind, self.invoice_id, self.content = kind, invoice_id, content


class Function:
    """One invocation of a function that runs the protocol."""

    def __init__(
        self, name: str, invoice_id: str, generator: Generator[Any], caller: Execution | None, job: int
    ) -> None:
        self.name, self.invoice_id, self.generator, self.caller, self.job = name, invoice_id, generator, caller, job
        self.message: Message | None = None


class Simulation:
    def __init__(self, seed: int, core: Core = REAL, without: frozenset[str] = frozenset()) -> None:
        draw = random.Random(seed)
        self.core = core
        self.reuse, self.lossy, self.coarse = draw.random() < 0.3, draw.random() < 0.2, draw.random() < 0.15
        self.crashes = draw.randint(0, 4)
        self.zombies = 0 if self.coarse else draw.choice((0, 1, 2, 6))
        self.kills = draw.randint(0, 3)
        self.doomed = (
            draw.random() < 0.05 and not self.lossy
        )  # every execution fails at once, as with a permission that is missing
        self.skew = 0 if self.coarse else draw.choice((0, 0, 1, 2))
        self.now: Instant = EPOCH + 100 * DAY
        self.sequence = self.uniques = 0
        # Some worlds get another policy on the way, or facts by which another rule holds.
        self.policy, self.restless = POLICY, draw.random() < 0.25
        # In some the amount, currency or vendor changes; in some are past events; in some no execution can be started.
        mixed, past = draw.random() < 0.3, draw.random() < 0.15
        self.refusing = draw.random() < 0.15
        self.trace: list[str] | None = []
        self.records: dict[str, InvoiceRecord] = {}
        self.executions: dict[tuple[str, int], Execution] = {}
        self.functions: list[Function] = []
        self.raised: dict[str, int] = {}
        self.published: dict[str, int] = {}
        self.bases: dict[tuple[str, Instant], int] = {}
        self.rows: dict[str, list[Transition]] = {}
        self.decided: dict[str, int] = {}
        self.told: dict[str, set[str]] = {}
        self.commanded: list[tuple[str, Stage, Outcome]] = []
        self.trusted: dict[str, Instant] = {}
        self.early: set[str] = set()
        invoices = ["A", "B"][: 1 + (draw.random() < 0.25)]
        self.messages: list[Message] = []
        for k in range(draw.randint(3, 8)):
            invoice_id = draw.choice(invoices)
            stage: Stage = STAGES[min(k, 3)] if draw.random() < 0.5 else draw.choice(STAGES)
            status = (FAILURE_STATUS if draw.random() < 0.35 else SUCCESS_STATUS)[stage]
            at = EPOCH + draw.randint(90, 100) * DAY
            facts = GOLD if self.restless and draw.random() < 0.5 else SILVER
            if mixed and draw.random() < 0.5:
                facts = draw.choice((DEARER, DOLLARS, FOREIGN))
            imported = past and draw.random() < 0.5
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
                )
            )
            command = Command(f"c{k}", invoice_id, "ann", EPOCH + draw.randint(95, 104) * DAY, verb)
            self.messages += [Message("command", invoice_id, command)] * draw.choice((1, 1, 2))
        draw.shuffle(self.messages)
        self.messages = [
            m for m in self.messages if (m.content.event_id if m.kind == "event" else m.content.id) not in without
        ]
        self.events = [(m.invoice_id, m.content) for m in self.messages if m.kind == "event"]
        self.bound = 60 + 12 * len(self.messages)

    def unique(self) -> int:
        self.uniques += 1
        return self.uniques

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
        lag = self.unique() * 7 % (self.skew + 1) * MINUTE
        function = Function(name, invoice_id, self.invoke(name, invoice_id, decide, lag), caller, job)
        self.functions.append(function)
        return function

    def invoke(
        self, name: str, invoice_id: str, decide: Callable[[InvoiceRecord | None, Instant], Any], lag: int
    ) -> Generator[str, None, Any]:
        """The protocol, with a pause before each of its steps takes effect."""
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
                self.published[step.alert.id] = self.published.get(step.alert.id, 0) + 1
            elif isinstance(step, StartExecution) and self.refusing:
                self.log(f"    refused {step}")
                result = Refused()
            elif isinstance(step, StartExecution):
                self.log(f"    start {step}")
                if (invoice_id, step.run) not in self.executions:
                    self.executions[invoice_id, step.run] = Execution(self, invoice_id, step.run, step.deadline_seconds)
            else:
                self.log(f"    {step}")
                execution = self.executions.get((invoice_id, int(step.token.split("#")[1].split("@")[0])))
                if execution:
                    execution.answer(step)

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
                    number = {"stuck": 4, "identity": 12}.get(alert.kind, 7)
                    raise InvariantViolated(f"{number}: alert {alert} decided twice")
                if alert.kind == "stuck" and (not old or not old.wait or old.wait.stage != alert.stage):
                    raise InvariantViolated(f"4: alert {alert} decided while not waiting")
                if alert.last and not any(change.kind == "park" for change in new.changes):
                    raise InvariantViolated(f"4: {new.invoice_id} is not parked by its last alert")
                self.decided[alert.id] = alert.step
                if alert.kind == "stuck" and old and old.wait and not self.restless:
                    self.check_number(alert, old.wait)
                if alert.kind in ("dispute", "failed") and any(
                    event.imported and event.event_id == alert.event_id for _, event in self.events
                ):
                    raise InvariantViolated(f"7: {alert} is of a past event")
        if new.mark == "parked" and old and old.mark != "parked":
            gave_up = new.parked is not None and new.parked.by is None
            if gave_up and self.unreported(new):
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
            self.bases[new.invoice_id, new.wait.since] = max(
                [old.wait.step, *(a.alert.step for a in new.pending if isinstance(a, RaiseAlert))]
            )
            if new.wait.due != new.wait.deadline or new.is_stuck:
                raise InvariantViolated(f"4: {new.invoice_id} is extended to {new.wait}")
        for change in new.changes:
            self.check_row(new.invoice_id, change)
            if old and change.recorded_at <= old.recorded_at:
                raise InvariantViolated(f"10: {change.transition_id} recorded at or before its predecessor")
            if change.transition_id in self.told.setdefault(new.invoice_id, set()):
                raise InvariantViolated(f"10: {change.transition_id} told twice")
            self.told[new.invoice_id].add(change.transition_id)
        if name == "command":
            for stage, outcome in new.outcomes.items():
                if outcome.event_id.startswith("command") and (not old or old.outcomes.get(stage) != outcome):
                    self.commanded.append((new.invoice_id, stage, outcome))
        self.log(f"    save {new.run} {new.wait} {new.mark} {status_of(new.outcomes)}")
        self.records[new.invoice_id] = new
        return True

    def unreported(self, record: InvoiceRecord) -> list[Stage]:
        """The stages whose mismatch or failure nobody was told of."""
        return [
            stage
            for stage in STAGES[2:]
            if (outcome := record.outcomes.get(stage))
            and outcome.status == FAILURE_STATUS[stage]
            and record.reported_disputes.get(stage) != outcome.event_id
        ]

    def check_number(self, alert: Any, wait: Any) -> None:
        """When an alert comes, how grave it is and whether it is the last follow from its number alone."""
        number = alert.step - self.bases.get((alert.invoice_id, wait.since), 0)
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
                function.caller.reply(function.job, end.value)
        except Refused:
            # Its message goes to the dead-letter queue; what it saved stands.
            self.functions.remove(function)
            if function.caller:
                function.caller.lost(function.job)

    def crash(self, index: int) -> None:
        function = self.functions.pop(index)
        self.log(f"  CRASH {function.name}")
        if function.message:
            self.messages.append(function.message)  # not acknowledged: redelivered
        if function.caller:
            function.caller.lost(function.job)

    def timers(self) -> list[Execution]:
        return [x for x in self.executions.values() if x.timer is not None and x.timer <= self.now]

    def fire(self, execution: Execution) -> None:
        self.log(f"timer {execution.invoice_id}#{execution.run} {execution.stage}")
        execution.job = -1
        execution.to_escalate("timeout", execution.stage)

    def move(self, what: int, which: int) -> None:
        """One step of the adversary; what cannot be done now is left out."""
        functions, messages = self.functions, self.messages
        if what < 9:
            if functions:
                self.step(which % len(functions))
        elif what < 15:
            if functions:  # one function runs to its end
                function = functions[which % len(functions)]
                while function in functions:
                    self.step(functions.index(function))
        elif (what == 23 or (what in (20, 22, 28) and self.zombies > 2)) and self.give_up(which):
            return
        elif what <= 20:
            if messages:
                index = which % len(messages)
                self.deliver(index, keep=what == 20 and messages[index].kind == "event" and which % 7 == 0)
        elif what < 23:
            if functions and self.crashes:
                self.crashes -= 1
                self.crash(which % len(functions))
        elif what == 24 and self.restless and which % 3 == 0:
            self.policy = OTHER if self.policy is POLICY else POLICY
            self.log("another policy")
        elif what == 24:
            self.now += MINUTE
        elif what == 25:
            self.now = max(self.now, self.next() or 0)
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
        elif timers := self.timers():
            self.fire(timers[which % len(timers)])

    def give_up(self, which: int) -> bool:
        """Step Functions gives a function up that still runs."""
        waited = [f for f in self.functions if f.caller and f.job == f.caller.job]
        if not waited or not self.zombies:
            return False
        self.zombies -= 1
        function = waited[which % len(waited)]
        self.log(f"  GIVEN UP {function.name}")
        assert function.caller
        function.caller.lost(function.job)
        return True

    def next(self) -> Instant | None:
        """While starts are refused, tries of what is pending are left out: they come every few minutes."""
        timers = [x.timer for x in self.executions.values() if x.timer is not None]
        checks = [
            next_check_at(record.run, record.wait, (), self.now) if self.refusing else record.check_at
            for record in self.records.values()
        ]
        return min(timers + [at for at in checks if at is not None], default=None)

    def drain(self) -> None:
        """Everything that can happen without time passing, in a fair order and without faults."""
        for _ in range(5000):
            if self.functions:
                self.step(0)
            elif self.messages:
                self.deliver(0)
            elif timers := self.timers():
                self.fire(timers[0])
            elif due := [i for i, r in self.records.items() if r.check_at is not None and r.check_at <= self.now]:
                self.sweep(due[0])
            else:
                return
        raise InvariantViolated("6: does not come to rest")

    # -- invariants

    def check(self, late: bool) -> None:
        for invoice_id, record in self.records.items():
            self.check_record(invoice_id, record, late)
        if self.decided != self.raised:
            raise InvariantViolated(f"4: decided {self.decided} but raised {self.raised}")
        if late:
            often = [id for id, count in self.published.items() if id not in self.early and count > 1]
            if often:
                raise InvariantViolated(f"4: raised more than once: {often}")
        self.check_totals()

    def check_totals(self) -> None:
        """Counts and amounts by status and currency, from the series and from the records."""
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
            add(records, (status_of(record.outcomes), record.facts.currency), record.facts.amount)
        series = {key: value for key, value in series.items() if value != (0, Decimal(0))}
        if series != records:
            raise InvariantViolated(f"10: the series says {series}, the records {records}")

    def check_identity(self, invoice_id: str) -> None:
        """At the end: what the final set of events says must have been raised."""
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
        status = status_of(record.outcomes)
        waits_for = WAITS_FOR[status]
        live = [x for (i, _), x in self.executions.items() if i == invoice_id and not x.ended]
        if status != self.oracle(invoice_id):
            raise InvariantViolated(f"1: {invoice_id} is {status}, events say {self.oracle(invoice_id)}")
        if record.pending and not (self.refusing and all(isinstance(a, StartExecution) for a in record.pending)):
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
            and not self.refusing
            and (not self.lossy or (late and self.now > self.trusted.get(invoice_id, self.now)))
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
            is_asked_for = self.lossy and not self.refusing and record.mark != "dormant"
            if [stage for stage in self.unreported(record) if stage != waits_for or not is_asked_for]:
                raise InvariantViolated(f"7: {invoice_id} dispute not reported")
        if record.wait and self.now > record.wait.due + GRACE_PERIOD:
            raise InvariantViolated(f"4: {invoice_id} alert {record.wait.step + 1} is overdue")
        if record.run.state == "open" and record.wait and self.now > record.run.started_at + MAX_RUN_AGE:
            raise InvariantViolated(f"2: {invoice_id} run {record.run.number} is too old")
        if {f"event {event.event_id}" for i, event in self.events if i == invoice_id} - self.told[invoice_id]:
            raise InvariantViolated(f"10: an event of {invoice_id} is not told")
        last = self.rows[invoice_id][-1]
        if (last.to_status, last.to_amount, last.to_currency) != (status, record.facts.amount, record.facts.currency):
            raise InvariantViolated(f"10: the last row of {invoice_id} ends at {last}")

    def oracle(self, invoice_id: str) -> str:
        """The status by a second way: the newest of all outcomes ever stated."""
        registers: dict[Stage, Outcome] = {}
        stated = [
            (e.stage, Outcome(e.status, e.event_id, e.occurred_at, e.received_at))
            for i, e in self.events
            if i == invoice_id
        ] + [(stage, outcome) for i, stage, outcome in self.commanded if i == invoice_id]
        for stage, outcome in stated:
            if supersedes(stage, outcome, registers.get(stage)):
                registers[stage] = outcome
        return status_of(registers)


Moves = list[tuple[int, int]]


def play(
    seed: int, moves: Moves, core: Core = REAL, without: frozenset[str] = frozenset(), trace: bool = False
) -> Simulation:
    """One schedule, without the messages named in `without`. Raises Broken."""
    world, draw = Simulation(seed, core, without), random.Random(f"{seed} refusals")
    if not trace:
        world.trace = None
    try:
        # A command to an unknown invoice is refused, so every invoice begins with one of its events.
        for invoice_id in dict.fromkeys(m.invoice_id for m in world.messages):
            first = next(
                (k for k, m in enumerate(world.messages) if m.invoice_id == invoice_id and m.kind == "event"), None
            )
            if first is None:
                world.messages = [m for m in world.messages if m.invoice_id != invoice_id]
                continue
            world.deliver(first)
            while world.functions and invoice_id not in world.records:
                world.step(len(world.functions) - 1)
        for what, which in moves:
            world.move(what, which)
        world.log("-- drain")
        world.drain()
        for _ in range(2 * GRACE_PERIOD // MINUTE + 1):
            world.now += MINUTE
            world.drain()
        world.check(late=False)
        world.early = set(world.decided)
        if world.refusing:
            world.log("-- time passes, and no execution can be started")
            for _ in range(draw.randint(1, 20)):
                at = world.next()
                if at is None:
                    break
                world.now = max(world.now + MINUTE, at)
                world.drain()
                world.check(late=True)
            world.refusing = False
            for _ in range(2 * GRACE_PERIOD // MINUTE + 1):
                world.now += MINUTE
                world.drain()
        for invoice_id, record in world.records.items():
            wait = record.wait if world.lossy else None
            due = wait.due + GRACE_PERIOD + MAX_SILENCE if wait else 0
            world.trusted[invoice_id] = due
        world.log("-- time passes")
        for _ in range(400):
            at = world.next()
            if at is None:
                break
            world.now = max(world.now + MINUTE, at)
            world.drain()
            world.check(late=True)
        else:
            raise InvariantViolated("6: time passes and it never ends")
        for invoice_id, record in world.records.items():
            if WAITS_FOR[status_of(record.outcomes)] and record.mark != "parked":
                raise InvariantViolated(f"4: {invoice_id} never given up")
            world.check_identity(invoice_id)
    except InvariantViolated as broken:
        broken.trace = world.trace or []
        raise
    return world


def schedule(seed: int) -> Moves:
    """The moves that belong to a seed."""
    draw = random.Random(~seed)
    return [(draw.randrange(32), draw.randrange(1000)) for _ in range(draw.choice((10, 40, 80, 140)))]

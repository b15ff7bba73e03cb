"""Mutants: the core with one clause of a rule left out.

Each is made from the real source by one replacement, so a change of the core that makes a replacement impossible fails
loudly. A clause whose mutant no schedule breaks would be a clause that nothing needs. Four have a test of their own
only: an older run's timeout is answered Superseded, giving up answers the token, a run that asks is silent no more
(test_decisions.py), and the clear is conditional on the version (test_protocol.py).
"""

import inspect
import sys
from collections.abc import Iterable
from types import ModuleType

from bems.tracker import apply_decision, decisions, record_builder
from tests.tracker.simulation import Core, InvariantViolated, play, schedule

MUTANTS: dict[str, list[tuple[ModuleType, str, str]]] = {
    "rule 1: whoever saves in between keeps what is pending": [
        (record_builder, "(*before.pending, *self.actions) if self.actions else before.pending", "tuple(self.actions)"),
    ],
    "rule 1: what is pending is looked at again after the grace": [
        (record_builder, "at = now + GRACE_PERIOD if pending else None", "at = None"),
    ],
    "rule 1: a repeat carries out what is pending": [
        (decisions, "return Decision(record, pending, (), answer)", "return Decision(record, (), (), answer)"),
        (record_builder, "return Decision(before, pending, (), answer)", "return Decision(before, (), (), answer)"),
    ],
    "rule 1: each action is tried": [
        (apply_decision, "failures.append((action, failure))", "raise failure"),
    ],
    "rule 1: what was carried out is cleared though something failed": [
        (
            apply_decision,
            "if saved is not None and saved.pending:",
            "if saved is not None and saved.pending and not failures:",
        ),
    ],
    "rule 1: what failed stays pending": [
        (apply_decision, "tuple(action for action, _ in failures)", "()"),
    ],
    "rule 1: and is tried again after the grace": [
        (
            record_builder,
            "next_check_at(record.run, record.wait, failed, now)",
            "next_check_at(record.run, record.wait, (), now)",
        ),
    ],
    "rule 2: a waiting status needs an open run": [
        (record_builder, 'self.run.state != "open"', 'self.run.state == "none"'),
    ],
    "rule 2: a closing run that asks again is given its answer again": [
        (record_builder, "if run.token and run.stage:", 'if run.token and run.stage and run.state == "open":'),
    ],
    "rule 2: a wait of an older run is answered Superseded": [
        (decisions, 'builder.actions.append(SendTaskAnswer(request.token, "Superseded", now))', "pass"),
    ],
    "rule 2: a run that is replaced has its token answered": [
        (record_builder, 'self.actions.append(SendTaskAnswer(self.run.token, "Superseded", self.now))', "pass"),
    ],
    "rule 2: a stamp older than the run's newest is ignored": [
        (decisions, "if request.stamp < record.run.stamp:", "if False:"),
    ],
    "rule 2: whatever its stage": [
        (
            decisions,
            "if request.stamp < record.run.stamp:",
            "if request.stamp < record.run.stamp and request.stage == record.run.stage:",
        ),
    ],
    "rule 2: an equal stamp is not ignored": [
        (decisions, "if request.stamp < record.run.stamp:", "if request.stamp <= record.run.stamp:"),
    ],
    "rule 2: a run that ended by itself is closing": [
        (decisions, 'if ended_run == record.run.number and record.run.state == "open":', "if False:"),
    ],
    "rule 2: whatever the status": [
        (
            decisions,
            'if ended_run == record.run.number and record.run.state == "open":',
            'if ended_run == record.run.number and record.run.state == "open" and builder.wait:',
        ),
    ],
    "rule 2: so many ended runs make the invoice dormant": [
        (decisions, "if ended_runs >= MAX_FAILED_RUNS and builder.mark is None:", "if False:"),
    ],
    "rule 2: dormant until its next event": [
        (decisions, 'if builder.mark == "dormant":\n        builder.mark = None\n    return', "return"),
    ],
    "rule 2: dormant until its due instant": [
        (record_builder, 'if self.mark == "dormant":\n            self.mark = None', ""),
    ],
    "rule 3: a complete stage answers its wait at once": [
        (record_builder, 'return "ok", False', "return None, False"),
    ],
    "rule 3: a wait of a later stage is answered Mismatched": [
        (record_builder, 'return "Mismatched", False', "return None, False"),
    ],
    "rule 3: a run older than 300 days is replaced": [
        (decisions, "too_old = now >= record.run.started_at + MAX_RUN_AGE", "too_old = False"),
        (record_builder, "due = min(due + GRACE_PERIOD, run.started_at + MAX_RUN_AGE)", "due += GRACE_PERIOD"),
    ],
    "rule 4: whoever asks after it is due gets the one alert": [
        (record_builder, "if wait is None or self.now < wait.due:", "if wait is None:"),
        (record_builder, "step, due_at = wait.step + 1, wait.due", "step, due_at = max(wait.step, 1), wait.due"),
        (record_builder, "if step > wait.step:", "if True:"),
    ],
    "rule 4: a wait that times out escalates": [
        (
            decisions,
            "if builder.wait and builder.wait.stage == stage:\n        builder.escalate()",
            "pass",
        ),
    ],
    "rule 4: a silent run is replaced": [
        (decisions, "now >= silent_since + MAX_SILENCE", "False"),
    ],
    "rule 4: and looked at when that is due": [
        (record_builder, "due = min(due, run.silent_since + MAX_SILENCE)", ""),
    ],
    "rule 4: the sweep raises what a silent run did not": [
        (
            decisions,
            "if now >= builder.wait.due + GRACE_PERIOD:\n            builder.escalate()",
            "if now >= builder.wait.due + GRACE_PERIOD:",
        ),
    ],
    "rule 4: the last alert parks": [
        (record_builder, "            self.park(self.wait)", "            pass"),
    ],
    "extend: the count of alerts begins anew": [
        (record_builder, "base=wait.step,", "base=wait.base,"),
    ],
    "extend: severity counts from the extension": [
        (record_builder, "policy.severity(stage, facts, step - base)", "policy.severity(stage, facts, step)"),
    ],
    "extend: giving up counts from the extension": [
        (record_builder, "base + policy.give_up_at(stage, facts)", "policy.give_up_at(stage, facts)"),
    ],
    "extend: who asks late gets the step counted from the extension": [
        (record_builder, "base + policy.step(stage", "policy.step(stage"),
    ],
    "extend: due instants count from the extension": [
        (
            record_builder,
            "due = policy.due(stage, facts, wait.deadline, step - base)",
            "due = policy.due(stage, facts, wait.deadline, step)",
        ),
    ],
    "parked: the wait that was given up is kept": [
        (
            record_builder,
            "self.parked = Parked(self.now, wait.stage, wait.since, wait.step, operator)",
            "self.parked = Parked(self.now, wait.stage, self.now, wait.step, operator)",
        ),
    ],
    "parked: with its last alert": [
        (record_builder, "            self.park(self.wait)", "            self.park(wait)"),
    ],
    "rule 5: before the last alert gives up": [
        (
            record_builder,
            "                self.raise_dispute_alert(stage, outcome)\n            self.park",
            "                pass\n            self.park",
        ),
    ],
    "rule 5: of a later stage than the awaited one too": [
        (record_builder, "for stage in LATER_DISPUTABLE_STAGES[waits_for]:", "for stage in ():"),
    ],
    "rule 4: a timeout never forgets a token": [
        (
            decisions,
            "if builder.wait and builder.wait.stage == stage:\n        builder.escalate()",
            "builder.run = structs.replace(builder.run, token=None)\n"
            "    if builder.wait and builder.wait.stage == stage:\n        builder.escalate()",
        ),
    ],
    "rule 4: orphans have their deadlines": [
        (decisions, "else:\n        builder.escalate()", ""),
    ],
    "rule 5: a dispute is reported": [
        (record_builder, "if self.find_unreported_dispute(stage):", "if False:"),
    ],
    "rule 5: once per event": [
        (record_builder, "self.reported_disputes = {**self.reported_disputes, stage: outcome.event_id}", "pass"),
    ],
    "rule 5: also where no execution can ask": [
        (record_builder, "if self.find_unreported_dispute(waits_for) and self.lacks_responsive_run():", "if False:"),
    ],
    "rule 5: dormant": [
        (record_builder, 'self.mark == "dormant" or self.run', "self.run"),
    ],
    "rule 5: or not started yet": [
        (record_builder, " or self.is_starting()", " or False"),
    ],
    "rule 5: of a past event no alert": [
        (decisions, "if is_newest and event.imported and is_bad:", "if False:"),
    ],
    "identity: two vendors": [
        (record_builder, 'if len(self.vendor_ids) > 1 and "vendor" not in self.identity_alerts:', "if False:"),
    ],
    "identity: once each": [
        (record_builder, "self.identity_alerts = (*self.identity_alerts, problem)", "pass"),
    ],
    "identity: the first vendor is kept": [
        (record_builder, "self.vendor_ids = (*self.vendor_ids, vendor_id)", "self.vendor_ids = (vendor_id,)"),
    ],
    "identity: the earliest received is kept, whatever came first": [
        (record_builder, "elif version < (first.occurred_at, first.event_id):", "elif False:"),
    ],
    "identity: the newest received is kept": [
        (record_builder, "elif version > (last.occurred_at, last.event_id):", "elif False:"),
    ],
    "identity: a superseded posting closes too": [
        (
            decisions,
            "    builder.record_closing(stage, outcome)\n",
            "    if is_newest:\n        builder.record_closing(stage, outcome)\n",
        ),
    ],
    "identity: the earliest closing counts": [
        (record_builder, "at if self.closed_at is None else min(self.closed_at, at)", "at"),
    ],
    "identity: a cancellation closes too": [
        (record_builder, '(("posting", "posted"), ("ingestion", "cancelled"))', '(("posting", "posted"),)'),
    ],
    "parked: only an event that changes a register revives": [
        (
            record_builder,
            "if not supersedes(stage, outcome, self.outcomes.get(stage)):\n            return False",
            "if not supersedes(stage, outcome, self.outcomes.get(stage)):\n"
            '            if self.mark == "parked":\n                self.revive()\n            return False',
        ),
    ],
    "parked: an event that changes a register revives": [
        (record_builder, 'if self.mark == "parked":\n            self.revive()', ""),
    ],
    "projection: the newest outcome stands": [
        (record_builder, "if not supersedes(stage, outcome, self.outcomes.get(stage)):", "if False:"),
    ],
    "series: an instant of its own for every row": [
        (record_builder, "max(self.now, self.before.recorded_at + 1)", "self.now"),
    ],
    "series: only events and commands change a status": [
        (record_builder, 'if row["kind"] in ("event", "command"):', "if number == 0:"),
    ],
    "series: a chain of amounts": [
        (
            record_builder,
            "self.status, current.amount, current.currency",
            "self.status, (stated or current).amount, currency",
        ),
    ],
    "series: from what the record says, not the event before": [
        (
            record_builder,
            "status, amount, currency = self.status_before, before.amount, before.currency",
            "status, amount, currency = self.status_before, self.facts.amount, self.facts.currency",
        ),
    ],
    "commands: a repeat is remembered": [
        (decisions, 'builder.remember_event(command.event_id, "")', "pass"),
    ],
    "events: a repeat is remembered": [
        (decisions, "builder.remember_event(event.event_id, event.digest)", "pass"),
    ],
}


def mutant(replacements: list[tuple[ModuleType, str, str]]) -> Core:
    """The decisions and the protocol of a core with these replacements."""
    sources = {module.__name__: inspect.getsource(module) for module in (record_builder, decisions, apply_decision)}
    for module, old, new in replacements:
        source = sources[module.__name__]
        assert old in source, f"{module.__name__} has no longer: {old}"
        sources[module.__name__] = source.replace(old, new or "pass")
    real = {name: sys.modules[name] for name in sources}
    made: dict[str, ModuleType] = {}
    try:
        for name, source in sources.items():
            made[name] = sys.modules[name] = ModuleType(name)
            exec(compile(source, name, "exec"), made[name].__dict__)
    finally:
        sys.modules.update(real)
    return Core(made[decisions.__name__], made[apply_decision.__name__])


def broken_by(clause: str, seeds: Iterable[int]) -> int | None:
    """The first of the seeds whose schedule breaks the core without a clause."""
    core = mutant(MUTANTS[clause])
    for seed in seeds:
        try:
            play(seed, schedule(seed), core)
        except InvariantViolated:
            return seed
    return None


if __name__ == "__main__":
    # After a change of the core or the world: copy what this prints to test_rules.py.
    for name in MUTANTS:
        print(
            f'    "{name}": {broken_by(name, range(1, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))},', flush=True
        )

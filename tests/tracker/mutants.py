"""Mutants of the decisions: each omits one clause of a rule.

Each mutant replaces text of the real source; `mutant` fails if the source no longer contains that text. If no schedule
breaks a mutant, its clause is not needed. Four clauses have a test of their own instead: an older run's timeout is
answered Superseded, giving up answers the token, a run that asks is no longer silent (test_decisions.py), and the clear
is conditional on the version (test_apply_decision.py).
"""

import inspect
import sys
from collections.abc import Iterable
from types import ModuleType

from bems.tracker import apply_decision, decisions, record_builder
from tests.tracker.simulation import Core, InvariantViolated, generate_moves, run_schedule

MUTANTS: dict[str, list[tuple[ModuleType, str, str]]] = {
    "rule 1: a decision keeps the pending actions of earlier ones": [
        (record_builder, "(*before.pending, *self.actions) if self.actions else before.pending", "tuple(self.actions)"),
    ],
    "rule 1: a record with pending actions is checked after the grace period": [
        (record_builder, "at = now + GRACE_PERIOD if pending else None", "at = None"),
    ],
    "rule 1: a repeat carries out pending actions": [
        (decisions, "return Decision(record, pending, (), answer)", "return Decision(record, (), (), answer)"),
        (record_builder, "return Decision(before, pending, (), answer)", "return Decision(before, (), (), answer)"),
    ],
    "rule 1: every action is tried": [
        (apply_decision, "failures.append((action, failure))", "raise failure"),
    ],
    "rule 1: actions that succeed are cleared even if others fail": [
        (
            apply_decision,
            "if saved is not None and saved.pending:",
            "if saved is not None and saved.pending and not failures:",
        ),
    ],
    "rule 1: failed actions stay pending": [
        (apply_decision, "tuple(action for action, _ in failures)", "()"),
    ],
    "rule 1: failed actions are retried after the grace period": [
        (
            record_builder,
            "next_check_at(record.run, record.wait, failed, now)",
            "next_check_at(record.run, record.wait, (), now)",
        ),
    ],
    "rule 2: a waiting status needs an open run": [
        (record_builder, 'self.run.state != "open"', 'self.run.state == "none"'),
    ],
    "rule 2: a closing run that registers again is answered again": [
        (record_builder, "if run.token and run.stage:", 'if run.token and run.stage and run.state == "open":'),
    ],
    "rule 2: a wait of an older run is answered Superseded": [
        (decisions, 'builder.actions.append(SendTaskAnswer(request.token, "Superseded", now))', "pass"),
    ],
    "rule 2: the token of a replaced run is answered": [
        (record_builder, 'self.actions.append(SendTaskAnswer(self.run.token, "Superseded", self.now))', "pass"),
    ],
    "rule 2: a stamp older than the run's newest is ignored": [
        (decisions, "if request.stamp < record.run.stamp:", "if False:"),
    ],
    "rule 2: an older stamp is ignored at any stage": [
        (
            decisions,
            "if request.stamp < record.run.stamp:",
            "if request.stamp < record.run.stamp and request.stage == record.run.stage:",
        ),
    ],
    "rule 2: an equal stamp is not ignored": [
        (decisions, "if request.stamp < record.run.stamp:", "if request.stamp <= record.run.stamp:"),
    ],
    "rule 2: a failed run is closing": [
        (decisions, 'if ended_run == record.run.number and record.run.state == "open":', "if False:"),
    ],
    "rule 2: a failed run is closing whatever the status": [
        (
            decisions,
            'if ended_run == record.run.number and record.run.state == "open":',
            'if ended_run == record.run.number and record.run.state == "open" and builder.wait:',
        ),
    ],
    "rule 2: too many failed runs make the invoice dormant": [
        (decisions, "if ended_runs >= MAX_FAILED_RUNS and builder.mark is None:", "if False:"),
    ],
    "rule 2: an event wakes a dormant invoice": [
        (decisions, 'if builder.mark == "dormant":\n        builder.mark = None\n    return', "return"),
    ],
    "rule 2: a due alert wakes a dormant invoice": [
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
    "rule 4: a late request raises one alert": [
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
    "rule 4: a silent run is checked when its replacement is due": [
        (record_builder, "due = min(due, run.silent_since + MAX_SILENCE)", ""),
    ],
    "rule 4: the sweep raises the alert of a silent run": [
        (
            decisions,
            "if now >= builder.wait.due + GRACE_PERIOD:\n            builder.escalate()",
            "if now >= builder.wait.due + GRACE_PERIOD:",
        ),
    ],
    "rule 4: the last alert parks the invoice": [
        (record_builder, "            self.park(self.wait)", "            pass"),
    ],
    "extend: the count of alerts restarts": [
        (record_builder, "base=wait.step,", "base=wait.base,"),
    ],
    "extend: severity counts from the extension": [
        (record_builder, "policy.severity(stage, facts, step - base)", "policy.severity(stage, facts, step)"),
    ],
    "extend: the last alert counts from the extension": [
        (record_builder, "base + policy.give_up_at(stage, facts)", "policy.give_up_at(stage, facts)"),
    ],
    "extend: the step of a late request counts from the extension": [
        (record_builder, "base + policy.step(stage", "policy.step(stage"),
    ],
    "extend: due instants count from the extension": [
        (
            record_builder,
            "due = policy.due(stage, facts, wait.deadline, step - base)",
            "due = policy.due(stage, facts, wait.deadline, step)",
        ),
    ],
    "parked: the record keeps the wait that was given up": [
        (
            record_builder,
            "self.parked = Parked(self.now, wait.stage, wait.since, wait.step, operator)",
            "self.parked = Parked(self.now, wait.stage, self.now, wait.step, operator)",
        ),
    ],
    "parked: the kept wait includes its last alert": [
        (record_builder, "            self.park(self.wait)", "            self.park(wait)"),
    ],
    "rule 5: a dispute is reported before the invoice is given up": [
        (
            record_builder,
            "                self.raise_dispute_alert(stage, outcome)\n            self.park",
            "                pass\n            self.park",
        ),
    ],
    "rule 5: a dispute of a later stage is reported": [
        (record_builder, "for stage in LATER_DISPUTABLE_STAGES[waits_for]:", "for stage in ():"),
    ],
    "rule 4: a timeout keeps the token": [
        (
            decisions,
            "if builder.wait and builder.wait.stage == stage:\n        builder.escalate()",
            "builder.run = structs.replace(builder.run, token=None)\n"
            "    if builder.wait and builder.wait.stage == stage:\n        builder.escalate()",
        ),
    ],
    "rule 4: the sweep raises the alerts of orphans": [
        (decisions, "else:\n        builder.escalate()", ""),
    ],
    "rule 5: a dispute is reported": [
        (record_builder, "if self.find_unreported_dispute(stage):", "if False:"),
    ],
    "rule 5: a dispute is reported once per event": [
        (record_builder, "self.reported_disputes = {**self.reported_disputes, stage: outcome.event_id}", "pass"),
    ],
    "rule 5: a dispute is reported even if no execution can ask": [
        (record_builder, "if self.find_unreported_dispute(waits_for) and self.lacks_responsive_run():", "if False:"),
    ],
    "rule 5: a dormant invoice has no execution that can ask": [
        (record_builder, 'self.mark == "dormant" or self.run', "self.run"),
    ],
    "rule 5: a run that has not started cannot ask": [
        (record_builder, " or self.is_starting()", " or False"),
    ],
    "rule 5: a dispute of a past event is not reported": [
        (decisions, "if is_newest and event.imported and is_bad:", "if False:"),
    ],
    "identity: two vendors raise an alert": [
        (record_builder, 'if len(self.vendor_ids) > 1 and "vendor" not in self.identity_alerts:', "if False:"),
    ],
    "identity: each alert is raised once": [
        (record_builder, "self.identity_alerts = (*self.identity_alerts, problem)", "pass"),
    ],
    "identity: the first vendor is kept": [
        (record_builder, "self.vendor_ids = (*self.vendor_ids, vendor_id)", "self.vendor_ids = (vendor_id,)"),
    ],
    "identity: the earliest received is kept in any order of arrival": [
        (record_builder, "elif version < (first.occurred_at, first.event_id):", "elif False:"),
    ],
    "identity: the newest received is kept": [
        (record_builder, "elif version > (last.occurred_at, last.event_id):", "elif False:"),
    ],
    "identity: a superseded posting also closes the invoice": [
        (
            decisions,
            "    builder.record_closing(stage, outcome)\n",
            "    if is_newest:\n        builder.record_closing(stage, outcome)\n",
        ),
    ],
    "identity: the earliest closing counts": [
        (record_builder, "at if self.closed_at is None else min(self.closed_at, at)", "at"),
    ],
    "identity: a cancellation also closes the invoice": [
        (record_builder, '(("posting", "posted"), ("ingestion", "cancelled"))', '(("posting", "posted"),)'),
    ],
    "parked: an event that changes no outcome does not revive": [
        (
            record_builder,
            "if not supersedes(stage, outcome, self.outcomes.get(stage)):\n            return False",
            "if not supersedes(stage, outcome, self.outcomes.get(stage)):\n"
            '            if self.mark == "parked":\n                self.revive()\n            return False',
        ),
    ],
    "parked: an event that changes an outcome revives": [
        (record_builder, 'if self.mark == "parked":\n            self.revive()', ""),
    ],
    "status: the newest outcome wins": [
        (record_builder, "if not supersedes(stage, outcome, self.outcomes.get(stage)):", "if False:"),
    ],
    "series: every row has its own instant": [
        (record_builder, "max(self.now, self.before.recorded_at + 1)", "self.now"),
    ],
    "series: only events and commands change a status": [
        (record_builder, 'if row["kind"] in ("event", "command"):', "if number == 0:"),
    ],
    "series: the rows' amounts form a chain": [
        (
            record_builder,
            "self.status, current.amount, current.currency",
            "self.status, (stated or current).amount, currency",
        ),
    ],
    "series: the first row starts from the record": [
        (
            record_builder,
            "status, amount, currency = self.status_before, before.amount, before.currency",
            "status, amount, currency = self.status_before, self.facts.amount, self.facts.currency",
        ),
    ],
    "commands: a repeat is recognized": [
        (decisions, "builder.remember_command(command.id)", "pass"),
    ],
    "events: a repeat is recognized": [
        (decisions, "builder.remember_event(event.event_id, event.digest)", "pass"),
    ],
    "stay: it ends only with its stage": [
        (
            record_builder,
            "if self.stay is None or self.stay.stage != waits_for:",
            "if self.wait is not self.before.wait:",
        ),
    ],
    "stay: it begins with each stage": [
        (record_builder, "if self.stay is None or self.stay.stage != waits_for:", "if self.stay is None:"),
    ],
    "stay: it ends when the invoice waits for nothing": [
        (record_builder, "self.mark = self.stay = None", "self.mark = None"),
    ],
    "resolved: the end of a wait is told": [
        (record_builder, "self.resolve(self.wait, self.describe_outcome(self.wait.stage))", "pass"),
    ],
    "resolved: an extension is told": [
        (record_builder, 'self.resolve(wait, f"{operator} extended the deadline to {render(deadline)}")', "pass"),
    ],
    "resolved: the restart of a wait by a dispute is told": [
        (record_builder, "self.resolve(wait, self.describe_outcome(wait.stage))", "pass"),
    ],
    "resolved: parking is not told": [
        (record_builder, "self.parked = Parked(", 'self.resolve(wait, "")\n        self.parked = Parked('),
    ],
    "resolved: an extension is told once": [
        (record_builder, "alerted=(),", "alerted=wait.alerted,"),
    ],
    "resolved: the receivers of each severity are told": [
        (record_builder, "if step > wait.step and severity not in alerted:", "if step > wait.step and not alerted:"),
    ],
    "resolved: the alert of a dispute belongs to the wait after it": [
        (record_builder, '("warning",) if self.reported_disputes and self.has_alerted_dispute(stage) else ()', "()"),
    ],
    "resolved: a dispute of a past event had no alert": [
        (record_builder, "and self.unalerted_disputes.get(stage) != reported", "and True"),
    ],
    "contradiction: an event that contradicts an operator raises an alert": [
        (decisions, "if builder.manual_outcomes:", "if False:"),
    ],
    "contradiction: a posting contradicts a cancellation": [
        (record_builder, 'if cancelled and cancelled.status == "cancelled" and status == "posted":', "if False:"),
    ],
    "contradiction: an event that agrees raises none": [
        (record_builder, "(manual.status == FAILURE_STATUS[stage]) != (status == FAILURE_STATUS[stage])", "True"),
    ],
    "snooze: no alert is raised": [
        (record_builder, "due=until, snoozed_until=until", "snoozed_until=until"),
    ],
    "snooze: the step reached at its end is raised, due by rule 4": [
        (record_builder, " or wait.snoozed_until is not None", " or False"),
    ],
    "notes: some commands need one": [
        (decisions, "if not reason and command.name in NEED_NOTE", "if False and command.name in NEED_NOTE"),
    ],
    "notes: an assignment changes nothing else": [
        (decisions, "changes_wait = not isinstance(verb, Assign | AddNote)", "changes_wait = True"),
    ],
    "facts: the newest stated value is kept": [
        (record_builder, "if known is not None and version < tuple(known):", "if False:"),
    ],
    "facts: an event that states no value keeps it": [
        (record_builder, "value = getattr(before, name)", "pass"),
    ],
    "posted: it counts from the earliest posting": [
        (record_builder, "for known in (current, outcome):", "for known in (outcome,):"),
    ],
    "posted: a failure counts, superseded or not": [
        (record_builder, 'if known.status == "failed":', 'if known.status == "failed" and known is current:'),
    ],
    "match: the policy's exemptions are evaluated with every event": [
        (decisions, "    builder.evaluate_match()\n    is_newest = ", "    is_newest = "),
    ],
    "series: a dormant invoice has a row": [
        (record_builder, 'self.add_row("dormant", f"dormant {self.next_version}", wait.stage)', "pass"),
    ],
}


def mutant(replacements: list[tuple[ModuleType, str, str]]) -> Core:
    """Return the decisions and the protocol with these replacements in their sources."""
    sources = {module.__name__: inspect.getsource(module) for module in (record_builder, decisions, apply_decision)}
    for module, old, new in replacements:
        source = sources[module.__name__]
        assert old in source, f"{module.__name__} no longer contains: {old}"
        sources[module.__name__] = source.replace(old, new or "pass")
    real = {name: sys.modules[name] for name in sources}
    mutated: dict[str, ModuleType] = {}
    try:
        for name, source in sources.items():
            mutated[name] = sys.modules[name] = ModuleType(name)
            exec(compile(source, name, "exec"), mutated[name].__dict__)
    finally:
        sys.modules.update(real)
    return Core(mutated[decisions.__name__], mutated[apply_decision.__name__])


def broken_by(clause: str, seeds: Iterable[int]) -> int | None:
    """Return the first of the seeds whose schedule violates an invariant without the clause."""
    core = mutant(MUTANTS[clause])
    for seed in seeds:
        try:
            run_schedule(seed, generate_moves(seed), core)
        except InvariantViolated:
            return seed
    return None


if __name__ == "__main__":
    # After a change of the decisions or the simulation, copy the output to test_rules.py.
    for name in MUTANTS:
        print(
            f'    "{name}": {broken_by(name, range(1, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))},', flush=True
        )

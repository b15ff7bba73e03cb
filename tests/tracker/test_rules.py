"""Tests of the six rules: they hold in the adversarial simulation, and each of their clauses is needed."""

import pytest

from tests.tracker.mutants import MUTANTS, mutant
from tests.tracker.simulation import InvariantViolated, generate_moves, run_schedule

SCHEDULES, SCHEDULES_PER_TEST = 6000, 500

BROKEN_BY: dict[str, int] = {
    "rule 1: a decision keeps the pending actions of earlier ones": 49,
    "rule 1: a record with pending actions is checked after the grace period": 1939,
    "rule 1: a repeat carries out pending actions": 49,
    "rule 1: every action is tried": 1,
    "rule 1: actions that succeed are cleared even if others fail": 1,
    "rule 1: failed actions stay pending": 49,
    "rule 1: failed actions are retried after the grace period": 1939,
    "rule 2: a waiting status needs an open run": 26,
    "rule 2: a closing run that registers again is answered again": 176,
    "rule 2: a wait of an older run is answered Superseded": 972,
    "rule 2: the token of a replaced run is answered": 399,
    "rule 2: a stamp older than the run's newest is ignored": 331,
    "rule 2: an older stamp is ignored at any stage": 3619,
    "rule 2: an equal stamp is not ignored": 143,
    "rule 2: a failed run is closing": 38,
    "rule 2: a failed run is closing whatever the status": 955,
    "rule 2: too many failed runs make the invoice dormant": 193,
    "rule 2: an event wakes a dormant invoice": 1484,
    "rule 2: a due alert wakes a dormant invoice": 193,
    "rule 3: a complete stage answers its wait at once": 12,
    "rule 3: a wait of a later stage is answered Mismatched": 2572,
    "rule 3: a run older than 300 days is replaced": 249,
    "rule 4: a late request raises one alert": 2,
    "rule 4: a wait that times out escalates": 12,
    "rule 4: a silent run is replaced": 91,
    "rule 4: a silent run is checked when its replacement is due": 114,
    "rule 4: the sweep raises the alert of a silent run": 1,
    "rule 4: the last alert parks the invoice": 1,
    "extend: the count of alerts restarts": 68,
    "extend: severity counts from the extension": 68,
    "extend: the last alert counts from the extension": 68,
    "extend: the step of a late request counts from the extension": 155,
    "extend: due instants count from the extension": 68,
    "parked: the record keeps the wait that was given up": 1,
    "parked: the kept wait includes its last alert": 1,
    "rule 5: a dispute is reported before the invoice is given up": 300,
    "rule 5: a dispute of a later stage is reported": 11,
    "rule 4: a timeout keeps the token": 1857,
    "rule 4: the sweep raises the alerts of orphans": 2,
    "rule 5: a dispute is reported": 27,
    "rule 5: a dispute is reported once per event": 6,
    "rule 5: a dispute is reported even if no execution can ask": 94,
    "rule 5: a dormant invoice has no execution that can ask": 2177,
    "rule 5: a run that has not started cannot ask": 94,
    "rule 5: a dispute of a past event is not reported": 32,
    "identity: two vendors raise an alert": 3,
    "identity: each alert is raised once": 3,
    "identity: the first vendor is kept": 3,
    "identity: the earliest received is kept in any order of arrival": 349,
    "identity: the newest received is kept": 48,
    "identity: a superseded posting also closes the invoice": 967,
    "identity: the earliest closing counts": 651,
    "identity: a cancellation also closes the invoice": 1297,
    "parked: an event that changes no outcome does not revive": 8,
    "parked: an event that changes an outcome revives": 5,
    "status: the newest outcome wins": 3,
    "series: every row has its own instant": 1,
    "series: only events and commands change a status": 6,
    "series: the rows' amounts form a chain": 9,
    "series: the first row starts from the record": 39,
    "commands: a repeat is recognized": 76,
    "events: a repeat is recognized": 1,
    "stay: it ends only with its stage": 1,
    "stay: it begins with each stage": 1,
    "stay: it ends when the invoice waits for nothing": 3,
    "resolved: the end of a wait is told": 6,
    "resolved: an extension is told": 68,
    "resolved: the restart of a wait by a dispute is told": 70,
    "resolved: parking is not told": 1,
    "resolved: an extension is told once": 285,
    "resolved: the receivers of each severity are told": 51,
    "resolved: the alert of a dispute belongs to the wait after it": 6,
    "resolved: a dispute of a past event had no alert": 42,
    "contradiction: an event that contradicts an operator raises an alert": 3,
    "contradiction: a posting contradicts a cancellation": 3,
    "contradiction: an event that agrees raises none": 9,
    "snooze: no alert is raised": 140,
    "snooze: the step reached at its end is raised, due by rule 4": 523,
    "notes: some commands need one": 5,
    "notes: an assignment changes nothing else": 12,
    "facts: the newest stated value is kept": 24,
    "facts: an event that states no value keeps it": 9,
    "posted: it counts from the earliest posting": 8,
    "posted: a failure counts, superseded or not": 8,
    "match: the policy's exemptions are evaluated with every event": 438,
    "series: a dormant invoice has a row": 39,
}
"""Seed of a schedule that violates an invariant without the clause; `python -m tests.tracker.mutants` finds them."""


@pytest.mark.parametrize("first", range(1, SCHEDULES, SCHEDULES_PER_TEST))
def test_no_schedule_violates_an_invariant(first: int) -> None:
    for seed in range(first, first + SCHEDULES_PER_TEST):
        try:
            run_schedule(seed, generate_moves(seed))
        except InvariantViolated as broken:
            pytest.fail(f"seed {seed}: {broken}")


@pytest.mark.parametrize("clause", MUTANTS)
def test_every_clause_is_needed(clause: str) -> None:
    seed = BROKEN_BY[clause]
    run_schedule(seed, generate_moves(seed))
    with pytest.raises(InvariantViolated):
        run_schedule(seed, generate_moves(seed), mutant(MUTANTS[clause]))

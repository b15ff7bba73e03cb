"""Tests of the six rules: they hold in the adversarial simulation, and each of their clauses is needed."""

import pytest

from tests.tracker.mutants import MUTANTS, mutant
from tests.tracker.simulation import InvariantViolated, generate_moves, run_schedule

SCHEDULES, SCHEDULES_PER_TEST = 6000, 500

BROKEN_BY: dict[str, int] = {
    "rule 1: a decision keeps the pending actions of earlier ones": 44,
    "rule 1: a record with pending actions is checked after the grace period": 594,
    "rule 1: a repeat carries out pending actions": 67,
    "rule 1: every action is tried": 22,
    "rule 1: actions that succeed are cleared even if others fail": 22,
    "rule 1: failed actions stay pending": 594,
    "rule 1: failed actions are retried after the grace period": 594,
    "rule 2: a waiting status needs an open run": 12,
    "rule 2: a closing run that registers again is answered again": 70,
    "rule 2: a wait of an older run is answered Superseded": 49,
    "rule 2: the token of a replaced run is answered": 225,
    "rule 2: a stamp older than the run's newest is ignored": 331,
    "rule 2: an older stamp is ignored at any stage": 1125,
    "rule 2: an equal stamp is not ignored": 49,
    "rule 2: a failed run is closing": 12,
    "rule 2: a failed run is closing whatever the status": 8829,
    "rule 2: too many failed runs make the invoice dormant": 83,
    "rule 2: an event wakes a dormant invoice": 3799,
    "rule 2: a due alert wakes a dormant invoice": 83,
    "rule 3: a complete stage answers its wait at once": 12,
    "rule 3: a wait of a later stage is answered Mismatched": 184,
    "rule 3: a run older than 300 days is replaced": 49,
    "rule 4: a late request raises one alert": 11,
    "rule 4: a wait that times out escalates": 2,
    "rule 4: a silent run is replaced": 91,
    "rule 4: a silent run is checked when its replacement is due": 1097,
    "rule 4: the sweep raises the alert of a silent run": 49,
    "rule 4: the last alert parks the invoice": 2,
    "extend: the count of alerts restarts": 19,
    "extend: severity counts from the extension": 91,
    "extend: the last alert counts from the extension": 91,
    "extend: the step of a late request counts from the extension": 176,
    "extend: due instants count from the extension": 91,
    "parked: the record keeps the wait that was given up": 2,
    "parked: the kept wait includes its last alert": 2,
    "rule 5: a dispute is reported before the invoice is given up": 301,
    "rule 5: a dispute of a later stage is reported": 14,
    "rule 4: a timeout keeps the token": 1557,
    "rule 4: the sweep raises the alerts of orphans": 5,
    "rule 5: a dispute is reported": 12,
    "rule 5: a dispute is reported once per event": 9,
    "rule 5: a dispute is reported even if no execution can ask": 594,
    "rule 5: a dormant invoice has no execution that can ask": 620,
    "rule 5: a run that has not started cannot ask": 594,
    "rule 5: a dispute of a past event is not reported": 11,
    "identity: two vendors raise an alert": 3,
    "identity: each alert is raised once": 3,
    "identity: the first vendor is kept": 3,
    "identity: the earliest received is kept in any order of arrival": 173,
    "identity: the newest received is kept": 29,
    "identity: a superseded posting also closes the invoice": 359,
    "identity: the earliest closing counts": 48,
    "identity: a cancellation also closes the invoice": 1719,
    "parked: an event that changes no outcome does not revive": 8,
    "parked: an event that changes an outcome revives": 6,
    "status: the newest outcome wins": 3,
    "series: every row has its own instant": 1,
    "series: only events and commands change a status": 2,
    "series: the rows' amounts form a chain": 9,
    "series: the first row starts from the record": 3,
    "commands: a repeat is recognized": 74,
    "events: a repeat is recognized": 1,
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

"""The six rules: the core keeps them in an adversarial world, and each of their clauses is needed."""

import pytest

from tests.tracker.mutants import MUTANTS, mutant
from tests.tracker.world import Broken, play, schedule

SCHEDULES, SHARE = 6000, 500

BROKEN_BY: dict[str, int] = {
    "rule 1: whoever saves in between keeps what is pending": 334,
    "rule 1: the clear is conditional on the version": 168110,
    "rule 1: what is pending is looked at again after the grace": 7713,
    "rule 1: a repeat carries out what is pending": 475,
    "rule 2: a waiting status needs an open run": 1,
    "rule 2: a closing run that asks again is given its answer again": 15,
    "rule 2: a wait of an older run is answered Superseded": 21,
    "rule 2: a run that is replaced has its token answered": 45,
    "rule 2: a stamp older than the run's newest is ignored": 222,
    "rule 2: whatever its stage": 6539,
    "rule 2: an equal stamp is not ignored": 118,
    "rule 2: a run that ended by itself is closing": 1,
    "rule 2: whatever the status": 1224,
    "rule 2: so many ended runs make the invoice dormant": 30,
    "rule 2: dormant until its next event": 769,
    "rule 2: dormant until its due instant": 30,
    "rule 3: a complete stage answers its wait at once": 21,
    "rule 3: a wait of a later stage is answered Mismatched": 450,
    "rule 3: a run older than 300 days is replaced": 45,
    "rule 4: whoever asks after it is due gets the one alert": 1,
    "rule 4: a wait that times out escalates": 1,
    "rule 4: a silent run is replaced": 118,
    "rule 4: the sweep raises what a silent run did not": 10,
    "rule 4: the last alert parks": 1,
    "rule 4: a timeout never forgets a token": 1136,
    "rule 4: orphans have their deadlines": 4,
    "rule 5: a dispute is reported": 21,
    "rule 5: once per event": 10,
    "parked: only an event that changes a register revives": 56,
    "parked: an event that changes a register revives": 3,
    "projection: the newest outcome stands": 6,
    "series: an instant of its own for every row": 1,
    "commands: a repeat is remembered": 18,
    "events: a repeat is remembered": 1,
}
"""A schedule, by its seed, that breaks the core without the clause; `python -m tests.tracker.mutants` looks for them."""


@pytest.mark.parametrize("first", range(1, SCHEDULES, SHARE))
def test_no_schedule_breaks_the_core(first: int) -> None:
    for seed in range(first, first + SHARE):
        try:
            play(seed, schedule(seed))
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}")


@pytest.mark.parametrize("clause", MUTANTS)
def test_a_schedule_breaks_the_core_without(clause: str) -> None:
    seed = BROKEN_BY[clause]
    play(seed, schedule(seed))
    with pytest.raises(Broken):
        play(seed, schedule(seed), mutant(MUTANTS[clause]))

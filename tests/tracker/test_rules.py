"""The six rules: the core keeps them in an adversarial world, and each of their clauses is needed."""

import pytest

from tests.tracker.mutants import MUTANTS, mutant
from tests.tracker.world import Broken, play, schedule

SCHEDULES, SHARE = 6000, 500

BROKEN_BY: dict[str, int] = {
    "rule 1: whoever saves in between keeps what is pending": 159,
    "rule 1: what is pending is looked at again after the grace": 1815,
    "rule 1: a repeat carries out what is pending": 159,
    "rule 2: a waiting status needs an open run": 24,
    "rule 2: a closing run that asks again is given its answer again": 8,
    "rule 2: a wait of an older run is answered Superseded": 1398,
    "rule 2: a run that is replaced has its token answered": 231,
    "rule 2: a stamp older than the run's newest is ignored": 222,
    "rule 2: whatever its stage": 248,
    "rule 2: an equal stamp is not ignored": 9,
    "rule 2: a run that ended by itself is closing": 30,
    "rule 2: whatever the status": 1561,
    "rule 2: so many ended runs make the invoice dormant": 30,
    "rule 2: dormant until its next event": 793,
    "rule 2: dormant until its due instant": 30,
    "rule 3: a complete stage answers its wait at once": 1,
    "rule 3: a wait of a later stage is answered Mismatched": 1,
    "rule 3: a run older than 300 days is replaced": 623,
    "rule 4: whoever asks after it is due gets the one alert": 1,
    "rule 4: a wait that times out escalates": 1,
    "rule 4: a silent run is replaced": 344,
    "rule 4: the sweep raises what a silent run did not": 7,
    "rule 4: the last alert parks": 1,
    "rule 4: a timeout never forgets a token": 818,
    "rule 4: orphans have their deadlines": 10,
    "rule 5: a dispute is reported": 20,
    "rule 5: once per event": 1,
    "parked: only an event that changes a register revives": 3,
    "parked: an event that changes a register revives": 6,
    "projection: the newest outcome stands": 4,
    "series: an instant of its own for every row": 1,
    "commands: a repeat is remembered": 18,
    "events: a repeat is remembered": 2,
}
"""The seed of a schedule that breaks the core without the clause; `python -m tests.tracker.mutants` finds them."""


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

"""The six rules: the core keeps them in an adversarial world, and each of their clauses is needed."""

import pytest

from tests.tracker.mutants import MUTANTS, mutant
from tests.tracker.simulation import InvariantViolated, play, schedule

SCHEDULES, SHARE = 6000, 500

BROKEN_BY: dict[str, int] = {
    "rule 1: whoever saves in between keeps what is pending": 44,
    "rule 1: what is pending is looked at again after the grace": 594,
    "rule 1: a repeat carries out what is pending": 67,
    "rule 1: each action is tried": 22,
    "rule 1: what was carried out is cleared though something failed": 22,
    "rule 1: what failed stays pending": 594,
    "rule 1: and is tried again after the grace": 594,
    "rule 2: a waiting status needs an open run": 12,
    "rule 2: a closing run that asks again is given its answer again": 70,
    "rule 2: a wait of an older run is answered Superseded": 49,
    "rule 2: a run that is replaced has its token answered": 225,
    "rule 2: a stamp older than the run's newest is ignored": 331,
    "rule 2: whatever its stage": 1125,
    "rule 2: an equal stamp is not ignored": 49,
    "rule 2: a run that ended by itself is closing": 12,
    "rule 2: whatever the status": 8829,
    "rule 2: so many ended runs make the invoice dormant": 83,
    "rule 2: dormant until its next event": 3799,
    "rule 2: dormant until its due instant": 83,
    "rule 3: a complete stage answers its wait at once": 12,
    "rule 3: a wait of a later stage is answered Mismatched": 184,
    "rule 3: a run older than 300 days is replaced": 49,
    "rule 4: whoever asks after it is due gets the one alert": 11,
    "rule 4: a wait that times out escalates": 2,
    "rule 4: a silent run is replaced": 91,
    "rule 4: and looked at when that is due": 1097,
    "rule 4: the sweep raises what a silent run did not": 49,
    "rule 4: the last alert parks": 2,
    "extend: the count of alerts begins anew": 19,
    "extend: severity counts from the extension": 91,
    "extend: giving up counts from the extension": 91,
    "extend: who asks late gets the step counted from the extension": 176,
    "extend: due instants count from the extension": 91,
    "parked: the wait that was given up is kept": 2,
    "parked: with its last alert": 2,
    "rule 5: before the last alert gives up": 301,
    "rule 5: of a later stage than the awaited one too": 14,
    "rule 4: a timeout never forgets a token": 1557,
    "rule 4: orphans have their deadlines": 5,
    "rule 5: a dispute is reported": 12,
    "rule 5: once per event": 9,
    "rule 5: also where no execution can ask": 594,
    "rule 5: dormant": 620,
    "rule 5: or not started yet": 594,
    "rule 5: of a past event no alert": 11,
    "identity: two vendors": 3,
    "identity: once each": 3,
    "identity: the first vendor is kept": 3,
    "identity: the earliest received is kept, whatever came first": 173,
    "identity: the newest received is kept": 29,
    "identity: a superseded posting closes too": 359,
    "identity: the earliest closing counts": 48,
    "identity: a cancellation closes too": 1719,
    "parked: only an event that changes a register revives": 8,
    "parked: an event that changes a register revives": 6,
    "projection: the newest outcome stands": 3,
    "series: an instant of its own for every row": 1,
    "series: only events and commands change a status": 2,
    "series: a chain of amounts": 9,
    "series: from what the record says, not the event before": 3,
    "commands: a repeat is remembered": 74,
    "events: a repeat is remembered": 1,
}
"""The seed of a schedule that breaks the core without the clause; `python -m tests.tracker.mutants` finds them."""


@pytest.mark.parametrize("first", range(1, SCHEDULES, SHARE))
def test_no_schedule_breaks_the_core(first: int) -> None:
    for seed in range(first, first + SHARE):
        try:
            play(seed, schedule(seed))
        except InvariantViolated as broken:
            pytest.fail(f"seed {seed}: {broken}")


@pytest.mark.parametrize("clause", MUTANTS)
def test_a_schedule_breaks_the_core_without(clause: str) -> None:
    seed = BROKEN_BY[clause]
    play(seed, schedule(seed))
    with pytest.raises(InvariantViolated):
        play(seed, schedule(seed), mutant(MUTANTS[clause]))

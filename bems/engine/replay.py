"""The history of an execution, recomputed from what happened to it."""

from collections.abc import Iterable
from typing import Any

from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent, render
from bems.engine.interpreter import step
from bems.engine.machine import Machine
from bems.engine.stimuli import Stimulus


def replay(
    machine: Machine, execution: Execution, stimuli: Iterable[tuple[Stimulus, int]], stop: int | None = None
) -> tuple[Execution, list[HistoryEvent]]:
    """Folds step over stimuli with their instants, in the order in which they were taken, until there are `stop` events
    or more.

    `execution` is the new one that was started, with its seed. Ignored stimuli may be left out: they change nothing.
    """
    events: list[HistoryEvent] = []
    for stimulus, now in stimuli:
        execution, _, recorded = step(machine, execution, stimulus, now, record=True)
        events += recorded
        if stop is not None and len(events) >= stop:
            break
    return execution, events


def replay_history(
    machine: Machine,
    execution: Execution,
    stimuli: Iterable[tuple[Stimulus, int]],
    after: int = 0,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The events of `replay`, as GetExecutionHistory gives them: behind the first `after`, and `limit` at most."""
    stop = None if limit is None else after + limit
    return [render(event) for event in replay(machine, execution, stimuli, stop)[1][after:stop]]

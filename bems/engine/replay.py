"""Recomputation of an execution's history from its stimuli."""

from collections.abc import Iterable
from typing import Any

from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent, render_event
from bems.engine.interpreter import step
from bems.engine.machine import Machine
from bems.engine.stimuli import Stimulus


def replay_execution(
    machine: Machine, execution: Execution, stimuli: Iterable[tuple[Stimulus, int]], stop: int | None = None
) -> tuple[Execution, list[HistoryEvent]]:
    """Apply stimuli, each with its instant, in their original order, until there are at least `stop` events.

    `execution` is a new one with the original id, name and seed. Stimuli that were ignored may be omitted: they have no
    effect.
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
    """Return at most `limit` events of `replay` with ids greater than `after`, as GetExecutionHistory does."""
    stop = None if limit is None else after + limit
    return [render_event(event) for event in replay_execution(machine, execution, stimuli, stop)[1][after:stop]]

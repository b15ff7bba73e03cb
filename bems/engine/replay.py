"""The history of an execution, recomputed from what happened to it."""

from collections.abc import Iterable
from typing import Any

from bems.engine.execution import Execution
from bems.engine.history import HistoryEvent, render
from bems.engine.interpreter import step
from bems.engine.machine import Machine
from bems.engine.stimuli import Stimulus


def replay(
    machine: Machine, execution: Execution, stimuli: Iterable[tuple[Stimulus, int]]
) -> tuple[Execution, list[HistoryEvent]]:
    """Folds step over stimuli with their instants, in the order in which they were taken.

    `execution` is the new one that was started, with its seed. Ignored stimuli may be left out: they change nothing.
    """
    events: list[HistoryEvent] = []
    for stimulus, now in stimuli:
        execution, _, recorded = step(machine, execution, stimulus, now, record=True)
        events += recorded
    return execution, events


def replay_history(
    machine: Machine, execution: Execution, stimuli: Iterable[tuple[Stimulus, int]]
) -> list[dict[str, Any]]:
    """The events of `replay`, as GetExecutionHistory gives them."""
    return [render(event) for event in replay(machine, execution, stimuli)[1]]

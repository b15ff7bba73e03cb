"""Experiments, one per module. Each yields `Figure`s."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A row of the results. `required` and `goal` are target values; `is_met` tells whether the figure meets
    `required`, and is None if there is no target."""

    name: str
    measured: str
    required: str = ""
    goal: str = ""
    is_met: bool | None = None

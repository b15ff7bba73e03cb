"""What is measured, a module for each experiment. Each yields `Figure`s."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A line of the results. `must` and `aim` are what was set out to be reached; `met` whether `must` is; None where
    there is nothing to be met."""

    name: str
    measured: str
    required: str = ""
    goal: str = ""
    is_met: bool | None = None

"""What is measured, a module for each experiment. Each yields `Figure`s."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A line of the results. `must` and `aim` are what was set out to be reached; `met` whether `must` is; None where
    there is nothing to be met."""

    name: str
    measured: str
    must: str = ""
    aim: str = ""
    met: bool | None = None

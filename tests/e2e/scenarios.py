"""Scenarios of the generator, as lines to send.

Each test uses a different year, which makes its invoice ids unique among the tests.
"""

from datetime import date

from msgspec import structs

from bems.generator.event_log import CLEAN, Scenario, render_line, scenarios
from bems.generator.scenarios import Form


def clean_scenario(year: int) -> Scenario:
    """Return the scenario of an invoice that has its four events and no complications."""
    (plan,) = scenarios(1, seed=year, start=date(year, 3, 2), days=1, profile=CLEAN)
    return plan


def event_lines(plan: Scenario) -> list[bytes]:
    """Return the lines of a scenario's events, in the order of their arrival."""
    return [render_line(plan, sending) for sending in sorted(plan.emissions, key=lambda sending: sending.arrives)]


def event_line(plan: Scenario, position: int, form: Form) -> bytes:
    """Return the line of the scenario's event at a position in another form."""
    return render_line(plan, structs.replace(plan.emissions[position], form=form))

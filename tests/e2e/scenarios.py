"""The generator's stories, as lines to send. Each test takes a year of its own, which makes the invoices its own."""

from datetime import date

from msgspec import structs

from bems.generator.event_log import CLEAN, Scenario, render, scenarios
from bems.generator.scenarios import Form


def clean_scenario(year: int) -> Scenario:
    """An invoice to which nothing happens but its four events."""
    (plan,) = scenarios(1, seed=year, start=date(year, 3, 2), days=1, profile=CLEAN)
    return plan


def event_lines(plan: Scenario) -> list[bytes]:
    """Its events, in the order in which they arrive."""
    return [render(plan, sending) for sending in sorted(plan.emissions, key=lambda sending: sending.arrives)]


def event_line(plan: Scenario, position: int, form: Form) -> bytes:
    """One of its events in another form."""
    return render(plan, structs.replace(plan.emissions[position], form=form))

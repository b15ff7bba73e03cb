"""Scenario of a seed: the events of a few invoices over weeks, as request bodies."""

from random import Random

from msgspec import Struct, json

from bems.tracker.commands import Acknowledge, Cancel, Complete, Extend, Park, Revive, Verb
from bems.tracker.contract import FAILURE_STATUS, STAGES, SUCCESS_STATUS, Stage
from bems.tracker.instants import DAY, HOUR, MINUTE, Instant, parse, render

START = parse("2026-03-02T09:00:00Z")
WEEKS = 4
"""Weeks in which events occur. Waits that are still open afterwards are given up in the following weeks."""


class Emission(Struct):
    """An event that a source system sends from `at` on. `twin`: it has the id of another event and other content."""

    at: Instant
    stage: Stage
    event_id: str
    invoice_id: str
    body: bytes
    twin: bool = False


def draw_emissions(random: Random) -> list[Emission]:
    """Draw all emissions, ordered by time."""
    emissions: list[Emission] = []
    burst = START + random.randrange(WEEKS * 7 * DAY) if random.random() < 0.3 else None
    for number in range(random.choice((2, 4, 6, 9))):
        id = f"INV/{number}" if number % 3 == 0 else f"INV-{number}"
        begin = burst or START + random.randrange(WEEKS * 7 * DAY // 2)
        emissions += _draw_invoice(id, begin, random)
    for emission in random.sample(emissions, len(emissions) // 12):
        twin = _draw_emission(emission.event_id, emission.invoice_id, emission.stage, True, emission.at, random)
        emissions.append(Emission(emission.at + HOUR, twin.stage, twin.event_id, twin.invoice_id, twin.body, True))
    return sorted(emissions, key=lambda emission: (emission.at, emission.event_id))


def _draw_invoice(id: str, begin: Instant, random: Random) -> list[Emission]:
    """Draw the emissions of an invoice: its stages in order, some repeated, some with a failure first, some missing."""
    ends_at = random.choice((1, 2, 3, 4, 4, 4, 4))
    steps = [(stage, True) for stage in STAGES[:ends_at]]
    for index in range(len(steps) - 1, -1, -1):
        if random.random() < 0.25:
            # A mismatch resolved later, an approval after a rejection, an invoice received again after a cancellation.
            steps.insert(index, (steps[index][0], False))
    if random.random() < 0.1:
        steps.append(("ingestion", False))
    if random.random() < 0.1 and len(steps) > 1:
        steps.pop(0)
    at, emissions = begin, []
    for number, (stage, positive) in enumerate(steps):
        emissions.append(_draw_emission(f"{id}.{number}", id, stage, positive, at, random))
        at += random.choice((0, MINUTE, HOUR, 8 * HOUR, DAY, 2 * DAY, 5 * DAY, 9 * DAY))
    if random.random() < 0.2:
        # A late event does not supersede later ones, because it occurred earlier.
        late = random.choice(emissions)
        late.at += random.randrange(6 * DAY)
    return emissions


def _draw_emission(
    event_id: str, invoice_id: str, stage: Stage, positive: bool, at: Instant, random: Random
) -> Emission:
    body = {
        "event_id": event_id,
        "invoice_id": invoice_id,
        "status": (SUCCESS_STATUS if positive else FAILURE_STATUS)[stage],
        "occurred_at": render(at - random.choice((0, 0, MINUTE, 3 * HOUR))),
        "amount": f"{random.randrange(1, 1_000_000)}.{random.randrange(100):02}",
        "currency": "EUR",
        "vendor": {"id": f"V-{random.randrange(3)}", "tier": "gold"},
        "source": {"system": "sap-ecc"},
    }
    return Emission(at, stage, event_id, invoice_id, json.encode(body))


def draw_verb(random: Random, now: Instant) -> Verb:
    """Draw an operator's command."""
    return random.choice(
        (
            Complete(random.choice(STAGES)),
            Cancel(),
            Extend(now + random.randrange(10 * DAY)),
            Park(),
            Revive(),
            Revive(),
            Acknowledge(),
        )
    )

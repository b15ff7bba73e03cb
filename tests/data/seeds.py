"""Make the seed dictionaries of a new store by running a few invoices through the lifecycle.

`python -m tests.data.seeds` writes them into the package. Run it when the stored fields have changed, so that a
new store compresses its first values better. Existing stores keep their dictionaries.
"""

from decimal import Decimal
from pathlib import Path

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.codec import (
    encode_event,
    encode_execution,
    encode_record,
    encode_stimulus,
    encode_transition,
)
from bems.embedded.storage.seed_dictionaries import FOLDER
from bems.embedded.storage.store import MemoryStore
from bems.tracker.actions import execution_name
from bems.tracker.contract import STAGES, SUCCESS_STATUS, Event, Facts, PaymentTerms, Source, Vendor
from bems.tracker.instants import DAY, parse
from bems.tracker.policy import PolicySpec, build_policy

_START = parse("2026-12-01T09:30:00Z")
_CURRENCIES, _TIERS, _COUNTRIES = ("USD", "GBP", "EUR"), ("gold", "silver", "standard"), ("US", "GB", "DE")


def make_dictionaries() -> dict[str, bytes]:
    """Return the dictionaries by kind of value.

    The most common content comes last: matches near the end are cheapest.
    """
    store = MemoryStore(keep_history=True)
    cell = Cell(build_policy(PolicySpec(), frozenset()), load_machine(), store)
    events = [_event(number, step) for number in range(len(_CURRENCIES)) for step in range(len(STAGES))]
    for event in events:
        cell.handle_event(event, event.received_at)
    while cell.fire_next(_START + 30 * DAY):
        pass
    record, name = store.record(events[-1].invoice_id), execution_name(events[-1].invoice_id, 1)
    execution = store.execution(name)
    assert record and execution
    stimuli = b"".join(encode_stimulus(stimulus, at) for stimulus, at in store.stimuli(name))
    return {
        "event": b"".join(encode_event(event) for event in events[-6:]),
        "transition": b"".join(encode_transition(row) for row in store.drain_transitions()[-6:]),
        "record": encode_record(record),
        "execution": encode_execution(execution, stimuli),
    }


def _event(number: int, step: int) -> Event:
    at, stage = _START + (number + 5 * step) * DAY, STAGES[step]
    id, currency = f"INV-2026-{number:06}", _CURRENCIES[number]
    vendor = Vendor(f"V-1000{number}", "Supplier GmbH Ltd Inc.", _COUNTRIES[number], _TIERS[number])
    system, region = ("workflow", "us-east-1") if stage == "authorization" else ("sap-ecc", "eu-west-1")
    detailed = stage != "authorization"
    facts = Facts(
        Decimal("1250.00"),
        currency,
        vendor,
        Source(system, region, "123456789012"),
        PaymentTerms(30) if detailed else None,
        {"po": "4500012345", "cost_center": "DE-1000"} if detailed else {},
    )
    return Event(
        stage, f"{id}-{step}", id, SUCCESS_STATUS[stage], at, at, facts, f"0{number}{step}a4c68e2" * 2 + "f7d6"
    )


if __name__ == "__main__":
    for kind, content in make_dictionaries().items():
        Path(str(FOLDER / f"{kind}.bin")).write_bytes(content)

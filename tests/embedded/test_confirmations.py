"""Commands that need a second person: requested by one operator, carried out when another one confirms them."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from bems.embedded.cell import Cell
from bems.embedded.definition import load_machine
from bems.embedded.storage.sqlite_store import SqliteStore
from bems.embedded.storage.store import MemoryStore, Store
from bems.tracker.commands import Cancel, Command, Complete, Confirmation, Park
from bems.tracker.config import ConfigError, read_policy
from bems.tracker.instants import DAY, HOUR
from bems.tracker.policy import ActsSpec, ConfirmationSpec, Policy, build_policy
from bems.tracker.policy_file import policy_from_json, policy_to_json
from tests.tracker.samples import FACTS, FIRST_SPEC, NOW, event

ACTS = ActsSpec(complete=ConfirmationSpec(amount_from="1000", currency="EUR"), cancel=ConfirmationSpec())
POLICY = build_policy(structs.replace(FIRST_SPEC, acts=ACTS), frozenset())


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore(keep_history=True)
        return
    sqlite = SqliteStore(tmp_path / "cell")
    machine = load_machine()
    sqlite.store_definition(machine.digest, "{}")
    yield sqlite
    sqlite.close()


@pytest.fixture
def cell(store: Store) -> Cell:
    cell = Cell(POLICY, load_machine(), store)
    assert cell.handle_event(event("ingestion", "received"), NOW).result == "accepted"
    return cell


def request_completion(id: str = "c", operator: str = "ann", invoice_id: str = "INV-1") -> Command:
    return Command(id, invoice_id, operator, NOW, Complete("authorization"), "signed on paper")


def test_a_command_reaches_the_core_only_when_another_person_confirms_it(cell: Cell, store: Store) -> None:
    before = store.record("INV-1")
    receipt = cell.handle_command(request_completion(), NOW)
    assert (receipt.result, receipt.confirm_by) == ("requested", NOW + DAY)
    assert store.record("INV-1") is before or store.record("INV-1") == before
    assert cell.handle_command(request_completion(), NOW + 1) == receipt, "a repeat is answered from the audit log"

    refused = cell.handle_confirmation(Confirmation("c", "ann", NOW + HOUR), NOW + HOUR)
    assert (refused.result, refused.reason) == (
        "refused",
        "ann has requested the command: another person must confirm it",
    )
    assert cell.handle_confirmation(Confirmation("c", "bob", NOW + HOUR), NOW + HOUR).result == "accepted"
    record = store.record("INV-1")
    assert record
    manual = record.manual_outcomes["authorization"]
    assert (record.status, manual.operator, manual.confirmed_by) == ("AwaitingReconciliation", "ann", "bob")
    assert record.outcomes["authorization"].occurred_at == NOW + HOUR, "it counts from the confirmation"
    entry = store.command("c")
    assert entry and (entry.receipt.result, entry.command.confirmed_by) == ("accepted", "bob")

    assert cell.handle_confirmation(Confirmation("c", "bob", NOW + HOUR), NOW + 2 * HOUR).result == "duplicate"
    assert cell.handle_confirmation(Confirmation("c", "eve", NOW + HOUR), NOW + 2 * HOUR).result == "refused"
    assert cell.handle_command(request_completion(), NOW + 2 * HOUR).result == "duplicate"


def test_a_request_expires_after_24_hours(cell: Cell, store: Store) -> None:
    cell.handle_command(request_completion(), NOW)
    late = cell.handle_confirmation(Confirmation("c", "bob", NOW + DAY + 1), NOW + DAY + 1)
    assert late.result == "refused" and "expired" in late.reason
    record = store.record("INV-1")
    assert record and record.status == "AwaitingAuthorization"
    assert cell.handle_confirmation(Confirmation("c", "bob", NOW + DAY), NOW + DAY).result == "accepted"


def test_a_request_that_was_overtaken_is_refused_when_it_is_confirmed(cell: Cell, store: Store) -> None:
    cell.handle_command(request_completion(), NOW)
    cell.handle_event(event("authorization", "approved", NOW + 1), NOW + 1)
    receipt = cell.handle_confirmation(Confirmation("c", "bob", NOW + 2), NOW + 2)
    assert (receipt.result, receipt.reason) == ("refused", "authorization is already approved")
    record = store.record("INV-1")
    assert record and not record.manual_outcomes


def test_what_would_be_refused_is_not_requested(cell: Cell) -> None:
    cell.handle_event(event("authorization", "approved", NOW + 1), NOW + 1)
    assert cell.handle_command(request_completion(), NOW + 2).result == "refused"
    assert cell.handle_confirmation(Confirmation("none", "bob", NOW), NOW).reason == "there is no command none"
    unknown = cell.handle_command(request_completion("d", invoice_id="INV-9"), NOW)
    assert (unknown.result, unknown.reason) == ("refused", "there is no invoice INV-9")


def test_the_rule_applies_from_an_amount_on_and_to_other_currencies(cell: Cell) -> None:
    cheap, foreign = (structs.replace(FACTS, amount=Decimal(999)), structs.replace(FACTS, currency="USD"))
    credit = structs.replace(FACTS, amount=Decimal(-5000))
    for invoice_id, facts in (("cheap", cheap), ("foreign", foreign), ("credit", credit)):
        cell.handle_event(event("ingestion", "received", invoice_id=invoice_id, facts=facts, event_id=invoice_id), NOW)
    results = [
        cell.handle_command(request_completion(invoice_id, invoice_id=invoice_id), NOW).result
        for invoice_id in ("cheap", "foreign", "credit")
    ]
    assert results == ["accepted", "requested", "requested"]
    assert cell.handle_command(Command("x", "cheap", "ann", NOW, Cancel(), "why"), NOW).result == "requested"
    assert cell.handle_command(Command("p", "INV-1", "ann", NOW, Park(), "why"), NOW).result == "accepted"


def test_the_rules_are_part_of_the_policy() -> None:
    assert policy_from_json(policy_to_json(POLICY)) == POLICY
    without = build_policy(FIRST_SPEC, frozenset())
    assert POLICY.digest != without.digest
    text = "acts: {complete: {amount_from: 10000, currency: EUR, second_person: true}, cancel: {second_person: false}}"
    policy: Policy = build_policy(read_policy(text, "x.yaml"), frozenset())
    assert set(policy.acts) == {"complete"}
    assert policy.needs_confirmation("complete", structs.replace(FACTS, amount=Decimal(10000)))
    assert not policy.needs_confirmation("complete", FACTS)
    with pytest.raises(ConfigError, match="amount_from and currency belong together"):
        read_policy("acts: {complete: {amount_from: 10000}}", "x.yaml")

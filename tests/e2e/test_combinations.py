"""End-to-end tests of every combination of a cell's settings, with stand-ins for what the emulator lacks.

The cells are those of `tests.infra.combinations`: each pair of `delivery` and `time_series`, once with the defaults of
all other settings and once with other values.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bems.tracker.cells import CellConfig
from tests.e2e.cell import DeployedCell, Execution
from tests.e2e.deployment import WEBHOOK_URL, deploy, synthesize
from tests.e2e.emulator import Emulator
from tests.e2e.polling import wait_until
from tests.e2e.scenarios import clean_scenario, event_lines
from tests.e2e.stand_ins import Resources, StandIns, remove_unsupported
from tests.infra.combinations import CELLS, SECRET_URL_PARAMETER, complete_cell, minimal_cell

pytestmark = pytest.mark.e2e

Cells = dict[str, DeployedCell]

START_SECONDS = 180
"""Deadline for the effects of the first events, for which forty functions start at once."""

SCENARIOS = {config.name: clean_scenario(1980 + number) for number, config in enumerate(CELLS)}
"""Scenario of the one invoice of each cell."""


@pytest.fixture(scope="module")
def cells(emulator: Emulator, stand_ins: StandIns) -> Iterator[Cells]:
    """Deploy the cells, and delete them at the end, because their schedules cost CPU."""
    assembly = synthesize(emulator.home, "combinations")
    removed = {config.name: remove_from_template(assembly, f"bems-{config.name}") for config in CELLS}
    outputs = deploy(emulator, assembly, {SECRET_URL_PARAMETER: WEBHOOK_URL})
    for name, resources in removed.items():
        stand_ins.connect(emulator, f"bems-{name}", resources)
    deployed = {name: DeployedCell(emulator, f"bems-{name}", outputs[f"bems-{name}"]) for name in removed}
    yield deployed
    for name in list(deployed):
        delete(deployed, name)


def remove_from_template(assembly: Path, stack: str) -> Resources:
    """Remove the resources that need a stand-in from the template of a stack in an assembly."""
    path = assembly / f"{stack}.template.json"
    template = json.loads(path.read_text())
    removed = remove_unsupported(stack, template)
    path.write_text(json.dumps(template))
    return removed


def delete(cells: Cells, name: str) -> DeployedCell:
    """Delete the stack of a cell, and return the cell."""
    cell = cells.pop(name)
    stacks = cell.emulator.client("cloudformation")
    stacks.update_termination_protection(StackName=cell.stack, EnableTerminationProtection=False)
    stacks.delete_stack(StackName=cell.stack)
    stacks.get_waiter("stack_delete_complete").wait(StackName=cell.stack, WaiterConfig={"Delay": 1})
    return cell


def test_every_combination_is_deployed(cells: Cells, emulator: Emulator) -> None:
    pages = emulator.client("cloudformation").get_paginator("list_stack_resources")
    for cell in cells.values():
        resources = pages.paginate(StackName=cell.stack).build_full_result()["StackResourceSummaries"]
        assert len(resources) > 150
        assert {resource["ResourceStatus"] for resource in resources} == {"CREATE_COMPLETE"}


def test_every_combination_accepts_an_event_and_stores_its_record_and_row(cells: Cells, stand_ins: StandIns) -> None:
    for name, cell in cells.items():
        cell.send(event_lines(SCENARIOS[name])[0])
    for name, cell in cells.items():
        cell.wait_for_status(SCENARIOS[name].invoice_id, "AwaitingAuthorization", START_SECONDS)
    for config in CELLS:
        (row,) = wait_for_rows(cells[config.name], stand_ins, config, 1)
        assert (row["cell"], row["stage"], row["to_status"]) == (config.name, "ingestion", "AwaitingAuthorization")
        assert row["invoice_id"] == SCENARIOS[config.name].invoice_id


def wait_for_rows(cell: DeployedCell, stand_ins: StandIns, config: CellConfig, count: int) -> list[dict[str, Any]]:
    """Wait until a cell's series has `count` rows, and return them."""

    def rows() -> list[dict[str, Any]] | None:
        found = stand_ins.rows[cell.stack, "transitions"] if config.time_series == "timestream" else cell.rows()
        return found if len(found) >= count else None

    return wait_until(f"{config.name} has {count} rows", rows, START_SECONDS)


def test_a_fifo_cell_posts_an_invoice(cells: Cells, stand_ins: StandIns) -> None:
    """Every event is sent twice."""
    config = minimal_cell("fifo", "timestream")
    cell, plan = cells[config.name], SCENARIOS[config.name]
    for line in event_lines(plan):
        cell.send(line)
        cell.send(line)
    cell.wait_for_status(plan.invoice_id, "Posted")
    states = ["AwaitAuthorization", "AwaitReconciliation", "AwaitPosting", "Posted"]
    assert cell.wait_for_end(plan.invoice_id, 1) == Execution("SUCCEEDED", states)
    rows = wait_for_rows(cell, stand_ins, config, 4)
    assert sorted(row["outcome"] for row in rows) == sorted(["received", "approved", "matched", "posted"])


@pytest.mark.parametrize("make", [minimal_cell, complete_cell])
def test_a_deleted_cell_keeps_its_data_unless_it_is_configured_otherwise(
    cells: Cells, make: Any, emulator: Emulator
) -> None:
    config = make("standard", "s3tables")
    stack, stacks = f"bems-{config.name}", emulator.client("cloudformation")
    if config.termination_protection:
        with pytest.raises(ClientError, match="TerminationProtection"):
            stacks.delete_stack(StackName=stack)
    cell = delete(cells, config.name)
    tables = emulator.client("dynamodb").list_tables()["TableNames"]
    assert (cell.outputs["RecordsTable"] in tables) == (config.removal == "retain")

"""Lambda's concurrency: what a cell reserves is what its setting says, and what the account has."""

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from bems.tracker.cells import Cell, Concurrency
from bems.tracker.contract import STAGES
from infra.cell import CellStack
from infra.compute.concurrency import check_account_quota
from infra.compute.function_code import WITHOUT_DEPENDENCIES
from tests.infra.template import Template

SMALL = Concurrency(account=10, reserved=False, processor=2)


def cell(name: str, account: str | None = None, region: str = "eu-west-1", **more: Any) -> Cell:
    return Cell(name=name, region=region, account=account, **more)


def test_what_is_reserved_is_the_setting(cell: Template) -> None:
    functions = cell.by_type("AWS::Lambda::Function")
    reserved = {path.split("/")[1]: one["ReservedConcurrentExecutions"] for path, one in functions.items()}
    usual = Concurrency()
    assert reserved == {
        "Producer": usual.producer,
        **{f"Invoice{stage.capitalize()}Processor": usual.processor for stage in STAGES},
        "RegisterWait": usual.register_wait,
        "Escalate": usual.escalate,
        "Sweeper": usual.sweeper,
        "Recorder": usual.recorder,
    }
    assert sum(reserved.values()) == usual.total == 810


@pytest.mark.xdist_group("cdk")
def test_a_cell_of_a_new_account_reserves_nothing(tmp_path: Path) -> None:
    app = App(analytics_reporting=False, outdir=str(tmp_path), context={WITHOUT_DEPENDENCIES: True})
    CellStack(app, cell("small", delivery="standard", concurrency=SMALL))
    app.synth()
    resources = json.loads((tmp_path / "bems-small.template.json").read_text())["Resources"].values()
    functions = [one["Properties"] for one in resources if one["Type"] == "AWS::Lambda::Function"]
    assert len(functions) == 9
    assert [one["ReservedConcurrentExecutions"] for one in functions if "ReservedConcurrentExecutions" in one] == []
    # A queue must not call more than may run.
    mappings = [one["Properties"] for one in resources if one["Type"] == "AWS::Lambda::EventSourceMapping"]
    assert [one["ScalingConfig"] for one in mappings if "ScalingConfig" in one] == [{"MaximumConcurrency": 2}] * 4


@pytest.mark.parametrize(
    "cells",
    [
        [cell("a"), cell("b")],
        [cell("a", "123456789012"), cell("b", "123456789012", concurrency=Concurrency(account=2000))],
        [cell("a", concurrency=Concurrency(account=1719)), cell("b", concurrency=Concurrency(account=1719))],
    ],
)
def test_cells_that_do_not_fit_in_one_account_are_named(cells: list[Cell]) -> None:
    with pytest.raises(
        ValueError, match=r'cells a, b of eu-west-1 reserve 1620 of the .* raise .*"concurrency.account"'
    ):
        check_account_quota(cells)


@pytest.mark.parametrize(
    "cells",
    [
        [cell("a"), cell("b", region="us-east-1")],
        [cell("a", "123456789012"), cell("b", "210987654321")],
        [cell("a", concurrency=Concurrency(account=1720)), cell("b", concurrency=Concurrency(account=1720))],
        [cell("a"), cell("b", concurrency=SMALL)],
    ],
)
def test_cells_that_fit_are_let_through(cells: list[Cell]) -> None:
    check_account_quota(cells)

"""Tests of Lambda concurrency: cells reserve what their settings say, within the account's quota."""

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from bems.tracker.cells import CellConfig, Concurrency
from bems.tracker.contract import STAGES
from infra.cell import CellStack
from infra.compute.concurrency import check_account_quota
from infra.compute.function_code import WITHOUT_DEPENDENCIES
from tests.infra.template import Template

SMALL = Concurrency(account=10, reserved=False, processor=2)


def cell(name: str, account: str | None = None, region: str = "eu-west-1", **settings: Any) -> CellConfig:
    return CellConfig(name=name, region=region, account=account, **settings)


def test_functions_reserve_the_concurrency_of_the_settings(cell: Template) -> None:
    functions = cell.by_type("AWS::Lambda::Function")
    reserved = {path.split("/")[1]: one["ReservedConcurrentExecutions"] for path, one in functions.items()}
    default = Concurrency()
    assert reserved == {
        "Producer": default.producer,
        **{f"Invoice{stage.capitalize()}Processor": default.processor for stage in STAGES},
        "RegisterWait": default.register_wait,
        "Escalate": default.escalate,
        "Sweeper": default.sweeper,
        "Recorder": default.recorder,
    }
    assert sum(reserved.values()) == default.total == 810


@pytest.mark.xdist_group("cdk")
def test_a_cell_with_reserved_false_reserves_nothing(tmp_path: Path) -> None:
    app = App(analytics_reporting=False, outdir=str(tmp_path), context={WITHOUT_DEPENDENCIES: True})
    CellStack(app, cell("small", delivery="standard", concurrency=SMALL))
    app.synth()
    resources = json.loads((tmp_path / "bems-small.template.json").read_text())["Resources"].values()
    functions = [one["Properties"] for one in resources if one["Type"] == "AWS::Lambda::Function"]
    assert len(functions) == 9
    assert [one["ReservedConcurrentExecutions"] for one in functions if "ReservedConcurrentExecutions" in one] == []
    # A queue must not invoke more instances than may run.
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
def test_cells_that_exceed_their_accounts_quota_together_are_rejected(cells: list[CellConfig]) -> None:
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
def test_cells_within_their_accounts_quota_are_accepted(cells: list[CellConfig]) -> None:
    check_account_quota(cells)

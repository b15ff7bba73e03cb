"""Script that synthesizes the cells of `tests.infra.combinations` as `app.py` does, into the folder CDK_OUTDIR."""

import json
from pathlib import Path

from aws_cdk import App

from infra.cell import CellStack
from infra.guards.cdk_nag import add_cdk_nag
from infra.guards.rule_aspect import add_rules
from tests.infra.combinations import CELLS

if __name__ == "__main__":
    context = json.loads((Path(__file__).resolve().parents[2] / "cdk.json").read_text())["context"]
    app = App(analytics_reporting=False, stack_traces=False, context=context)
    for cell in CELLS:
        CellStack(app, cell)
    add_rules(app)
    add_cdk_nag(app)
    app.synth()

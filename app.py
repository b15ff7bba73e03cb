"""The cells of `cells.yaml` as CloudFormation stacks: `make synth`, then `cdk deploy --app cdk.out bems-<cell>`."""

import json
from pathlib import Path

from aws_cdk import App

from bems.tracker.config import read_cells
from infra.cell import CellStack
from infra.findings import check
from infra.guards import guard

here = Path(__file__).parent
app = App(analytics_reporting=False, context=json.loads((here / "cdk.json").read_text())["context"])
for cell in read_cells((here / "cells.yaml").read_text(), "cells.yaml").cells:
    CellStack(app, cell)
guard(app)
check(app)
app.synth()

"""The cells of `cells.yaml` as CloudFormation stacks: `make synth`, then `cdk deploy --app cdk.out bems-<cell>`."""

import json
from pathlib import Path

from aws_cdk import App

from bems.calendars import check_country
from bems.tracker.config import read_cells
from infra import concurrency
from infra.cell import CellStack
from infra.findings import check
from infra.guards import guard

here = Path(__file__).parent
context = json.loads((here / "cdk.json").read_text())["context"]
# What the CDK CLI would tell the app by itself; it warns of keys such as this in its file.
app = App(analytics_reporting=False, stack_traces=False, context={**context, "aws:cdk:enable-path-metadata": True})
cells = read_cells((here / "cells.yaml").read_text(), "cells.yaml", check_country).cells
concurrency.check(cells)
for cell in cells:
    CellStack(app, cell)
guard(app)
check(app)
app.synth()

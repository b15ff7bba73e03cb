"""CDK app with one stack for each cell in `cells.yaml`.

Run `make synth`, then `cdk deploy --app cdk.out bems-<cell>`.
"""

import json
import sys
from pathlib import Path

from aws_cdk import App

from infra.assembly import InvalidCells, add_stacks
from infra.compute.packaging import DependenciesMissing
from infra.guards.cdk_nag import add_cdk_nag
from infra.guards.rule_aspect import add_rules

here = Path(__file__).parent
context = json.loads((here / "cdk.json").read_text())["context"]
# The CDK CLI passes this key to the app, and warns when cdk.json has a key with the prefix `aws:`. Without the CLI, the
# app sets it here.
app = App(analytics_reporting=False, stack_traces=False, context={**context, "aws:cdk:enable-path-metadata": True})
try:
    add_stacks(app, here)
except (InvalidCells, DependenciesMissing) as error:
    sys.exit(str(error))
add_rules(app)
add_cdk_nag(app)
app.synth()

"""The cells of `cells.yaml` as CloudFormation stacks: `make synth`, then `cdk deploy --app cdk.out bems-<cell>`."""

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
# What the CDK CLI would tell the app by itself; it warns of keys such as this in its file.
app = App(analytics_reporting=False, stack_traces=False, context={**context, "aws:cdk:enable-path-metadata": True})
try:
    add_stacks(app, here)
except (InvalidCells, DependenciesMissing) as wrong:
    sys.exit(str(wrong))
add_rules(app)
add_cdk_nag(app)
app.synth()

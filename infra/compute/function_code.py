"""Code asset of a cell's functions, with or without their dependencies."""

import sys
from pathlib import Path

from aws_cdk import CfnRule, CfnRuleAssertion, Fn
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from bems.calendars import check_country
from bems.tracker.cells import CellConfig
from bems.tracker.config import read_policy
from bems.tracker.policy import PolicySpec
from infra.common.profile import Profile
from infra.compute import packaging

WITHOUT_DEPENDENCIES = "bems:without-dependencies"
"""CDK context key that leaves out the functions' dependencies, for tests and for reading templates without a network.
CloudFormation refuses to deploy the resulting template."""


class FunctionCode(Construct):
    """The asset that all functions of a cell share. The assets of two cells differ only in their policy."""

    def __init__(self, scope: Construct, id: str, cell: CellConfig, profile: Profile) -> None:
        super().__init__(scope, id)
        dependencies = None
        if self.node.try_get_context(WITHOUT_DEPENDENCIES) in ("true", True):
            print(
                f"{cell.name}: {WITHOUT_DEPENDENCIES} is set: these functions cannot run, do not deploy them",
                file=sys.stderr,
            )
            CfnRule(
                self,
                "NotDeployable",
                assertions=[
                    CfnRuleAssertion(
                        assert_=Fn.condition_equals("dependencies", "none"),
                        assert_description=(
                            f"This template was synthesized with {WITHOUT_DEPENDENCIES}: synthesize it without"
                        ),
                    )
                ],
            )
        else:
            dependencies = packaging.fetch(profile.target)
        folder = packaging.assemble(read_cell_policy(cell, packaging.ROOT), dependencies)
        self.code = lambda_.Code.from_asset(str(folder))


def read_cell_policy(cell: CellConfig, root: Path) -> PolicySpec:
    """Return the policy of a cell: inline, from its file relative to `root`, or the default.

    Raises ConfigError or OSError when the file cannot be parsed or read.
    """
    if isinstance(cell.policy, str):
        return read_policy((root / cell.policy).read_text(encoding="utf-8"), cell.policy, check_country)
    return cell.policy or PolicySpec()

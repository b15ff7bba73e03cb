"""The functions' code: the asset of a cell, with its dependencies unless somebody asked for it without."""

import sys
from pathlib import Path

from aws_cdk import CfnRule, CfnRuleAssertion, Fn
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from bems.calendars import check_country
from bems.tracker.cells import Cell
from bems.tracker.config import read_policy
from bems.tracker.policy import PolicySpec
from infra.common.profile import Profile
from infra.compute import packaging

WITHOUT_DEPENDENCIES = "bems:without-dependencies"
"""The context key that leaves out the functions' dependencies: for tests and for looking at templates without a
network. CloudFormation refuses to deploy what comes of it."""


class FunctionCode(Construct):
    """One asset for all functions of a cell; what differs between cells is the policy in it."""

    def __init__(self, scope: Construct, id: str, cell: Cell, profile: Profile) -> None:
        super().__init__(scope, id)
        without = self.node.try_get_context(WITHOUT_DEPENDENCIES) in ("true", True)
        dependencies = None
        if without:
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


def read_cell_policy(cell: Cell, root: Path) -> PolicySpec:
    """The spec of a cell's policy: its own lines, a file relative to `root`, or the defaults. ConfigError, OSError."""
    if cell.policy is not None:
        return cell.policy
    if cell.policy_file is not None:
        return read_policy((root / cell.policy_file).read_text(encoding="utf-8"), cell.policy_file, check_country)
    return PolicySpec()

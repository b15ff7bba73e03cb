"""CDK aspect that fails the synthesis of a stack which violates `infra.guards.rules`."""

import jsii
from aws_cdk import AspectPriority, Aspects, IAspect, Stack
from constructs import Construct, IConstruct

from infra.guards.resources import stack_resources
from infra.guards.rules import check_rules


class RuleViolations(Exception):
    """Every rule violation of a stack, one per line, each with its construct's path."""


@jsii.implements(IAspect)
class RuleAspect:
    """Aspect that checks each stack once, as a whole, because most rules relate two resources."""

    def visit(self, node: IConstruct) -> None:
        if not isinstance(node, Stack):
            return
        violations = check_rules(stack_resources(node))
        if violations:
            raise RuleViolations("\n".join(f"{path}: {detail}" for path, detail in violations))


def add_rules(scope: Construct) -> None:
    """Check every stack under a construct, after all other aspects have made their changes."""
    Aspects.of(scope).add(RuleAspect(), priority=AspectPriority.READONLY)

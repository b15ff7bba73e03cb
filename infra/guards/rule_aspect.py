"""Guards: a stack that has what `refusals` refuses does not come out of synthesis."""

import jsii
from aws_cdk import AspectPriority, Aspects, IAspect, Stack
from constructs import Construct, IConstruct

from infra.guards.resources import stack_resources
from infra.guards.rules import check_rules


class RuleViolations(Exception):
    """Every refusal of a stack, one a line, each with its construct's path."""


@jsii.implements(IAspect)
class RuleAspect:
    """Looks at each stack once, whole: most of what is refused is between two resources."""

    def visit(self, node: IConstruct) -> None:
        if not isinstance(node, Stack):
            return
        refusals = check_rules(stack_resources(node))
        if refusals:
            raise RuleViolations("\n".join(f"{path}: {detail}" for path, detail in refusals))


def add_rules(scope: Construct) -> None:
    """Have every stack under a construct looked at, after all that other aspects change."""
    Aspects.of(scope).add(RuleAspect(), priority=AspectPriority.READONLY)

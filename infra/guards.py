"""Guards: a stack that has what `refusals` refuses does not come out of synthesis."""

import jsii
from aws_cdk import AspectPriority, Aspects, IAspect, Stack
from constructs import Construct, IConstruct

from infra.refusals import find_refusals
from infra.resources import of_stack


class Refused(Exception):
    """Every refusal of a stack, one a line, each with its construct's path."""


@jsii.implements(IAspect)
class Guards:
    """Looks at each stack once, whole: most of what is refused is between two resources."""

    def visit(self, node: IConstruct) -> None:
        if not isinstance(node, Stack):
            return
        refusals = find_refusals(of_stack(node))
        if refusals:
            raise Refused("\n".join(f"{path}: {detail}" for path, detail in refusals))


def guard(scope: Construct) -> None:
    """Have every stack under a construct looked at, after all that other aspects change."""
    Aspects.of(scope).add(Guards(), priority=AspectPriority.READONLY)

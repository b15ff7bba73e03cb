"""Resources: a stack's resources as the guards look at them, whether they come from constructs or from a template.

Names of properties are in lower case, because CDK's constructs and CloudFormation differ in nothing else.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aws_cdk import CfnResource, Stack


class Resource(NamedTuple):
    """One resource: where it is, what it is, what it says."""

    path: str
    id: str
    """The logical id, by which others refer to it."""
    type: str
    properties: Mapping[str, Any]


def stack_resources(stack: Stack) -> list[Resource]:
    """The resources of a stack that is being synthesized. What an escape hatch overrides is not seen here; it is in the
    template."""
    return [
        Resource(
            node.node.path,
            stack.resolve(node.logical_id),
            node.cfn_resource_type,
            _lowercase_keys(stack.resolve(node._cfn_properties)) or {},
        )
        for node in stack.node.find_all()
        if isinstance(node, CfnResource) and Stack.of(node) is stack
    ]


def template_resources(template: Mapping[str, Any]) -> list[Resource]:
    """The resources of a synthesized template."""
    return [
        Resource(
            resource.get("Metadata", {}).get("aws:cdk:path", id),
            id,
            resource["Type"],
            _lowercase_keys(resource.get("Properties", {})),
        )
        for id, resource in template["Resources"].items()
    ]


def logical_id_of(value: Any) -> str | None:
    """The logical id that a `Ref` or `Fn::GetAtt` names."""
    if isinstance(value, Mapping):
        if isinstance(value.get("ref"), str):
            return str(value["ref"])
        attribute = value.get("fn::getatt")
        if attribute is not None:
            return str(
                attribute[0] if isinstance(attribute, Sequence) and not isinstance(attribute, str) else attribute
            ).split(".")[0]
    return None


def to_text(value: Any) -> str:
    """A value as one text, with `${...}` for what only CloudFormation knows."""
    if isinstance(value, Mapping):
        if "fn::join" in value:
            separator, parts = value["fn::join"]
            return str(separator).join(to_text(part) for part in parts)
        if "fn::sub" in value:
            inner = value["fn::sub"]
            return str(inner if isinstance(inner, str) else inner[0])
        known = logical_id_of(value)
        return "${" + (known or "?").removeprefix("AWS::") + "}"
    return str(value)


def references(value: Any) -> Iterator[str]:
    """Every logical id that is named anywhere in a value."""
    if isinstance(value, Mapping):
        known = logical_id_of(value)
        if known is not None:
            yield known
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
    elif isinstance(value, str):
        yield from re.findall(r"\$\{(\w+)", value)


def as_list(value: Any) -> list[Any]:
    """What CloudFormation takes as one or as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _lowercase_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name).lower(): _lowercase_keys(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_lowercase_keys(inner) for inner in value]
    return value

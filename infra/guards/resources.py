"""Resources of a stack in the form that the guards check, from constructs or from a synthesized template.

Property names are in lower case, because that is the only difference between CDK's constructs and CloudFormation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aws_cdk import CfnResource, Stack


class TemplateResource(NamedTuple):
    """One resource with its construct path, logical id, CloudFormation type and properties."""

    path: str
    id: str
    """The logical id, by which other resources refer to this one."""
    type: str
    properties: Mapping[str, Any]


def stack_resources(stack: Stack) -> list[TemplateResource]:
    """Return the resources of a stack during synthesis.

    They lack property overrides (escape hatches), which only the template contains.
    """
    return [
        TemplateResource(
            node.node.path,
            stack.resolve(node.logical_id),
            node.cfn_resource_type,
            _lowercase_keys(stack.resolve(node._cfn_properties)) or {},
        )
        for node in stack.node.find_all()
        if isinstance(node, CfnResource) and Stack.of(node) is stack
    ]


def template_resources(template: Mapping[str, Any]) -> list[TemplateResource]:
    """Return the resources of a synthesized template."""
    return [
        TemplateResource(
            resource.get("Metadata", {}).get("aws:cdk:path", id),
            id,
            resource["Type"],
            _lowercase_keys(resource.get("Properties", {})),
        )
        for id, resource in template["Resources"].items()
    ]


def logical_id_of(value: Any) -> str | None:
    """Return the logical id that a `Ref` or `Fn::GetAtt` names; None for any other value."""
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
    """Return a value as text, with `${LogicalId}` for references that only CloudFormation can resolve."""
    if isinstance(value, Mapping):
        if "fn::join" in value:
            separator, parts = value["fn::join"]
            return str(separator).join(to_text(part) for part in parts)
        if "fn::sub" in value:
            inner = value["fn::sub"]
            return str(inner if isinstance(inner, str) else inner[0])
        logical_id = logical_id_of(value)
        return "${" + (logical_id or "?").removeprefix("AWS::") + "}"
    return str(value)


def references(value: Any) -> Iterator[str]:
    """Yield every logical id to which a value or any part of it refers."""
    if isinstance(value, Mapping):
        logical_id = logical_id_of(value)
        if logical_id is not None:
            yield logical_id
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
    elif isinstance(value, str):
        yield from re.findall(r"\$\{(\w+)", value)


def as_list(value: Any) -> list[Any]:
    """Return a property that CloudFormation accepts as one value or as a list, as a list; empty for None."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _lowercase_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name).lower(): _lowercase_keys(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_lowercase_keys(inner) for inner in value]
    return value

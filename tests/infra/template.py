"""Access to a synthesized template by construct path, with references resolved to paths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Template(NamedTuple):
    """The template of one stack. Paths are relative to the stack and lack the suffix `/Resource`."""

    name: str
    raw: Mapping[str, Any]
    paths: Mapping[str, str]
    """Construct paths by logical id."""

    @classmethod
    def load(cls, assembly: Path, name: str) -> "Template":
        raw = json.loads((assembly / f"{name}.template.json").read_text())
        paths = {
            id: resource.get("Metadata", {}).get("aws:cdk:path", id).removeprefix(f"{name}/").removesuffix("/Resource")
            for id, resource in raw["Resources"].items()
        }
        return cls(name, raw, paths)

    @property
    def cell(self) -> str:
        return self.name.removeprefix("bems-")

    @property
    def region(self) -> str:
        return {"eu-west": "eu-west-1", "us-east": "us-east-1"}[self.cell]

    def by_type(self, type: str) -> dict[str, dict[str, Any]]:
        """Return the properties of every resource of a type, by path, with references resolved."""
        return {
            self.paths[id]: self.resolve(resource.get("Properties", {}))
            for id, resource in self.raw["Resources"].items()
            if resource["Type"] == type
        }

    def only(self, type: str) -> dict[str, Any]:
        """Return the properties of the only resource of a type."""
        (properties,) = self.by_type(type).values()
        return properties

    def at(self, path: str) -> dict[str, Any]:
        """Return the properties of the resource at a path, with references resolved."""
        properties: dict[str, Any] = self.resolve(self.resource_at(path).get("Properties", {}))
        return properties

    def resource_at(self, path: str) -> dict[str, Any]:
        """Return the complete resource at a path, as it is in the template."""
        (id,) = (id for id, known in self.paths.items() if known == path)
        resource: dict[str, Any] = self.raw["Resources"][id]
        return resource

    def resolve(self, value: Any) -> Any:
        """Return a value with its references resolved.

        `<path>` stands for a reference to a resource or its ARN, `<path.Attribute>` for any other attribute.
        """
        if isinstance(value, list):
            return [self.resolve(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"Ref"}:
            return f"<{self.paths.get(value['Ref'], value['Ref'].removeprefix('AWS::'))}>"
        if set(value) == {"Fn::GetAtt"}:
            id, attribute = value["Fn::GetAtt"]
            short = attribute in ("Arn", "TopicArn", "EventBusArn", "SubscriberArn", "TableBucketARN", "StreamArn")
            return f"<{self.paths[id]}{'' if short and attribute != 'StreamArn' else '.' + attribute}>"
        if set(value) == {"Fn::Join"}:
            separator, parts = value["Fn::Join"]
            return separator.join(str(self.resolve(part)) for part in parts)
        return {name: self.resolve(inner) for name, inner in value.items()}

    def statements(self, path: str) -> list[str]:
        """Return the statements of the role at a path, each as a line `actions on resources if condition`."""
        role = self.at(path)
        assert not role.get("ManagedPolicyArns")
        return [
            statement_line(statement)
            for policy in role.get("Policies", ())
            for statement in policy["PolicyDocument"]["Statement"]
        ]


def statement_line(statement: Mapping[str, Any]) -> str:
    """Return an Allow statement as a line `actions on resources if condition`."""
    assert statement["Effect"] == "Allow"
    text = f"{' '.join(_as_list(statement['Action']))} on {' '.join(_as_list(statement['Resource']))}"
    if "Condition" in statement:
        text += f" if {json.dumps(statement['Condition'], sort_keys=True)}"
    return text


def _as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]

"""A synthesized template, read as people name things: by construct path, with references written out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Template(NamedTuple):
    """One stack's template. Paths are relative to the stack and without `/Resource`."""

    name: str
    raw: Mapping[str, Any]
    paths: Mapping[str, str]
    """By logical id."""

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
        """The properties of every resource of a type, by path, with references written out."""
        return {
            self.paths[id]: self.resolve(resource.get("Properties", {}))
            for id, resource in self.raw["Resources"].items()
            if resource["Type"] == type
        }

    def only(self, type: str) -> dict[str, Any]:
        """The properties of the only resource of a type."""
        (found,) = self.by_type(type).values()
        return found

    def at(self, path: str) -> dict[str, Any]:
        """The properties of the resource at a path."""
        (id,) = (id for id, known in self.paths.items() if known == path)
        found: dict[str, Any] = self.resolve(self.raw["Resources"][id].get("Properties", {}))
        return found

    def resource_at(self, path: str) -> dict[str, Any]:
        """The resource at a path, with what is beside its properties."""
        (id,) = (id for id, known in self.paths.items() if known == path)
        found: dict[str, Any] = self.raw["Resources"][id]
        return found

    def resolve(self, value: Any) -> Any:
        """A value with `<path>` for a reference, `<path.Attribute>` for an attribute that is not its ARN."""
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
        """What the role at a path may do: a line per statement, `actions on resources if condition`."""
        role = self.at(path)
        assert not role.get("ManagedPolicyArns")
        return [
            statement_line(one) for policy in role.get("Policies", ()) for one in policy["PolicyDocument"]["Statement"]
        ]


def statement_line(statement: Mapping[str, Any]) -> str:
    """A statement as a line."""
    assert statement["Effect"] == "Allow"
    text = f"{' '.join(_listed(statement['Action']))} on {' '.join(_listed(statement['Resource']))}"
    if "Condition" in statement:
        text += f" if {json.dumps(statement['Condition'], sort_keys=True)}"
    return text


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]

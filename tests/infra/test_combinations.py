"""Tests of every combination of settings at synthesis. `tests/e2e/test_combinations.py` deploys the same cells."""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from cfnlint.api import lint
from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from bems.tracker.cells import CellConfig, Concurrency
from infra.guards.resources import template_resources
from infra.guards.rules import check_rules
from tests.infra.combinations import CELLS, DELIVERIES, REGION, TIME_SERIES, VARIANTS
from tests.infra.conftest import ROOT, Synthesis
from tests.infra.template import Template
from tests.infra.test_assembly import IGNORED

BUS_TYPES = {"fifo": "AWS::EventsV2::EventBus", "standard": "AWS::Events::EventBus"}
SERIES_TYPES = {"timestream": "AWS::Timestream::Table", "s3tables": "AWS::S3Tables::Table"}
"""Resource type that each value of the two settings adds. A new value fails a test until it has a type here."""

SAME_RESOURCES = {
    "CellConfig.policy": "the policy is a file in the functions' package",
    "CellConfig.embedded": "of a cell on one machine",
    "CellConfig.log_retention_days": "a number that CloudWatch Logs accepts; the cells have two of them",
}
"""Settings whose values need not all occur, with the reasons."""


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthesize the cells. The first worker does it; the others reuse the result."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = shared / "combinations.out"
    with (shared / "combinations.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "manifest.json").exists():
            status, output = Synthesis(Path(__file__).with_name("synthesize.py"), out).wait()
            assert status == 0, output
    return out


@pytest.fixture(params=CELLS, ids=lambda config: config.name)
def combination(request: pytest.FixtureRequest) -> CellConfig:
    config: CellConfig = request.param
    return config


@pytest.fixture
def template(templates: Path, combination: CellConfig) -> Template:
    return Template.load(templates, f"bems-{combination.name}")


def test_each_combination_has_the_parts_of_its_variant_and_no_others(
    combination: CellConfig, template: Template
) -> None:
    assert (set(DELIVERIES), set(TIME_SERIES)) == (set(BUS_TYPES), set(SERIES_TYPES))
    types = {resource["Type"] for resource in template.raw["Resources"].values()}
    assert types & {*BUS_TYPES.values(), *SERIES_TYPES.values()} == {
        BUS_TYPES[combination.delivery],
        SERIES_TYPES[combination.time_series],
    }


def test_each_combination_follows_the_rules(template: Template) -> None:
    # The synthesis has also checked cdk-nag's rules.
    assert check_rules(template_resources(template.raw)) == []


def test_each_stack_stands_alone(template: Template) -> None:
    text = json.dumps(template.raw)
    assert "Fn::ImportValue" not in text
    assert '"Export"' not in text


def test_cfn_lint_resolves_every_reference_and_knows_every_action(template: Template) -> None:
    matches = lint(json.dumps(template.raw), regions=[REGION])
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []


def test_cfn_lint_finds_unknown_references_attributes_and_actions() -> None:
    statement = {"Effect": "Allow", "Action": "sqs:SendMesage", "Resource": {"Fn::GetAtt": ["Queue", "Nothing"]}}
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    role = {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
        "Policies": [
            {"PolicyName": "P", "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]}},
        ],
        "Description": {"Ref": "Nobody"},
    }
    resources = {"Role": {"Type": "AWS::IAM::Role", "Properties": role}, "Queue": {"Type": "AWS::SQS::Queue"}}
    matches = lint(json.dumps({"Resources": resources}), regions=[REGION])
    assert {match.rule.id for match in matches} >= {"W3037", "E1010", "E1020"}


def test_the_cells_have_every_value_of_every_setting() -> None:
    """A new setting, or a new value of one, fails here until a cell has it."""
    assert sorted(unused_values(CELLS)) == []
    assert {(cell.delivery, cell.time_series) for cell in CELLS} == set(VARIANTS)


def unused_values(cells: Iterable[CellConfig]) -> Iterator[str]:
    """Yield each value of a setting that no cell has. A setting without choices has two: its default and any other."""
    sections = defaultdict[type[Struct], list[Struct]](list)
    for cell in cells:
        for section in sections_of(cell):
            sections[type(section)].append(section)
    for kind, found in sections.items():
        for field in fields(kind):
            name = f"{kind.__name__}.{field.name}"
            if name in SAME_RESOURCES:
                continue
            values = [getattr(section, field.name) for section in found]
            yield from (f"{name}: {choice}" for choice in choices(field.type) if choice not in values)
            if not field.required:
                default = field.default if field.default_factory is NODEFAULT else field.default_factory()
                yield from [f"{name}: its default"] if default not in values else []
                yield from [f"{name}: anything but its default"] if all(value == default for value in values) else []


def sections_of(section: Struct) -> Iterator[Struct]:
    """Yield a section of the configuration and all sections in it."""
    yield section
    for field in fields(section):
        value = getattr(section, field.name)
        for item in value if isinstance(value, tuple) else [value]:
            if isinstance(item, Struct) and f"{type(section).__name__}.{field.name}" not in SAME_RESOURCES:
                yield from sections_of(item)


def choices(type: Any) -> tuple[Any, ...]:
    """Return the values of a type that has few of them."""
    if type is bool:
        return False, True
    if get_origin(type) in (Union, UnionType):
        return tuple(choice for part in get_args(type) for choice in choices(part))
    return get_args(type) if get_origin(type) is Literal else ()


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({"tracing": True}, "CellConfig.tracing: False"),
        ({"removal": "retain"}, "CellConfig.removal: destroy"),
        ({"subscribers": ()}, "CellConfig.subscribers: anything but its default"),
        ({"concurrency": Concurrency()}, "Concurrency.provisioned: anything but its default"),
    ],
)
def test_an_unused_value_is_found(changes: dict[str, Any], unused: str) -> None:
    assert unused in set(unused_values(replace(cell, **changes) for cell in CELLS))


def test_the_document_says_how_each_variant_is_covered() -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    assert [variant for variant in VARIANTS if "| `{}` | `{}` |".format(*variant) not in text] == []

"""Tests of the cloud assembly: reproducibility, CloudFormation's quotas, cfn-lint, cdk-nag, stack settings."""

import filecmp
import json
from pathlib import Path

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_sqs as sqs
from cfnlint.api import lint

from bems.tracker.cells import CellConfig
from infra.common.profile import AWS
from infra.compute import packaging
from infra.compute.function_code import FunctionCode
from infra.guards.cdk_nag import SUPPRESSIONS, add_cdk_nag
from infra.guards.wildcards import WILDCARDS
from tests.infra.conftest import ROOT, Synthesized
from tests.infra.template import Template

MAX_RESOURCES = 500
MAX_TEMPLATE_BYTES = 1_000_000
"""CloudFormation's quotas for a template (user guide, "Understand CloudFormation quotas")."""

IGNORED = {
    "W3005": "CDK adds a DependsOn for a function's role in addition to the reference; redundant, and not configurable",
    "W3697": "Timestream is selected by the cell's setting, for accounts that have access to it",
    "W8003": "The rule that blocks the deployment of a template without dependencies is always false on purpose",
}
"""cfn-lint rules that are ignored, with the reasons."""


def test_two_runs_are_identical_to_the_byte(synthesized: Synthesized) -> None:
    first, second = synthesized.first, synthesized.second
    files = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert files == sorted(str(path.relative_to(second)) for path in second.rglob("*") if path.is_file())
    same, different, unreadable = filecmp.cmpfiles(first, second, files, shallow=False)
    assert (different, unreadable) == ([], [])
    assert len(same) == len(files) > 50


def test_templates_contain_no_local_paths(assembly: Path) -> None:
    for path in assembly.glob("*.json"):
        text = path.read_text()
        assert str(Path(__file__).resolve().parents[2]) not in text
        assert "/tmp/" not in text


def test_cdk_json_has_none_of_the_clis_own_keys() -> None:
    # The CDK CLI warns about each of them at every command.
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    assert [key for key in context if key.startswith("aws:")] == []


def test_every_resource_has_its_construct_path(cell: Template) -> None:
    paths = [resource.get("Metadata", {}).get("aws:cdk:path") for resource in cell.raw["Resources"].values()]
    assert all(path and path.startswith(f"{cell.name}/") for path in paths)


def test_templates_are_within_the_quotas(cell: Template) -> None:
    assert len(cell.raw["Resources"]) < MAX_RESOURCES
    assert len(json.dumps(cell.raw, indent=1)) < MAX_TEMPLATE_BYTES


def test_cfn_lint_passes_for_the_cells_own_regions(assembly: Path) -> None:
    matches = [
        match
        for name, region in (("bems-eu-west", "eu-west-1"), ("bems-us-east", "us-east-1"))
        for match in lint((assembly / f"{name}.template.json").read_text(), regions=[region])
    ]
    assert [str(match) for match in matches if match.rule.id not in IGNORED] == []
    # An ignored rule without a match would hide later violations.
    assert {match.rule.id for match in matches} == set(IGNORED)


@pytest.mark.xdist_group("cdk")
def test_an_unacknowledged_finding_of_cdk_nag_fails_the_synthesis() -> None:
    # The example cells pass cdk-nag, otherwise the fixture `synthesized` would fail.
    app = App(analytics_reporting=False)
    sqs.Queue(Stack(app, "Wrong"), "Queue")
    add_cdk_nag(app)
    with pytest.raises(RuntimeError, match="AwsSolutions-SQS4"):
        app.synth()


def test_every_suppression_and_wildcard_has_a_reason() -> None:
    assert all(len(suppression.reason) > 40 for suppression in SUPPRESSIONS)
    assert all(len(wildcard.reason) > 40 for wildcard in WILDCARDS)


def test_stacks_have_their_region_protection_and_tags(assembly: Path) -> None:
    stacks = json.loads((assembly / "manifest.json").read_text())["artifacts"]
    for name, region, tags in (
        ("bems-eu-west", "eu-west-1", {"cost-center": "finance"}),
        ("bems-us-east", "us-east-1", {}),
    ):
        stack = stacks[name]
        # No account: that of the deployer's credentials.
        assert stack["environment"] == f"aws://unknown-account/{region}"
        assert stack["properties"]["terminationProtection"] is True
        cell = name.removeprefix("bems-")
        assert stack["properties"]["tags"] == {"application": "bems", "bems:cell": cell, **tags}


def test_outputs_name_the_entry_points_and_have_descriptions(cell: Template) -> None:
    outputs = cell.raw["Outputs"]
    expected = {"ApiUrl", "FirstKeyId", "StateMachineArn", "RecordsTable", "DashboardUrl", "PostingTopicArn"}
    assert expected <= set(outputs)
    assert all(output["Description"] for output in outputs.values())


def test_a_template_without_dependencies_cannot_be_deployed(cell: Template) -> None:
    (rule,) = (rule for id, rule in cell.raw["Rules"].items() if id != "CheckBootstrapVersion")
    (assertion,) = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Equals": ["dependencies", "none"]}
    assert "without-dependencies" in assertion["AssertDescription"]


def test_synthesis_without_dependencies_prints_a_warning(synthesized: Synthesized) -> None:
    for cell in ("eu-west", "us-east"):
        warning = f"{cell}: bems:without-dependencies is set: these functions cannot run, do not deploy them"
        assert warning in synthesized.output


@pytest.mark.xdist_group("cdk")
def test_a_template_with_dependencies_has_no_rule_against_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").write_text("")
    monkeypatch.setattr(packaging, "fetch", lambda target: tmp_path)  # noqa: ARG005
    app = App(analytics_reporting=False, outdir=str(tmp_path / "cdk.out"))
    stack = Stack(app, "Cell")
    FunctionCode(stack, "Code", CellConfig(name="whole", region="eu-west-1"), AWS)
    app.synth()
    template = json.loads((tmp_path / "cdk.out" / "Cell.template.json").read_text())
    assert set(template.get("Rules", {})) <= {"CheckBootstrapVersion"}

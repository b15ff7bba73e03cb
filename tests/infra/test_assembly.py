"""The assembly as a whole: the same every time, small enough, checked by others' rules, and what its stacks say."""

import filecmp
import json
from pathlib import Path

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_sqs as sqs
from cfnlint.api import lint

from bems.tracker.cells import Cell
from infra.common.profile import AWS
from infra.compute import packaging
from infra.compute.function_code import FunctionCode
from infra.guards.cdk_nag import SUPPRESSIONS, add_cdk_nag
from infra.guards.wildcards import WILDCARDS
from tests.infra.conftest import ROOT, Synthesized
from tests.infra.template import Template

MOST_RESOURCES = 500
MOST_BYTES = 1_000_000
"""CloudFormation's quotas of a template (user guide, "Understand CloudFormation quotas")."""

IGNORED = {
    "W3005": "CDK's functions wait for their roles by name besides by reference: harmless, and not ours to leave out",
    "W3697": "Timestream is chosen by the cell's setting, for accounts that have access to it",
    "W8003": "The rule that keeps a synthesis without dependencies from being deployed is false on purpose",
}
"""cfn-lint's rules that are not followed, and why."""


def test_two_runs_are_identical_to_the_byte(synthesized: Synthesized) -> None:
    first, second = synthesized.first, synthesized.second
    files = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert files == sorted(str(path.relative_to(second)) for path in second.rglob("*") if path.is_file())
    same, different, unreadable = filecmp.cmpfiles(first, second, files, shallow=False)
    assert (different, unreadable) == ([], [])
    assert len(same) == len(files) > 50


def test_nothing_of_this_machine_is_in_the_templates(assembly: Path) -> None:
    for path in assembly.glob("*.json"):
        text = path.read_text()
        assert str(Path(__file__).resolve().parents[2]) not in text
        assert "/tmp/" not in text


def test_the_clis_own_keys_are_not_in_its_file() -> None:
    # It warns of each, at every command.
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    assert [key for key in context if key.startswith("aws:")] == []


def test_resources_say_where_they_are_from(cell: Template) -> None:
    paths = [one.get("Metadata", {}).get("aws:cdk:path") for one in cell.raw["Resources"].values()]
    assert all(path and path.startswith(f"{cell.name}/") for path in paths)


def test_templates_are_within_the_quotas(cell: Template) -> None:
    assert len(cell.raw["Resources"]) < MOST_RESOURCES
    assert len(json.dumps(cell.raw, indent=1)) < MOST_BYTES


def test_cfn_lint_passes_for_the_cells_own_regions(assembly: Path) -> None:
    found = [
        match
        for name, region in (("bems-eu-west", "eu-west-1"), ("bems-us-east", "us-east-1"))
        for match in lint((assembly / f"{name}.template.json").read_text(), regions=[region])
    ]
    assert [str(match) for match in found if match.rule.id not in IGNORED] == []
    # What is ignored for nothing would hide what comes later.
    assert {match.rule.id for match in found} == set(IGNORED)


@pytest.mark.xdist_group("cdk")
def test_cdk_nag_ends_a_synthesis_with_a_finding_that_has_no_reason() -> None:
    # The cells come through it: `synthesized` would fail.
    app = App(analytics_reporting=False)
    sqs.Queue(Stack(app, "Wrong"), "Queue")
    add_cdk_nag(app)
    with pytest.raises(RuntimeError, match="AwsSolutions-SQS4"):
        app.synth()


def test_every_acknowledgement_has_its_reason() -> None:
    assert all(len(one.reason) > 40 for one in SUPPRESSIONS)
    assert all(len(one.reason) > 40 for one in WILDCARDS)


def test_stacks_say_what_they_are(assembly: Path) -> None:
    stacks = json.loads((assembly / "manifest.json").read_text())["artifacts"]
    for name, region, tags in (
        ("bems-eu-west", "eu-west-1", {"cost-center": "finance"}),
        ("bems-us-east", "us-east-1", {}),
    ):
        stack = stacks[name]
        # No account: that of whoever deploys.
        assert stack["environment"] == f"aws://unknown-account/{region}"
        assert stack["properties"]["terminationProtection"] is True
        cell = name.removeprefix("bems-")
        assert stack["properties"]["tags"] == {"application": "bems", "bems:cell": cell, **tags}


def test_outputs_say_where_to_begin(cell: Template) -> None:
    outputs = cell.raw["Outputs"]
    named = {"ApiUrl", "FirstKeyId", "StateMachineArn", "RecordsTable", "DashboardUrl", "PostingTopicArn"}
    assert named <= set(outputs)
    assert all(output["Description"] for output in outputs.values())


def test_what_was_synthesized_without_dependencies_cannot_be_deployed(cell: Template) -> None:
    (rule,) = (rule for id, rule in cell.raw["Rules"].items() if id != "CheckBootstrapVersion")
    (one,) = rule["Assertions"]
    assert one["Assert"] == {"Fn::Equals": ["dependencies", "none"]}
    assert "without-dependencies" in one["AssertDescription"]


def test_leaving_dependencies_out_is_said_aloud(synthesized: Synthesized) -> None:
    for cell in ("eu-west", "us-east"):
        said = f"{cell}: bems:without-dependencies is set: these functions cannot run, do not deploy them"
        assert said in synthesized.output


@pytest.mark.xdist_group("cdk")
def test_a_whole_package_may_be_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").write_text("")
    monkeypatch.setattr(packaging, "fetch", lambda target: tmp_path)  # noqa: ARG005
    app = App(analytics_reporting=False, outdir=str(tmp_path / "cdk.out"))
    stack = Stack(app, "Cell")
    FunctionCode(stack, "Code", Cell(name="whole", region="eu-west-1"), AWS)
    app.synth()
    template = json.loads((tmp_path / "cdk.out" / "Cell.template.json").read_text())
    assert set(template.get("Rules", {})) <= {"CheckBootstrapVersion"}

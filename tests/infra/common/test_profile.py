"""Tests of the emulator's profile: it leaves out only the resource types that the emulator does not support."""

import json
from pathlib import Path

import pytest
from aws_cdk import App

from bems.tracker.cells import CellConfig
from infra.cell import CellStack
from infra.common.profile import PROFILE, read_profile
from infra.compute.function_code import WITHOUT_DEPENDENCIES
from infra.guards.resources import references, template_resources
from tests.e2e.stand_ins import remove_unsupported
from tests.infra.template import Template

pytestmark = pytest.mark.xdist_group("cdk")

UNSUPPORTED = {
    "AWS::Backup::BackupSelection",
    "AWS::CloudTrail::Trail",
    "AWS::CloudWatch::AnomalyDetector",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::Config::ConfigRule",
    "AWS::Events::Archive",
    "AWS::Events::Connection",
    "AWS::Events::EventBusPolicy",
    "AWS::EventsV2::EventBus",
    "AWS::EventsV2::Subscriber",
    "AWS::Logs::Delivery",
    "AWS::Logs::DeliveryDestination",
    "AWS::Logs::DeliverySource",
    "AWS::QuickSight::Dashboard",
    "AWS::S3Tables::TableBucketPolicy",
    "AWS::StepFunctions::StateMachineAlias",
    "AWS::StepFunctions::StateMachineVersion",
    "AWS::Timestream::Database",
    "AWS::Timestream::Table",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACLAssociation",
}
"""Resource types that a cell might have and that ministack 1.5 cannot provision."""

LEFT_OUT = {
    "AWS::Backup::BackupPlan",
    "AWS::Backup::BackupSelection",
    "AWS::Backup::BackupVault",
    "AWS::Events::Archive",
    "AWS::S3Tables::TableBucketPolicy",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACL",
    "AWS::WAFv2::WebACLAssociation",
    "AWS::CloudWatch::AnomalyDetector",
}


def test_the_emulator_gets_the_standard_cell_without_unsupported_types(tmp_path: Path, standard: Template) -> None:
    app = App(
        analytics_reporting=False, outdir=str(tmp_path), context={WITHOUT_DEPENDENCIES: True, PROFILE: "emulator"}
    )
    CellStack(app, CellConfig(name="us-east", region="us-east-1", delivery="standard", time_series="s3tables"))
    app.synth()
    template = json.loads((tmp_path / "bems-us-east.template.json").read_text())
    types = {resource["Type"] for resource in template["Resources"].values()}
    all_types = {resource["Type"] for resource in standard.raw["Resources"].values()}
    assert types & UNSUPPORTED == set()
    assert all_types - types == LEFT_OUT & all_types
    assert types <= all_types


def test_stand_ins_replace_the_other_unsupported_types(fifo: Template) -> None:
    template = dict(fifo.raw)
    removed = remove_unsupported(fifo.name, template)
    remaining = {resource["Type"] for resource in template["Resources"].values()}
    assert remaining & UNSUPPORTED <= LEFT_OUT
    assert {resource["Type"] for resource in removed.values()} <= UNSUPPORTED
    referred = {name for resource in template_resources(template) for name in references(resource.properties)}
    assert referred & removed.keys() == set()


def test_an_unknown_profile_is_rejected() -> None:
    with pytest.raises(ValueError, match="use aws or emulator"):
        read_profile(App(analytics_reporting=False, context={PROFILE: "moon"}).node)

"""Log groups with the cell's retention period and log key."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from bems.tracker.cells import CellConfig

VENDED_LOGS_PREFIX = "/aws/vendedlogs"
"""Prefix of log groups to which AWS services may deliver logs without an entry in the account's resource policy, whose
size is limited."""


def log_group(scope: Construct, id: str, name: str, key: kms.IKey, cell: CellConfig) -> logs.LogGroup:
    """Create a log group that is deleted with the stack: logs are not part of the cell's data."""
    group = logs.LogGroup(scope, id, log_group_name=name, encryption_key=key, removal_policy=RemovalPolicy.DESTROY)
    # CDK's `retention` takes an enumeration, not a number of days.
    resource = group.node.default_child
    assert isinstance(resource, logs.CfnLogGroup)
    resource.retention_in_days = cell.log_retention_days
    return group

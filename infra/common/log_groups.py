"""Log groups: kept as long as the cell says, under the cell's key for logs."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from bems.tracker.cells import Cell

VENDED_LOGS_PREFIX = "/aws/vendedlogs"
"""Where AWS services may write without a policy that one would have to keep for them; that has a limit in size."""


def log_group(scope: Construct, id: str, name: str, key: kms.IKey, cell: Cell) -> logs.LogGroup:
    """A log group. Logs are no data of the cell's: they go with its stack."""
    group = logs.LogGroup(scope, id, log_group_name=name, encryption_key=key, removal_policy=RemovalPolicy.DESTROY)
    # CDK knows the days only by the names of an enumeration.
    resource = group.node.default_child
    assert isinstance(resource, logs.CfnLogGroup)
    resource.retention_in_days = cell.log_retention_days
    return group

"""Backup: the records, and the series where AWS Backup knows it, daily, beside the table's point-in-time recovery.

AWS Backup does not know S3 Tables; their snapshots are Iceberg's own.
"""

from collections.abc import Sequence

from aws_cdk import RemovalPolicy
from aws_cdk import aws_backup as backup
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.common.iam import ENCRYPT_AND_DECRYPT, allow, arn, own_account, service_role, use_key
from infra.common.names import Names

RETENTION_DAYS = 35


class Backup(Construct):
    """A vault, a plan, and what the plan takes."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        key: kms.IKey,
        table_arn: str,
        others: Sequence[str],
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id)
        vault = backup.CfnBackupVault(self, "Vault", backup_vault_name=names.prefix, encryption_key_arn=key.key_arn)
        vault.apply_removal_policy(removal)
        plan = backup.CfnBackupPlan(
            self,
            "Plan",
            backup_plan=backup.CfnBackupPlan.BackupPlanResourceTypeProperty(
                backup_plan_name=names.prefix,
                backup_plan_rule=[
                    backup.CfnBackupPlan.BackupRuleResourceTypeProperty(
                        rule_name="daily",
                        target_backup_vault=vault.attr_backup_vault_name,
                        schedule_expression="cron(0 2 * * ? *)",
                        start_window_minutes=60,
                        completion_window_minutes=480,
                        lifecycle=backup.CfnBackupPlan.LifecycleResourceTypeProperty(delete_after_days=RETENTION_DAYS),
                    )
                ],
            ),
        )
        role = service_role(
            self,
            "backup.amazonaws.com",
            "AWS Backup reads what it backs up, and writes it to its vault",
            [
                # What AWSBackupServiceRolePolicyForBackup has for DynamoDB and Timestream, for this cell's alone.
                allow(
                    [
                        "dynamodb:CreateBackup",
                        "dynamodb:DescribeTable",
                        "dynamodb:ListTagsOfResource",
                        "dynamodb:StartAwsBackupJob",
                    ],
                    [table_arn],
                ),
                # Where the account has not opted in to AWS Backup's own format, DynamoDB keeps the backups.
                allow(["dynamodb:DeleteBackup", "dynamodb:DescribeBackup"], [f"{table_arn}/backup/*"]),
                *(_timestream(others, arn(self, "timestream", f"database/{names.prefix}")) if others else ()),
                allow(
                    ["backup:CopyIntoBackupVault", "backup:DescribeBackupVault"],
                    [arn(self, "backup", f"backup-vault:{names.prefix}")],
                ),
                allow(["backup:TagResource"], [arn(self, "backup", "recovery-point:*")]),
                use_key(key, ENCRYPT_AND_DECRYPT),
                allow(["kms:CreateGrant"], [key.key_arn], {"Bool": {"kms:GrantIsForAWSResource": "true"}}),
            ],
            {"StringEquals": own_account()},
        )
        backup.CfnBackupSelection(
            self,
            "Selection",
            backup_plan_id=plan.ref,
            backup_selection=backup.CfnBackupSelection.BackupSelectionResourceTypeProperty(
                selection_name=names.prefix, iam_role_arn=role.role_arn, resources=[table_arn, *others]
            ),
        )


def _timestream(tables: Sequence[str], databases: str) -> list[iam.PolicyStatement]:
    return [
        allow(
            [
                "timestream:DescribeTable",
                "timestream:GetAwsBackupStatus",
                "timestream:ListTagsForResource",
                "timestream:StartAwsBackupJob",
            ],
            tables,
        ),
        allow(["timestream:DescribeDatabase", "timestream:ListTables"], [databases]),
        allow(["timestream:DescribeEndpoints", "timestream:ListDatabases"], ["*"]),
    ]

"""Daily backups by AWS Backup, in addition to the table's point-in-time recovery.

They contain the records, and a Timestream series. AWS Backup does not support S3 Tables; Iceberg keeps its own
snapshots.
"""

from collections.abc import Sequence

from aws_cdk import RemovalPolicy
from aws_cdk import aws_backup as backup
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.common.iam import ENCRYPT_AND_DECRYPT, allow, arn, own_account, service_role, use_key
from infra.common.names import Names

BACKUP_RETENTION_DAYS = 35


class BackupPlan(Construct):
    """Backup vault, plan and selection."""

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
                        lifecycle=backup.CfnBackupPlan.LifecycleResourceTypeProperty(
                            delete_after_days=BACKUP_RETENTION_DAYS
                        ),
                    )
                ],
            ),
        )
        role = service_role(
            self,
            "backup.amazonaws.com",
            "AWS Backup reads the cell's tables and writes recovery points to its vault",
            [
                # The permissions of AWSBackupServiceRolePolicyForBackup for DynamoDB and Timestream, limited to this
                # cell's resources.
                allow(
                    [
                        "dynamodb:CreateBackup",
                        "dynamodb:DescribeTable",
                        "dynamodb:ListTagsOfResource",
                        "dynamodb:StartAwsBackupJob",
                    ],
                    [table_arn],
                ),
                # DynamoDB keeps the backups when the account has not opted in to AWS Backup's advanced features.
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

"""Customer-managed KMS keys of a cell: one for each group of readers, with key policies for AWS services.

A key's policy names the services that use it and otherwise delegates to IAM; each role's own policy allows its use of a
key.
"""

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.common.iam import DATA_KEYS, allow_service, arn, own_account
from infra.common.names import Names


class EncryptionKeys(Construct):
    """The four keys of a cell, with yearly rotation.

    - `messages`: event bus, stage topics, queues.
    - `records`: DynamoDB table, time series, backups.
    - `alerts`: severity topics.
    - `logs`: log groups. A reader of the logs does not need access to the invoices.
    """

    def __init__(self, scope: Construct, id: str, names: Names, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._names = names
        self._removal = removal
        self.messages = self._key("Messages", "Events in transit: bus, topics, queues")
        self.records = self._key("Records", "Invoices at rest: records, time series, backups")
        self.alerts = self._key("Alerts", "Alerts and alarms in transit: severity topics")
        self.logs = self._key("Logs", "Log groups")
        self._grant_message_services()
        self._grant_alert_services()
        self._grant_logs()

    def _key(self, id: str, description: str) -> kms.Key:
        return kms.Key(
            self,
            id,
            alias=f"alias/{self._names.prefix}-{id.lower()}",
            description=f"{description} (BEMS cell {self._names.cell})",
            enable_key_rotation=True,
            removal_policy=self._removal,
        )

    def _grant_message_services(self) -> None:
        # SNS encrypts messages for the queues it sends to, and EventBridge for its dead-letter queue. The encryption
        # context limits the grant to the cell's queues; the queue's own policy limits which topic or bus may send.
        queues = {"kms:EncryptionContext:aws:sqs:arn": arn(self, "sqs", f"{self._names.prefix}-*")}
        undelivered = {"kms:EncryptionContext:aws:sqs:arn": arn(self, "sqs", self._names.undelivered)}
        self.messages.add_to_resource_policy(
            allow_service("sns.amazonaws.com", DATA_KEYS, conditions={"StringLike": queues}, sid="TopicsToQueues")
        )
        self.messages.add_to_resource_policy(
            allow_service(
                "events.amazonaws.com", DATA_KEYS, conditions={"StringEquals": undelivered}, sid="Undelivered"
            )
        )

    def grant_classic_bus(self, bus_name: str) -> None:
        """Allow EventBridge to encrypt a classic bus and its archive with the messages key.

        Both use the bus's ARN as encryption context; the archive needs the two ReEncrypt actions. Source: EventBridge
        user guide, "Encrypting EventBridge event buses" and "Encrypting EventBridge archives".
        """
        bus = arn(self, "events", f"event-bus/{bus_name}")
        self.messages.add_to_resource_policy(
            allow_service("events.amazonaws.com", ["kms:DescribeKey"], conditions=None, sid="ClassicBusKnowsItsKey")
        )
        self.messages.add_to_resource_policy(
            allow_service(
                "events.amazonaws.com",
                [*DATA_KEYS, "kms:ReEncryptFrom", "kms:ReEncryptTo"],
                conditions={"StringEquals": {"kms:EncryptionContext:aws:events:event-bus:arn": bus}},
                sid="ClassicBusEncrypts",
            )
        )

    def grant_custom_bus(self, bus_name: str) -> None:
        """Allow EventBridge to encrypt a custom bus with the messages key.

        This is the third statement of the key policy in the EventBridge user guide, "Encrypting events on a Custom
        Event Bus". The first two are for principals of the account, which IAM policies allow here. The pattern ends in
        `*` because AWS generates the last part of the bus's ARN.
        """
        bus = arn(self, "events", f"event-busv2/{bus_name}/*")
        self.messages.add_to_resource_policy(
            allow_service(
                "events.amazonaws.com",
                [
                    "kms:Decrypt",
                    "kms:Encrypt",
                    "kms:GenerateDataKeyWithoutPlaintext",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                conditions={
                    "StringEquals": own_account(),
                    "StringLike": {"kms:EncryptionContext:aws:events:event-busv2:arn": bus},
                },
                sid="CustomBusEncrypts",
            )
        )

    def _grant_alert_services(self) -> None:
        # Without this grant, alarms fail silently to publish to an encrypted topic (CloudWatch user guide, "Notifying
        # users on alarm").
        self.alerts.add_to_resource_policy(
            allow_service(
                "cloudwatch.amazonaws.com", DATA_KEYS, conditions={"StringEquals": own_account()}, sid="AlarmsToTopics"
            )
        )

    def _grant_logs(self) -> None:
        # CloudWatch Logs user guide, "Encrypt log data in CloudWatch Logs using AWS KMS".
        groups = arn(self, "logs", "log-group:*")
        self.logs.add_to_resource_policy(
            allow_service(
                f"logs.{Stack.of(self).region}.amazonaws.com",
                [
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:Encrypt",
                    "kms:GenerateDataKey",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": groups}},
                sid="LogGroups",
            )
        )

    def grant_table_maintenance(self) -> None:
        """Allow S3 Tables to maintain the table bucket with the records key."""
        # Without this grant nothing reports an error, but compaction and snapshot expiry stop (S3 user guide,
        # "Permission requirements for S3 Tables SSE-KMS encryption").
        bucket = arn(self, "s3tables", f"bucket/{self._names.prefix}-series/*")
        self.records.add_to_resource_policy(
            allow_service(
                "maintenance.s3tables.amazonaws.com",
                DATA_KEYS,
                conditions={
                    "StringEquals": own_account(),
                    "StringLike": {"kms:EncryptionContext:aws:s3:arn": bucket},
                },
                sid="TableMaintenance",
            )
        )

"""Keys: one customer-managed key per kind of reader, rotated, each with the grants that its services need.

Roles get their use of a key in their own policies; a key's policy names services and leaves the rest to IAM.
"""

from aws_cdk import Aws, RemovalPolicy, Stack
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.common.iam import allow_service, arn, own_account
from infra.common.names import Names

_DATA = ("kms:Decrypt", "kms:GenerateDataKey")


class Keys(Construct):
    """`messages` for buses, topics and queues, `records` for the table and the time series, `alerts` for the severity
    topics, `logs` for log groups: who may read the logs need not be able to read the invoices."""

    def __init__(self, scope: Construct, id: str, names: Names, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._names = names
        self._removal = removal
        self.messages = self._key("Messages", "Events on their way: bus, topics, queues")
        self.records = self._key("Records", "Invoices at rest: records, time series, backups")
        self.alerts = self._key("Alerts", "Alerts on their way to people")
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
        # SNS encrypts for the queue that it sends to, EventBridge for the queue of what it could not deliver. Which
        # queue is said by the encryption context of SQS; whose, by the queue's own policy.
        queues = {"kms:EncryptionContext:aws:sqs:arn": arn(self, "sqs", f"{self._names.prefix}-*")}
        undelivered = {"kms:EncryptionContext:aws:sqs:arn": arn(self, "sqs", self._names.undelivered)}
        self.messages.add_to_resource_policy(
            allow_service("sns.amazonaws.com", _DATA, conditions={"StringLike": queues}, sid="TopicsToQueues")
        )
        self.messages.add_to_resource_policy(
            allow_service("events.amazonaws.com", _DATA, conditions={"StringEquals": undelivered}, sid="Undelivered")
        )

    def grant_classic_bus(self, bus_name: str) -> None:
        """EventBridge user guide, "Encrypting EventBridge event buses" and "Encrypting EventBridge archives": both have
        the bus as their context; it is the archive that encrypts anew."""
        bus = arn(self, "events", f"event-bus/{bus_name}")
        self.messages.add_to_resource_policy(
            allow_service("events.amazonaws.com", ["kms:DescribeKey"], conditions=None, sid="ClassicBusKnowsItsKey")
        )
        self.messages.add_to_resource_policy(
            allow_service(
                "events.amazonaws.com",
                [*_DATA, "kms:ReEncryptFrom", "kms:ReEncryptTo"],
                conditions={"StringEquals": {"kms:EncryptionContext:aws:events:event-bus:arn": bus}},
                sid="ClassicBusEncrypts",
            )
        )

    def grant_custom_bus(self, bus_name: str) -> None:
        """EventBridge user guide, "Encrypting events on a Custom Event Bus", third statement of its key policy; the
        first two are for the account's own principals, which IAM answers for. The bus's ARN ends in what only AWS
        knows."""
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
        # An alarm whose topic it cannot encrypt for fails in silence. (CloudWatch user guide, "Notifying users on
        # alarm".)
        self.alerts.add_to_resource_policy(
            allow_service(
                "cloudwatch.amazonaws.com", _DATA, conditions={"StringEquals": own_account()}, sid="AlarmsToTopics"
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
        """For an S3 table bucket."""
        # Without it nothing fails: compaction and snapshot expiry stop. (S3 user guide, "Permission requirements for S3
        # Tables SSE-KMS encryption".)
        bucket = arn(self, "s3tables", f"bucket/{self._names.prefix}-series/*")
        self.records.add_to_resource_policy(
            allow_service(
                "maintenance.s3tables.amazonaws.com",
                _DATA,
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "StringLike": {"kms:EncryptionContext:aws:s3:arn": bucket},
                },
                sid="TableMaintenance",
            )
        )

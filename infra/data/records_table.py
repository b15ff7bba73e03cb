"""DynamoDB table of invoice records, the source of truth, with the index by which the sweep finds due invoices."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.common.names import Names
from infra.common.removal import RETAIN_ON_UPDATE_OR_DELETE

CHECKS_INDEX = "checks"
"""Name of the sparse, sharded index on (check_shard, check_at)."""


class RecordsTable(Construct):
    """On-demand table with one item for each invoice, and a stream of every change."""

    def __init__(self, scope: Construct, id: str, names: Names, key: kms.IKey, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self.table = dynamodb.Table(
            self,
            "Table",
            table_name=f"{names.prefix}-records",
            partition_key=dynamodb.Attribute(name="invoice_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            stream=dynamodb.StreamViewType.NEW_IMAGE,
            # It stops CloudFormation too: the rollback of a failed first deployment cannot delete the table (deployment
            # guide, "One cell").
            deletion_protection=removal == RETAIN_ON_UPDATE_OR_DELETE,
            removal_policy=removal,
        )
        # Sharded because one partition key accepts about 1,000 writes a second; beyond that, the index would throttle
        # writes to the table.
        self.table.add_global_secondary_index(
            index_name=CHECKS_INDEX,
            partition_key=dynamodb.Attribute(name="check_shard", type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name="check_at", type=dynamodb.AttributeType.NUMBER),
            projection_type=dynamodb.ProjectionType.KEYS_ONLY,
        )

    @property
    def index_arn(self) -> str:
        return f"{self.table.table_arn}/index/{CHECKS_INDEX}"

    @property
    def stream_arn(self) -> str:
        stream = self.table.table_stream_arn
        assert stream is not None
        return stream

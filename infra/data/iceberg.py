"""Time series as an Iceberg table in S3 Tables."""

from collections.abc import Iterable, Mapping

from aws_cdk import Aws, CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3tables as s3tables
from constructs import Construct

from bems.tracker.columns import Column
from bems.tracker.time_series_schema import SERIES_COLUMNS
from infra.common.iam import DATA_KEYS, WRITE_OBJECTS, WRITE_TABLE, allow, arn, service_role, use_key
from infra.common.names import Names
from infra.common.profile import Profile
from infra.data.timestream import SERIES_TABLE

TABLE_NAMESPACE = "bems"

BUFFER_SECONDS = 30
"""How long Firehose buffers rows, as part of the two minutes within which a row must be visible."""

BUFFER_MEGABYTES = 64

ERROR_RETENTION_DAYS = 90

CREATED_COLUMNS = 31
"""Number of columns that the table is created with: those of version 0.1.0, in every later version too.

CloudFormation replaces a table whose schema changes ("Update requires: Replacement", template reference of
`AWS::S3Tables::Table`), so the template's schema never changes. A statement adds the later columns to the table, which
changes only its metadata. That is no drift, because CloudFormation cannot read the schema (it is write-only).
"""

ADDED_COLUMNS = ((32, 42),)
"""First and last number of the columns that each later version adds. Append to it only: deployed tables have them."""

_ATHENA_TYPES = {"long": "bigint"}
"""Athena's names of the types that it names differently than Iceberg does (user guide, "Supported data types for
Iceberg tables in Athena")."""


class IcebergSeries(Construct):
    """A table in S3 Tables, written by Firehose and queried by Athena and QuickSight.

    The account's S3 Tables must be integrated with its Glue Data Catalog, with access controlled by IAM, once per
    account and Region (Glue developer guide, "Integrating with Amazon S3 Tables").

    The outputs `AddColumns...` of the stack are statements for Athena, to run once each on a new table, and on a
    deployed table before the version that writes the columns. No deployment runs them, so none can fail by them.
    Firehose ignores a value whose column the table lacks (developer guide, "Considerations and limitations"): without
    the statement, the rows are complete except for these columns.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        key: kms.IKey,
        log_group: logs.ILogGroup,
        removal: RemovalPolicy,
        profile: Profile,
    ) -> None:
        super().__init__(scope, id)
        self.stream_name = f"{names.prefix}-{SERIES_TABLE}"
        bucket = self._table_bucket(f"{names.prefix}-series", key, removal, profile)
        errors = s3.Bucket(
            self,
            "Errors",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    expiration=Duration.days(ERROR_RETENTION_DAYS),
                    # Parts of incomplete uploads are billed, but appear in no listing.
                    abort_incomplete_multipart_upload_after=Duration.days(7),
                )
            ],
            removal_policy=removal,
        )
        catalog = f"catalog/s3tablescatalog/{names.prefix}-series"
        log_stream = logs.LogStream(
            self, "LogStream", log_group=log_group, log_stream_name="delivery", removal_policy=RemovalPolicy.DESTROY
        )
        role = service_role(
            self,
            "firehose.amazonaws.com",
            "Firehose writes transitions to their Iceberg table",
            [
                *self._delivery_statements(catalog, names, errors, key),
                allow(["logs:PutLogEvents"], [log_group.log_group_arn]),
            ],
            # Firehose passes the account on whose behalf it acts as external id (developer guide, "Allow Firehose to
            # assume an IAM role").
            {"StringEquals": {"sts:ExternalId": Aws.ACCOUNT_ID}},
        )
        self._stream = firehose.CfnDeliveryStream(
            self,
            "Stream",
            delivery_stream_name=self.stream_name,
            delivery_stream_type="DirectPut",
            delivery_stream_encryption_configuration_input=firehose.CfnDeliveryStream.DeliveryStreamEncryptionConfigurationInputProperty(
                key_type="CUSTOMER_MANAGED_CMK", key_arn=key.key_arn
            ),
            iceberg_destination_configuration=firehose.CfnDeliveryStream.IcebergDestinationConfigurationProperty(
                role_arn=role.role_arn,
                # Rows are never updated. A row that is delivered twice has the same transition_id, by which queries
                # remove duplicates.
                append_only=True,
                catalog_configuration=firehose.CfnDeliveryStream.CatalogConfigurationProperty(
                    catalog_arn=arn(self, "glue", catalog)
                ),
                destination_table_configuration_list=[
                    firehose.CfnDeliveryStream.DestinationTableConfigurationProperty(
                        destination_database_name=TABLE_NAMESPACE,
                        destination_table_name=SERIES_TABLE,
                        s3_error_output_prefix="refused/",
                    )
                ],
                buffering_hints=firehose.CfnDeliveryStream.BufferingHintsProperty(
                    interval_in_seconds=BUFFER_SECONDS, size_in_m_bs=BUFFER_MEGABYTES
                ),
                retry_options=firehose.CfnDeliveryStream.RetryOptionsProperty(duration_in_seconds=3600),
                s3_backup_mode="FailedDataOnly",
                s3_configuration=firehose.CfnDeliveryStream.S3DestinationConfigurationProperty(
                    bucket_arn=errors.bucket_arn,
                    role_arn=role.role_arn,
                    error_output_prefix="errors/",
                    compression_format="GZIP",
                ),
                cloud_watch_logging_options=firehose.CfnDeliveryStream.CloudWatchLoggingOptionsProperty(
                    enabled=True, log_group_name=log_group.log_group_name, log_stream_name=log_stream.log_stream_name
                ),
            ),
        )
        self._stream.add_resource_dependency(bucket)
        for first, last in ADDED_COLUMNS:
            CfnOutput(
                Stack.of(self),
                f"AddColumns{first}",
                description=f"Statement for Athena that adds columns {first} to {last} to the time series, to run once",
                value=build_alter_statement(SERIES_COLUMNS[first - 1 : last]),
            )

    def write_statements(self) -> list[iam.PolicyStatement]:
        return [allow(["firehose:PutRecordBatch"], [self._stream.attr_arn])]

    def environment(self) -> Mapping[str, str]:
        return {"BEMS_TIME_SERIES": "s3tables", "BEMS_DELIVERY_STREAM": self.stream_name}

    def backup_arns(self) -> list[str]:
        return []

    def _table_bucket(self, name: str, key: kms.IKey, removal: RemovalPolicy, profile: Profile) -> s3tables.CfnTable:
        bucket = s3tables.CfnTableBucket(
            self,
            "Bucket",
            table_bucket_name=name,
            encryption_configuration=s3tables.CfnTableBucket.EncryptionConfigurationProperty(
                sse_algorithm="aws:kms", kms_key_arn=key.key_arn
            ),
            unreferenced_file_removal=s3tables.CfnTableBucket.UnreferencedFileRemovalProperty(
                status="Enabled", unreferenced_days=3, noncurrent_days=10
            ),
        )
        namespace = s3tables.CfnNamespace(
            self, "Namespace", namespace=TABLE_NAMESPACE, table_bucket_arn=bucket.attr_table_bucket_arn
        )
        (recorded_at,) = (column for column in SERIES_COLUMNS if column.name == "recorded_at")
        table = s3tables.CfnTable(
            self,
            "Table",
            table_bucket_arn=bucket.attr_table_bucket_arn,
            namespace=TABLE_NAMESPACE,
            table_name=SERIES_TABLE,
            open_table_format="ICEBERG",
            iceberg_metadata=s3tables.CfnTable.IcebergMetadataProperty(
                iceberg_schema=s3tables.CfnTable.IcebergSchemaProperty(
                    schema_field_list=[
                        s3tables.CfnTable.SchemaFieldProperty(
                            id=column.number, name=column.name, type=column.type.iceberg, required=column.required
                        )
                        for column in SERIES_COLUMNS[:CREATED_COLUMNS]
                    ]
                ),
                iceberg_partition_spec=s3tables.CfnTable.IcebergPartitionSpecProperty(
                    fields=[
                        s3tables.CfnTable.IcebergPartitionFieldProperty(
                            name="recorded_day", source_id=recorded_at.number, transform="day"
                        )
                    ]
                ),
            ),
        )
        table.add_resource_dependency(namespace)
        if profile.table_policy:
            _require_tls(bucket)
        for resource in (bucket, namespace, table):
            resource.apply_removal_policy(removal)
        return table

    def _delivery_statements(
        self, catalog: str, names: Names, errors: s3.Bucket, key: kms.IKey
    ) -> list[iam.PolicyStatement]:
        """Return the statements that Firehose needs to write the table, and rejected rows to the error bucket.

        Source: Firehose developer guide, "Grant Firehose access to Amazon S3 Tables", and S3 user guide, "Access
        management for S3 Tables", with this cell's names instead of the guides' wildcards where possible.
        """
        tables = arn(self, "s3tables", f"bucket/{names.prefix}-series")
        inside = f"s3tablescatalog/{names.prefix}-series/{TABLE_NAMESPACE}"
        return [
            allow(
                ["glue:GetDatabase", "glue:GetTable", "glue:UpdateTable"],
                [
                    arn(self, "glue", "catalog"),
                    arn(self, "glue", "catalog/s3tablescatalog"),
                    arn(self, "glue", catalog),
                    arn(self, "glue", f"database/{inside}"),
                    arn(self, "glue", f"table/{inside}/{SERIES_TABLE}"),
                ],
            ),
            allow(["s3tables:GetNamespace", "s3tables:GetTableBucket"], [tables]),
            allow(WRITE_TABLE, [f"{tables}/table/*"]),
            allow(["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"], [errors.bucket_arn]),
            allow(WRITE_OBJECTS, [f"{errors.bucket_arn}/*"]),
            use_key(key, DATA_KEYS),
        ]


def build_alter_statement(columns: Iterable[Column]) -> str:
    """Return the statement that adds columns to the table. They are optional, because older rows lack them."""
    added = ", ".join(f"`{one.name}` {_ATHENA_TYPES.get(one.type.iceberg, one.type.iceberg)}" for one in columns)
    return f"ALTER TABLE {SERIES_TABLE} ADD COLUMNS ({added})"


def _require_tls(bucket: s3tables.CfnTableBucket) -> None:
    """Deny requests without TLS, as the cell's other resources do.

    S3 Tables itself only redirects plain HTTP (S3 user guide, "Security considerations and limitations for S3 Tables").
    """
    arn = bucket.attr_table_bucket_arn
    denial = iam.PolicyStatement(
        sid="TlsOnly",
        effect=iam.Effect.DENY,
        principals=[iam.StarPrincipal()],
        actions=["s3tables:*"],
        resources=[arn, f"{arn}/*"],
        conditions={"Bool": {"aws:SecureTransport": "false"}},
    )
    s3tables.CfnTableBucketPolicy(
        bucket,
        "Policy",
        table_bucket_arn=arn,
        resource_policy=iam.PolicyDocument(statements=[denial]),
    )

"""The Iceberg series: a table in S3 Tables, filled by Firehose, for Athena and QuickSight."""

from collections.abc import Mapping

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3tables as s3tables
from constructs import Construct

from bems.tracker.time_series_schema import COLUMNS
from infra.common.iam import allow, arn, service_role, use_key
from infra.common.names import Names
from infra.common.profile import Profile
from infra.data.timestream import TABLE

NAMESPACE = "bems"

BUFFER_SECONDS = 30
"""How long Firehose gathers rows: of the two minutes within which they must be visible."""

BUFFER_MEGABYTES = 64

ERROR_RETENTION_DAYS = 90


class IcebergSeries(Construct):
    """A table in S3 Tables that Firehose fills, for Athena and QuickSight.

    The account's S3 Tables must be integrated with its Glue Data Catalog, in the mode that IAM decides: once per
    account and Region, not per cell. (Glue developer guide, "Integrating with Amazon S3 Tables".)
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
        self.stream_name = f"{names.prefix}-{TABLE}"
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
                    # Parts of an upload that never ended are billed, and listed nowhere.
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
            "Firehose writes transitions into their table",
            [*self._delivering(catalog, names, errors, key), allow(["logs:PutLogEvents"], [log_group.log_group_arn])],
            # Firehose tells for whom it comes by this key (developer guide, "Allow Firehose to assume an IAM role").
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
                # Rows are never changed. One that comes twice has the same transition_id: queries tell.
                append_only=True,
                catalog_configuration=firehose.CfnDeliveryStream.CatalogConfigurationProperty(
                    catalog_arn=arn(self, "glue", catalog)
                ),
                destination_table_configuration_list=[
                    firehose.CfnDeliveryStream.DestinationTableConfigurationProperty(
                        destination_database_name=NAMESPACE,
                        destination_table_name=TABLE,
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
            self, "Namespace", namespace=NAMESPACE, table_bucket_arn=bucket.attr_table_bucket_arn
        )
        table = s3tables.CfnTable(
            self,
            "Table",
            table_bucket_arn=bucket.attr_table_bucket_arn,
            namespace=NAMESPACE,
            table_name=TABLE,
            open_table_format="ICEBERG",
            iceberg_metadata=s3tables.CfnTable.IcebergMetadataProperty(
                iceberg_schema=s3tables.CfnTable.IcebergSchemaProperty(
                    schema_field_list=[
                        s3tables.CfnTable.SchemaFieldProperty(
                            id=number, name=column.name, type=column.type, required=column.required
                        )
                        for number, column in enumerate(COLUMNS, start=1)
                    ]
                ),
                iceberg_partition_spec=s3tables.CfnTable.IcebergPartitionSpecProperty(
                    fields=[
                        s3tables.CfnTable.IcebergPartitionFieldProperty(
                            name="recorded_day", source_id=_number("recorded_at"), transform="day"
                        )
                    ]
                ),
            ),
        )
        table.add_resource_dependency(namespace)
        if profile.table_policy:
            _take_nothing_without_tls(bucket)
        for resource in (bucket, namespace, table):
            resource.apply_removal_policy(removal)
        return table

    def _delivering(self, catalog: str, names: Names, errors: s3.Bucket, key: kms.IKey) -> list[iam.PolicyStatement]:
        """Firehose developer guide, "Grant Firehose access to Amazon S3 Tables", and S3 user guide, "Access management
        for S3 Tables", with the names of this cell in place of the wildcards where it has them."""
        tables = arn(self, "s3tables", f"bucket/{names.prefix}-series")
        inside = f"s3tablescatalog/{names.prefix}-series/{NAMESPACE}"
        return [
            allow(
                ["glue:GetDatabase", "glue:GetTable", "glue:UpdateTable"],
                [
                    arn(self, "glue", "catalog"),
                    arn(self, "glue", "catalog/s3tablescatalog"),
                    arn(self, "glue", catalog),
                    arn(self, "glue", f"database/{inside}"),
                    arn(self, "glue", f"table/{inside}/{TABLE}"),
                ],
            ),
            allow(["s3tables:GetNamespace", "s3tables:GetTableBucket"], [tables]),
            allow(
                [
                    "s3tables:GetTable",
                    "s3tables:GetTableData",
                    "s3tables:GetTableMetadataLocation",
                    "s3tables:PutTableData",
                    "s3tables:UpdateTableMetadataLocation",
                ],
                [f"{tables}/table/*"],
            ),
            allow(["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"], [errors.bucket_arn]),
            allow(["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], [f"{errors.bucket_arn}/*"]),
            use_key(key, ["kms:Decrypt", "kms:GenerateDataKey"]),
        ]


def _take_nothing_without_tls(bucket: s3tables.CfnTableBucket) -> None:
    """S3 Tables redirects plain HTTP (user guide, "Security considerations and limitations for S3 Tables"); this
    refuses it, as everything else here does."""
    arn = bucket.attr_table_bucket_arn
    refusal = iam.PolicyStatement(
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
        resource_policy=iam.PolicyDocument(statements=[refusal]),
    )


def _number(column: str) -> int:
    return [one.name for one in COLUMNS].index(column) + 1

"""Time series of transitions, written by the recorder and read by dashboards.

The cell's `time_series` setting selects the implementation: Timestream, in this module, or S3 Tables, in
`infra.data.iceberg`.
"""

from collections.abc import Mapping
from typing import Protocol

from aws_cdk import RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_timestream as timestream
from constructs import Construct

from infra.common.iam import allow
from infra.common.names import Names

SERIES_TABLE = "transitions"

MEMORY_HOURS = 24
"""Retention of the memory store. Older rows are written to and read from the magnetic store."""

MAGNETIC_DAYS = 10 * 365
"""Retention of the magnetic store. The series is the audit trail; most countries require invoices to be kept for ten
years."""


class SeriesConstruct(Protocol):
    """A time series that the recorder can write to."""

    def write_statements(self) -> list[iam.PolicyStatement]:
        """Return the permissions that the recorder needs to write rows."""
        ...

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that tell the recorder where to write."""
        ...

    def backup_arns(self) -> list[str]:
        """Return the ARNs of resources that AWS Backup can back up."""
        ...


class TimestreamSeries(Construct):
    """Table in Timestream for LiveAnalytics, which accepts no new customers."""

    def __init__(self, scope: Construct, id: str, names: Names, key: kms.IKey, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._database = timestream.CfnDatabase(self, "Database", database_name=names.prefix, kms_key_id=key.key_id)
        self._table = timestream.CfnTable(
            self,
            "Table",
            database_name=names.prefix,
            table_name=SERIES_TABLE,
            retention_properties={
                "MemoryStoreRetentionPeriodInHours": str(MEMORY_HOURS),
                "MagneticStoreRetentionPeriodInDays": str(MAGNETIC_DAYS),
            },
            # Accepts rows that are older than the memory store's retention.
            magnetic_store_write_properties={"EnableMagneticStoreWrites": True},
            # Keeps the history of an invoice in one partition.
            schema=timestream.CfnTable.SchemaProperty(
                composite_partition_key=[
                    timestream.CfnTable.PartitionKeyProperty(
                        type="DIMENSION", name="invoice_id", enforcement_in_record="REQUIRED"
                    )
                ]
            ),
        )
        self._table.add_resource_dependency(self._database)
        self._database.apply_removal_policy(removal)
        self._table.apply_removal_policy(removal)

    def write_statements(self) -> list[iam.PolicyStatement]:
        return [
            allow(["timestream:WriteRecords"], [self._table.attr_arn]),
            # Clients look up the write endpoint first; the action supports no resource-level permissions (service
            # authorization reference).
            allow(["timestream:DescribeEndpoints"], ["*"]),
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "BEMS_TIME_SERIES": "timestream",
            "BEMS_DATABASE": self._table.database_name,
            "BEMS_TIME_TABLE": SERIES_TABLE,
        }

    def backup_arns(self) -> list[str]:
        return [self._table.attr_arn]

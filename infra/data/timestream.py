"""The time series: where the recorder writes every transition, and dashboards read. One of two, by the cell's
setting: Timestream, here, or a table in `iceberg`."""

from collections.abc import Mapping
from typing import Protocol

from aws_cdk import RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_timestream as timestream
from constructs import Construct

from infra.common.iam import allow
from infra.common.names import Names

TABLE = "transitions"

MEMORY_HOURS = 24
"""How late a row may come and still be queried from memory."""

MAGNETIC_DAYS = 10 * 365
"""The series is the audit trail. Ten years are what most countries ask of invoices."""


class TimeSeries(Protocol):
    """What the recorder needs to know."""

    def write_statements(self) -> list[iam.PolicyStatement]:
        """What a recorder must be allowed."""
        ...

    def environment(self) -> Mapping[str, str]:
        """Where it is told to write."""
        ...

    def backup_arns(self) -> list[str]:
        """The ARNs of what AWS Backup can take."""
        ...


class TimestreamSeries(Construct):
    """Timestream for LiveAnalytics, which takes no new customers."""

    def __init__(self, scope: Construct, id: str, names: Names, key: kms.IKey, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._database = timestream.CfnDatabase(self, "Database", database_name=names.prefix, kms_key_id=key.key_id)
        self._table = timestream.CfnTable(
            self,
            "Table",
            database_name=names.prefix,
            table_name=TABLE,
            retention_properties={
                "MemoryStoreRetentionPeriodInHours": str(MEMORY_HOURS),
                "MagneticStoreRetentionPeriodInDays": str(MAGNETIC_DAYS),
            },
            # A row that comes later than memory keeps is written all the same.
            magnetic_store_write_properties={"EnableMagneticStoreWrites": True},
            # One invoice's history is read from one partition.
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
            # Where to write is asked first; the action knows no resource (service authorization reference).
            allow(["timestream:DescribeEndpoints"], ["*"]),
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "BEMS_TIME_SERIES": "timestream",
            "BEMS_DATABASE": self._table.database_name,
            "BEMS_TIME_TABLE": TABLE,
        }

    def backup_arns(self) -> list[str]:
        return [self._table.attr_arn]

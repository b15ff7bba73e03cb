"""Tests of the records table, time series, backups, state machine, and what is retained."""

import json
import re
from pathlib import Path

from bems.tracker.columns import AMOUNT, BOOLEAN, INT, LONG, TIMESTAMP, Column
from bems.tracker.time_series_schema import SERIES_COLUMNS
from infra.data.iceberg import build_alter_statement
from tests.infra.template import Template

ROOT = Path(__file__).resolve().parents[3]


def test_the_records_table_has_its_index_stream_and_protection(cell: Template) -> None:
    table = cell.only("AWS::DynamoDB::Table")
    assert table["TableName"] == f"{cell.name}-records"
    assert table["KeySchema"] == [{"AttributeName": "invoice_id", "KeyType": "HASH"}]
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["StreamSpecification"] == {"StreamViewType": "NEW_IMAGE"}
    assert table["DeletionProtectionEnabled"] is True
    assert table["GlobalSecondaryIndexes"] == [
        {
            "IndexName": "checks",
            "KeySchema": [
                {"AttributeName": "check_shard", "KeyType": "HASH"},
                {"AttributeName": "check_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
    ]
    assert {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]} == {
        "invoice_id": "S",
        "check_shard": "S",
        "check_at": "N",
    }


def test_timestream_accepts_late_rows_and_keeps_rows_for_ten_years(fifo: Template) -> None:
    table = fifo.only("AWS::Timestream::Table")
    assert table["RetentionProperties"] == {
        "MemoryStoreRetentionPeriodInHours": "24",
        "MagneticStoreRetentionPeriodInDays": "3650",
    }
    assert table["MagneticStoreWriteProperties"] == {"EnableMagneticStoreWrites": True}
    assert table["DatabaseName"] == fifo.only("AWS::Timestream::Database")["DatabaseName"]
    assert fifo.only("AWS::Timestream::Database")["KmsKeyId"] == "<Keys/Records>"
    assert fifo.by_type("AWS::KinesisFirehose::DeliveryStream") == {}


TABLE = ROOT / "tests" / "infra" / "data" / "table-0.1.0.json"
"""The table as 0.1.0 deployed it: its logical id and its properties."""

ADDED = {
    "AddColumns32": "ALTER TABLE transitions ADD COLUMNS (`number` string, `issue_date` string, `buyer` string, "
    "`actor` string, `actor_kind` string, `reason` string, `paid_on` string, `paid_amount` string, "
    "`discount_taken` string, `first_deadline` timestamp, `next_first_deadline` timestamp)",
}
"""Statements that deployed tables have run. A later version appends one and changes none."""


def test_no_version_changes_the_iceberg_table(standard: Template) -> None:
    """CloudFormation would replace it by an empty one."""
    tables = {
        id: resource["Properties"]
        for id, resource in standard.raw["Resources"].items()
        if resource["Type"] == "AWS::S3Tables::Table"
    }
    assert json.dumps(tables, sort_keys=True) == json.dumps(json.loads(TABLE.read_text()), sort_keys=True)


def test_the_iceberg_table_is_partitioned_by_day_and_encrypted(standard: Template) -> None:
    table = standard.only("AWS::S3Tables::Table")
    fields = table["IcebergMetadata"]["IcebergSchema"]["SchemaFieldList"]
    (partition,) = table["IcebergMetadata"]["IcebergPartitionSpec"]["Fields"]
    assert partition["Transform"] == "day"
    assert [one["Name"] for one in fields if one["Id"] == partition["SourceId"]] == ["recorded_at"]
    bucket = standard.only("AWS::S3Tables::TableBucket")
    assert bucket["EncryptionConfiguration"] == {"SSEAlgorithm": "aws:kms", "KMSKeyArn": "<Keys/Records>"}


def test_statements_add_the_columns_that_the_table_is_created_without(standard: Template, fifo: Template) -> None:
    outputs = {id: output["Value"] for id, output in standard.raw["Outputs"].items() if id.startswith("AddColumns")}
    assert outputs == ADDED
    assert not [id for id in fifo.raw["Outputs"] if id.startswith("AddColumns")]


def test_every_column_of_the_series_is_in_the_table_or_added_by_one_statement(standard: Template) -> None:
    fields = standard.only("AWS::S3Tables::Table")["IcebergMetadata"]["IcebergSchema"]["SchemaFieldList"]
    created = [(one["Name"], one["Type"]) for one in fields]
    added = [column for statement in ADDED.values() for column in re.findall(r"`(\w+)` (\w+)", statement)]
    columns = [(column.name, column.type.iceberg.replace("long", "bigint")) for column in SERIES_COLUMNS]
    assert [(name, type.replace("long", "bigint")) for name, type in created] + added == columns
    # Iceberg numbers an added column after the last one.
    assert [column.number for column in SERIES_COLUMNS] == list(range(1, len(columns) + 1))
    # A table that has rows cannot get required columns.
    assert not [column.name for column in SERIES_COLUMNS[len(created) :] if column.required]
    # The Glue Data Catalog accepts only lower-case names.
    assert all(name == name.lower() for name, _ in columns)


def test_a_statement_has_athenas_names_of_the_types() -> None:
    columns = [Column(1, type, "", name=f"c{n}") for n, type in enumerate((LONG, INT, BOOLEAN, TIMESTAMP, AMOUNT))]
    assert build_alter_statement(columns) == (
        "ALTER TABLE transitions ADD COLUMNS (`c0` bigint, `c1` int, `c2` boolean, `c3` timestamp, `c4` string)"
    )


def test_firehose_delivers_within_a_minute_and_keeps_failed_rows(standard: Template) -> None:
    stream = standard.only("AWS::KinesisFirehose::DeliveryStream")
    into = stream["IcebergDestinationConfiguration"]
    assert into["BufferingHints"]["IntervalInSeconds"] <= 60
    catalog = "arn:aws:glue:us-east-1:<AccountId>:catalog/s3tablescatalog/bems-us-east-series"
    assert into["CatalogConfiguration"] == {"CatalogArn": catalog}
    assert standard.only("AWS::S3Tables::TableBucket")["TableBucketName"] == catalog.rsplit("/", 1)[1]
    (destination,) = into["DestinationTableConfigurationList"]
    table = standard.only("AWS::S3Tables::Table")
    assert destination["DestinationDatabaseName"] == table["Namespace"]
    assert destination["DestinationTableName"] == table["TableName"]
    assert into["s3BackupMode"] == "FailedDataOnly"
    assert into["S3Configuration"]["BucketARN"] == "<Series/Errors>"
    (rule,) = standard.at("Series/Errors")["LifecycleConfiguration"]["Rules"]
    assert rule["ExpirationInDays"] == 90
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert into["CloudWatchLoggingOptions"]["Enabled"] is True
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {
        "KeyType": "CUSTOMER_MANAGED_CMK",
        "KeyARN": "<Keys/Records>",
    }


def test_daily_backups_contain_every_table_that_aws_backup_supports(fifo: Template, standard: Template) -> None:
    for cell, series in ((fifo, ["<Series/Table>"]), (standard, [])):
        (rule,) = cell.only("AWS::Backup::BackupPlan")["BackupPlan"]["BackupPlanRule"]
        assert rule["ScheduleExpression"] == "cron(0 2 * * ? *)"
        assert rule["Lifecycle"] == {"DeleteAfterDays": 35}
        selected = cell.only("AWS::Backup::BackupSelection")["BackupSelection"]["Resources"]
        assert selected == ["<Records/Table>", *series]


def test_the_state_machine_has_the_same_definition_as_the_embedded_cell(cell: Template) -> None:
    machine = cell.only("AWS::StepFunctions::StateMachine")
    definition = json.loads((ROOT / "statemachines" / "invoice_lifecycle.asl.json").read_text())
    assert json.loads(machine["DefinitionString"]) == definition
    assert machine["DefinitionSubstitutions"] == {
        "RegisterWaitFunction": "<Functions/RegisterWait/Live>",
        "EscalateFunction": "<Functions/Escalate/Function>",
    }
    assert machine["StateMachineName"] == f"{cell.name}-invoice-lifecycle"
    assert machine["StateMachineType"] == "STANDARD"
    logging = machine["LoggingConfiguration"]
    assert (logging["Level"], logging["IncludeExecutionData"]) == ("ERROR", False)
    assert machine["TracingConfiguration"] == {"Enabled": True}


HOLD_DATA = (
    "AWS::Backup::BackupVault",
    "AWS::DynamoDB::Table",
    "AWS::KMS::Key",
    "AWS::S3::Bucket",
    "AWS::S3Tables::Namespace",
    "AWS::S3Tables::Table",
    "AWS::S3Tables::TableBucket",
    "AWS::SQS::Queue",
    "AWS::Timestream::Database",
    "AWS::Timestream::Table",
)


def test_data_is_retained_unless_the_deployment_that_created_it_fails(cell: Template) -> None:
    kept = {path for type in HOLD_DATA for path in cell.by_type(type)}
    assert len(cell.by_type("AWS::SQS::Queue")) == 10
    for path in kept:
        resource = cell.resource_at(path)
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain"), path
    others = {
        cell.paths[id]
        for id, resource in cell.raw["Resources"].items()
        if resource.get("DeletionPolicy", "Delete") != "Delete"
    }
    # These belong to the account, not to the cell.
    assert others - kept == {"Api/LoggingRole", "Api/Account"}

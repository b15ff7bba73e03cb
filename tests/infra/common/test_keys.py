"""Tests of the key policies. A missing grant silently stops events or alarms; an extra grant exposes data."""

from typing import Any

from tests.infra.template import Template

ROOT = {"Action": "kms:*", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::<AccountId>:root"}, "Resource": "*"}
DATA = ["kms:Decrypt", "kms:GenerateDataKey"]
OWN_ACCOUNT = {"aws:SourceAccount": "<AccountId>"}


def grants(cell: Template, key: str) -> dict[str, tuple[Any, ...]]:
    """Return service, actions and condition of a key's statements for services, by Sid."""
    first, *others = cell.at(f"Keys/{key}")["KeyPolicy"]["Statement"]
    assert first == ROOT
    for statement in others:
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] == "*"
    return {
        statement["Sid"]: (statement["Principal"]["Service"], statement["Action"], statement.get("Condition"))
        for statement in others
    }


def test_keys_are_rotated_and_retained_with_the_data(cell: Template) -> None:
    keys = cell.by_type("AWS::KMS::Key")
    assert set(keys) == {"Keys/Messages", "Keys/Records", "Keys/Alerts", "Keys/Logs"}
    for path, key in keys.items():
        assert key["EnableKeyRotation"] is True
        assert cell.resource_at(path)["DeletionPolicy"] == "RetainExceptOnCreate"


def message_grants(cell: Template) -> dict[str, tuple[Any, ...]]:
    """Return the grants of the messages key that every cell has."""
    queues = f"arn:aws:sqs:{cell.region}:<AccountId>:{cell.name}"
    context = "kms:EncryptionContext:aws:sqs:arn"
    return {
        "TopicsToQueues": ("sns.amazonaws.com", DATA, {"StringLike": {context: f"{queues}-*"}}),
        "Undelivered": ("events.amazonaws.com", DATA, {"StringEquals": {context: f"{queues}-undelivered"}}),
    }


def test_the_custom_bus_may_use_its_key(fifo: Template) -> None:
    bus = "arn:aws:events:eu-west-1:<AccountId>:event-busv2/bems-eu-west/*"
    assert grants(fifo, "Messages") == message_grants(fifo) | {
        "CustomBusEncrypts": (
            "events.amazonaws.com",
            [
                "kms:Decrypt",
                "kms:Encrypt",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            {"StringEquals": OWN_ACCOUNT, "StringLike": {"kms:EncryptionContext:aws:events:event-busv2:arn": bus}},
        )
    }


def test_the_classic_bus_may_use_its_key(standard: Template) -> None:
    bus = "arn:aws:events:us-east-1:<AccountId>:event-bus/bems-us-east"
    assert grants(standard, "Messages") == message_grants(standard) | {
        "ClassicBusKnowsItsKey": ("events.amazonaws.com", "kms:DescribeKey", None),
        "ClassicBusEncrypts": (
            "events.amazonaws.com",
            [*DATA, "kms:ReEncryptFrom", "kms:ReEncryptTo"],
            {"StringEquals": {"kms:EncryptionContext:aws:events:event-bus:arn": bus}},
        ),
    }


def test_alarms_may_encrypt_for_their_topics(cell: Template) -> None:
    grant = ("cloudwatch.amazonaws.com", DATA, {"StringEquals": OWN_ACCOUNT})
    assert grants(cell, "Alerts") == {"AlarmsToTopics": grant}


def test_log_groups_of_the_account_are_encrypted(cell: Template) -> None:
    (grant,) = grants(cell, "Logs").values()
    assert grant[0] == f"logs.{cell.region}.amazonaws.com"
    assert grant[2] == {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{cell.region}:<AccountId>:log-group:*"}
    }


def test_only_s3_tables_maintenance_may_use_the_records_key(fifo: Template, standard: Template) -> None:
    bucket = "arn:aws:s3tables:us-east-1:<AccountId>:bucket/bems-us-east-series/*"
    condition = {"StringEquals": OWN_ACCOUNT, "StringLike": {"kms:EncryptionContext:aws:s3:arn": bucket}}
    assert grants(fifo, "Records") == {}
    assert grants(standard, "Records") == {"TableMaintenance": ("maintenance.s3tables.amazonaws.com", DATA, condition)}


def test_every_resource_that_holds_data_has_its_key(cell: Template) -> None:
    keys = {
        "AWS::SQS::Queue": ("KmsMasterKeyId", "<Keys/Messages>"),
        "AWS::Logs::LogGroup": ("KmsKeyId", "<Keys/Logs>"),
        "AWS::Backup::BackupVault": ("EncryptionKeyArn", "<Keys/Records>"),
    }
    for type, (name, expected) in keys.items():
        resources = cell.by_type(type)
        assert resources
        assert {path: one[name] for path, one in resources.items()} == dict.fromkeys(resources, expected)
    for path, topic in cell.by_type("AWS::SNS::Topic").items():
        assert topic["KmsMasterKeyId"] == ("<Keys/Alerts>" if path.startswith("Alerts/") else "<Keys/Messages>")
    assert cell.only("AWS::DynamoDB::Table")["SSESpecification"] == {
        "KMSMasterKeyId": "<Keys/Records>",
        "SSEEnabled": True,
        "SSEType": "KMS",
    }


def test_queues_and_topics_deny_requests_without_tls(cell: Template) -> None:
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    for type, resource in (("AWS::SQS::QueuePolicy", "AWS::SQS::Queue"), ("AWS::SNS::TopicPolicy", "AWS::SNS::Topic")):
        policies = cell.by_type(type)
        assert len(policies) == len(cell.by_type(resource))
        for policy in policies.values():
            assert any(
                statement["Effect"] == "Deny" and statement["Condition"] == insecure
                for statement in policy["PolicyDocument"]["Statement"]
            )


def test_buckets_deny_requests_without_tls(standard: Template) -> None:
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    tables, errors = standard.only("AWS::S3Tables::TableBucketPolicy"), standard.only("AWS::S3::BucketPolicy")
    assert (tables["TableBucketARN"], errors["Bucket"]) == ("<Series/Bucket>", "<Series/Errors>")
    (denial,) = tables["ResourcePolicy"]["Statement"]
    assert denial == {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3tables:*",
        "Resource": ["<Series/Bucket>", "<Series/Bucket>/*"],
        "Condition": insecure,
    }
    assert any(statement["Condition"] == insecure for statement in errors["PolicyDocument"]["Statement"])

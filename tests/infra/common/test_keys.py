"""Who may use which key. A grant too few stops events or alarms in silence; one too many lets somebody read."""

from typing import Any

from tests.infra.template import Template

ROOT = {"Action": "kms:*", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::<AccountId>:root"}, "Resource": "*"}
DATA = ["kms:Decrypt", "kms:GenerateDataKey"]
OURS = {"aws:SourceAccount": "<AccountId>"}


def grants(cell: Template, key: str) -> dict[str, tuple[Any, ...]]:
    first, *others = cell.at(f"Keys/{key}")["KeyPolicy"]["Statement"]
    assert first == ROOT
    for one in others:
        assert one["Effect"] == "Allow"
        assert one["Resource"] == "*"
    return {one["Sid"]: (one["Principal"]["Service"], one["Action"], one.get("Condition")) for one in others}


def test_keys_are_rotated_and_outlive_the_stack_with_the_data(cell: Template) -> None:
    keys = cell.by_type("AWS::KMS::Key")
    assert set(keys) == {"Keys/Messages", "Keys/Records", "Keys/Alerts", "Keys/Logs"}
    for path, key in keys.items():
        assert key["EnableKeyRotation"] is True
        assert cell.resource_at(path)["DeletionPolicy"] == "RetainExceptOnCreate"


def messages(cell: Template) -> dict[str, tuple[Any, ...]]:
    queues = f"arn:aws:sqs:{cell.region}:<AccountId>:{cell.name}"
    context = "kms:EncryptionContext:aws:sqs:arn"
    return {
        "TopicsToQueues": ("sns.amazonaws.com", DATA, {"StringLike": {context: f"{queues}-*"}}),
        "Undelivered": ("events.amazonaws.com", DATA, {"StringEquals": {context: f"{queues}-undelivered"}}),
    }


def test_the_custom_bus_encrypts_for_itself(fifo: Template) -> None:
    bus = "arn:aws:events:eu-west-1:<AccountId>:event-busv2/bems-eu-west/*"
    assert grants(fifo, "Messages") == messages(fifo) | {
        "CustomBusEncrypts": (
            "events.amazonaws.com",
            [
                "kms:Decrypt",
                "kms:Encrypt",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            {"StringEquals": OURS, "StringLike": {"kms:EncryptionContext:aws:events:event-busv2:arn": bus}},
        )
    }


def test_the_classic_bus_encrypts_for_itself(standard: Template) -> None:
    bus = "arn:aws:events:us-east-1:<AccountId>:event-bus/bems-us-east"
    assert grants(standard, "Messages") == messages(standard) | {
        "ClassicBusKnowsItsKey": ("events.amazonaws.com", "kms:DescribeKey", None),
        "ClassicBusEncrypts": (
            "events.amazonaws.com",
            [*DATA, "kms:ReEncryptFrom", "kms:ReEncryptTo"],
            {"StringEquals": {"kms:EncryptionContext:aws:events:event-bus:arn": bus}},
        ),
    }


def test_alarms_may_encrypt_for_their_topics(cell: Template) -> None:
    assert grants(cell, "Alerts") == {"AlarmsToTopics": ("cloudwatch.amazonaws.com", DATA, {"StringEquals": OURS})}


def test_log_groups_of_the_account_are_encrypted(cell: Template) -> None:
    (grant,) = grants(cell, "Logs").values()
    assert grant[0] == f"logs.{cell.region}.amazonaws.com"
    assert grant[2] == {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{cell.region}:<AccountId>:log-group:*"}
    }


def test_s3_maintains_the_table_bucket_and_nobody_else_reads_records(fifo: Template, standard: Template) -> None:
    bucket = "arn:aws:s3tables:us-east-1:<AccountId>:bucket/bems-us-east-series/*"
    condition = {"StringEquals": OURS, "StringLike": {"kms:EncryptionContext:aws:s3:arn": bucket}}
    assert grants(fifo, "Records") == {}
    assert grants(standard, "Records") == {"TableMaintenance": ("maintenance.s3tables.amazonaws.com", DATA, condition)}


def test_everything_that_holds_events_has_a_key(cell: Template) -> None:
    key = {
        "AWS::SQS::Queue": ("KmsMasterKeyId", "<Keys/Messages>"),
        "AWS::Logs::LogGroup": ("KmsKeyId", "<Keys/Logs>"),
        "AWS::Backup::BackupVault": ("EncryptionKeyArn", "<Keys/Records>"),
    }
    for type, (name, expected) in key.items():
        found = cell.by_type(type)
        assert found
        assert {path: one[name] for path, one in found.items()} == dict.fromkeys(found, expected)
    for path, topic in cell.by_type("AWS::SNS::Topic").items():
        assert topic["KmsMasterKeyId"] == ("<Keys/Alerts>" if path.startswith("Alerts/") else "<Keys/Messages>")
    assert cell.only("AWS::DynamoDB::Table")["SSESpecification"] == {
        "KMSMasterKeyId": "<Keys/Records>",
        "SSEEnabled": True,
        "SSEType": "KMS",
    }


def test_queues_and_topics_take_nothing_without_tls(cell: Template) -> None:
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    for type, resource in (("AWS::SQS::QueuePolicy", "AWS::SQS::Queue"), ("AWS::SNS::TopicPolicy", "AWS::SNS::Topic")):
        policies = cell.by_type(type)
        assert len(policies) == len(cell.by_type(resource))
        for policy in policies.values():
            assert any(
                one["Effect"] == "Deny" and one["Condition"] == insecure
                for one in policy["PolicyDocument"]["Statement"]
            )


def test_buckets_take_nothing_without_tls(standard: Template) -> None:
    insecure = {"Bool": {"aws:SecureTransport": "false"}}
    tables, errors = standard.only("AWS::S3Tables::TableBucketPolicy"), standard.only("AWS::S3::BucketPolicy")
    assert (tables["TableBucketARN"], errors["Bucket"]) == ("<Series/Bucket>", "<Series/Errors>")
    (refusal,) = tables["ResourcePolicy"]["Statement"]
    assert refusal == {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3tables:*",
        "Resource": ["<Series/Bucket>", "<Series/Bucket>/*"],
        "Condition": insecure,
    }
    assert any(one["Condition"] == insecure for one in errors["PolicyDocument"]["Statement"])

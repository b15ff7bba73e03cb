"""Tests of each role's statements. A change here changes what a stolen credential can do."""

import json

import pytest

from bems.tracker.contract import STAGES
from tests.infra.function_ids import FUNCTIONS
from tests.infra.template import Template, statement_line

ENCRYPT_AND_DECRYPT = (
    "kms:Decrypt kms:DescribeKey kms:Encrypt kms:GenerateDataKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom "
    "kms:ReEncryptTo"
)


def via(service: str) -> str:
    return f' if {{"StringEquals": {{"kms:ViaService": "{service}.<Region>.<URLSuffix>"}}}}'


def basic_statements(function: str) -> list[str]:
    return [
        f"logs:CreateLogStream logs:PutLogEvents on <Functions/{function}/Log>",
        "xray:PutTraceSegments xray:PutTelemetryRecords on *",
    ]


def decision_statements(cell: Template, function: str) -> list[str]:
    machine = f"arn:aws:states:{cell.region}:<AccountId>:stateMachine:{cell.name}-invoice-lifecycle"
    return [
        *basic_statements(function),
        "dynamodb:GetItem dynamodb:PutItem on <Records/Table>",
        f"{ENCRYPT_AND_DECRYPT} on <Keys/Records>{via('dynamodb')}",
        f"states:SendTaskFailure states:SendTaskSuccess states:StartExecution on {machine}",
        "sns:Publish on <Alerts/Warning> <Alerts/Critical>",
        f"kms:Decrypt kms:GenerateDataKey on <Keys/Alerts>{via('sns')}",
    ]


def dlq_statements(queue: str) -> list[str]:
    return [f"sqs:SendMessage on <{queue}>", f"kms:Decrypt kms:GenerateDataKey on <Keys/Messages>{via('sqs')}"]


def test_the_producer_publishes_to_its_bus(fifo: Template, standard: Template) -> None:
    publishing = [*basic_statements("Producer"), "events:PutEvents on <Bus/Bus>"]
    assert standard.statements("Functions/Producer/Role") == publishing
    # PutEvents to a custom bus also requires kms:Decrypt of the caller.
    assert fifo.statements("Functions/Producer/Role") == [*publishing, f"kms:Decrypt on <Keys/Messages>{via('events')}"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_processor_reads_only_its_own_queue(cell: Template, stage: str) -> None:
    function = f"Invoice{stage.capitalize()}Processor"
    assert cell.statements(f"Functions/{function}/Role") == [
        *decision_statements(cell, function),
        "sqs:ChangeMessageVisibility sqs:DeleteMessage sqs:GetQueueAttributes sqs:ReceiveMessage "
        f"on <Intake/{stage.capitalize()}/Queue>",
        f"kms:Decrypt on <Keys/Messages>{via('sqs')}",
    ]


@pytest.mark.parametrize("function", ["RegisterWait", "Escalate"])
def test_the_state_machines_functions_have_only_the_decision_permissions(cell: Template, function: str) -> None:
    assert cell.statements(f"Functions/{function}/Role") == decision_statements(cell, function)


def test_the_sweeper_also_reads_the_index(cell: Template) -> None:
    assert cell.statements("Functions/Sweeper/Role") == [
        *decision_statements(cell, "Sweeper"),
        "dynamodb:Query on <Records/Table>/index/checks",
        "states:DescribeExecution on "
        f"arn:aws:states:{cell.region}:<AccountId>:execution:{cell.name}-invoice-lifecycle:*",
        *dlq_statements("Intake/Undelivered"),
    ]


def test_the_recorder_reads_the_stream_and_writes_its_series(fifo: Template, standard: Template) -> None:
    reading = [
        *basic_statements("Recorder"),
        "dynamodb:DescribeStream dynamodb:GetRecords dynamodb:GetShardIterator on <Records/Table.StreamArn>",
        "dynamodb:ListStreams on *",
        f"kms:Decrypt on <Keys/Records>{via('dynamodb')}",
    ]
    timestream = ["timestream:WriteRecords on <Series/Table>", "timestream:DescribeEndpoints on *"]
    firehose = ["firehose:PutRecordBatch on <Series/Stream>"]
    assert fifo.statements("Functions/Recorder/Role") == [*reading, *timestream, *dlq_statements("Unrecorded")]
    assert standard.statements("Functions/Recorder/Role") == [*reading, *firehose, *dlq_statements("Unrecorded")]


def test_the_state_machine_invokes_only_its_two_functions(cell: Template) -> None:
    invoking, logging, tracing = cell.statements("Lifecycle/Role")
    assert invoking == "lambda:InvokeFunction on <Functions/RegisterWait/Live> <Functions/Escalate/Function>"
    assert logging.endswith(" on *")
    assert {action.split(":")[0] for action in logging.split()[:-2]} == {"logs"}
    assert not any("PutLogEvents" in one for one in (logging, tracing))
    assert {action.split(":")[0] for action in tracing.split()[:-2]} == {"xray"}


@pytest.mark.parametrize("stage", STAGES)
def test_each_delivery_publishes_to_its_own_topic(fifo: Template, standard: Template, stage: str) -> None:
    title = stage.capitalize()
    publishing = [
        f"sns:Publish on <Intake/{title}/Topic>",
        f"kms:Decrypt kms:GenerateDataKey on <Keys/Messages>{via('sns')}",
    ]
    assert standard.statements(f"Bus/{title}/Role") == publishing
    # Without permission to send to the queue, EventBridge discards failed deliveries silently.
    assert fifo.statements(f"Bus/{title}/Role") == [*publishing, *dlq_statements("Intake/Undelivered")]


def test_firehose_writes_one_table_and_one_bucket(standard: Template) -> None:
    inside = "s3tablescatalog/bems-us-east-series/bems"
    glue = "arn:aws:glue:us-east-1:<AccountId>:"
    bucket = "arn:aws:s3tables:us-east-1:<AccountId>:bucket/bems-us-east-series"
    assert standard.statements("Series/Role") == [
        f"glue:GetDatabase glue:GetTable glue:UpdateTable on {glue}catalog {glue}catalog/s3tablescatalog "
        f"{glue}catalog/s3tablescatalog/bems-us-east-series {glue}database/{inside} {glue}table/{inside}/transitions",
        f"s3tables:GetNamespace s3tables:GetTableBucket on {bucket}",
        "s3tables:GetTable s3tables:GetTableData s3tables:GetTableMetadataLocation s3tables:PutTableData "
        f"s3tables:UpdateTableMetadataLocation on {bucket}/table/*",
        "s3:GetBucketLocation s3:ListBucket s3:ListBucketMultipartUploads on <Series/Errors>",
        "s3:AbortMultipartUpload s3:GetObject s3:PutObject on <Series/Errors>/*",
        "kms:Decrypt kms:GenerateDataKey on <Keys/Records>",
        "logs:PutLogEvents on <SeriesLog>",
    ]


def test_backup_reads_only_the_cells_tables(fifo: Template, standard: Template) -> None:
    table = (
        "dynamodb:CreateBackup dynamodb:DescribeTable dynamodb:ListTagsOfResource dynamodb:StartAwsBackupJob on "
        "<Records/Table>"
    )
    keys = [
        f"{ENCRYPT_AND_DECRYPT} on <Keys/Records>",
        'kms:CreateGrant on <Keys/Records> if {"Bool": {"kms:GrantIsForAWSResource": "true"}}',
    ]
    for cell in (fifo, standard):
        first, backups, *others = cell.statements("Backup/Role")
        assert first == table
        assert backups == "dynamodb:DeleteBackup dynamodb:DescribeBackup on <Records/Table>/backup/*"
        vault = f"arn:aws:backup:{cell.region}:<AccountId>:backup-vault:{cell.name}"
        points = f"arn:aws:backup:{cell.region}:<AccountId>:recovery-point:*"
        assert others[-4:] == [
            f"backup:CopyIntoBackupVault backup:DescribeBackupVault on {vault}",
            f"backup:TagResource on {points}",
            *keys,
        ]
        assert bool(others[:-4]) == (cell is fifo)
        assert all(one.startswith("timestream:") for one in others[:-4])


def test_every_role_trusts_one_service_and_most_only_this_account(cell: Template) -> None:
    for path, role in cell.by_type("AWS::IAM::Role").items():
        (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRole"
        service = trust["Principal"].get("Service")
        if path.startswith("Subscriber-"):
            continue
        expected = {
            "Functions": "lambda",
            "Bus": "events",
            "Lifecycle": "states",
            "Series": "firehose",
            "Backup": "backup",
            "Api": "apigateway",
        }[path.split("/")[0]]
        assert service == f"{expected}.amazonaws.com"
        if expected == "firehose":
            assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": "<AccountId>"}}
        elif expected not in ("lambda", "apigateway"):
            assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": "<AccountId>"}


def test_these_tests_cover_every_role(cell: Template) -> None:
    known = {f"Functions/{id}/Role" for id in FUNCTIONS} | {f"Bus/{stage.capitalize()}/Role" for stage in STAGES}
    known |= {"Lifecycle/Role", "Api/LoggingRole", "Backup/Role"}
    known |= {"Series/Role"} if cell.cell == "us-east" else {"Subscriber-treasury/Role"}
    assert set(cell.by_type("AWS::IAM::Role")) == known
    assert cell.by_type("AWS::IAM::Policy") == cell.by_type("AWS::IAM::ManagedPolicy") == {}


def test_functions_are_invoked_only_by_their_triggers(cell: Template) -> None:
    callers = [
        (one["Principal"], one["FunctionName"].split("/")[1], one.get("SourceArn", ""))
        for one in cell.by_type("AWS::Lambda::Permission").values()
    ]
    gateway = [caller for caller in callers if caller[0] == "apigateway.amazonaws.com"]
    assert {function for _, function, _ in gateway} == {"Producer"}
    assert sorted(source.rsplit("/POST/")[1] for _, _, source in gateway) == sorted(
        path for stage in STAGES for path in (f"invoices/{stage}", f"invoices/{stage}/batch")
    )
    assert sorted(caller for caller in callers if caller not in gateway) == [
        ("events.amazonaws.com", "Sweeper", "<Sweeping/EveryMinute>"),
        ("events.amazonaws.com", "Sweeper", "<Sweeping/ExecutionEnded>"),
    ]


def test_a_subscriber_may_subscribe_only_its_own_resources(fifo: Template) -> None:
    role = fifo.at("Subscriber-treasury/Role")
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "treasury-reads-postings-7f3a"}},
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::210987654321:root"},
    }
    subscribing, confirming = role["Policies"][0]["PolicyDocument"]["Statement"]
    assert statement_line({**subscribing, "Condition": {}}).startswith("sns:Subscribe on <Intake/Posting/Topic>")
    assert subscribing["Condition"] == {
        "StringEquals": {"sns:Protocol": ["lambda", "sqs"]},
        "ArnLike": {"sns:Endpoint": ["arn:aws:lambda:*:210987654321:function:*", "arn:aws:sqs:*:210987654321:*"]},
    }
    assert (
        statement_line(confirming) == "sns:ConfirmSubscription sns:ListSubscriptionsByTopic on <Intake/Posting/Topic>"
    )


def test_no_resource_policy_allows_everybody(cell: Template) -> None:
    for type in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy", "AWS::KMS::Key"):
        for path, properties in cell.by_type(type).items():
            document = properties.get("PolicyDocument") or properties["KeyPolicy"]
            for statement in document["Statement"]:
                if statement["Principal"] in ("*", {"AWS": "*"}):
                    assert statement["Effect"] == "Deny", (path, json.dumps(statement))

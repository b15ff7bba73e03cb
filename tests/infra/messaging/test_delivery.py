"""Tests of delivery from the bus to the processors: every failure ends in a queue, and no event is lost silently."""

import json
from itertools import pairwise

import pytest

from bems.tracker.contract import STAGES, Stage
from tests.infra.template import Template


@pytest.mark.parametrize("stage", STAGES)
def test_the_custom_bus_delivers_each_stage_in_order(fifo: Template, stage: Stage) -> None:
    title = stage.capitalize()
    subscriber = fifo.at(f"Bus/{title}/Subscriber")
    assert subscriber["Type"] == "FIFO"
    assert subscriber["StartingPosition"] == "LATEST"
    (filter,) = subscriber["FilterConfiguration"]["Filters"]
    assert filter["Scope"] == "DATA"
    assert json.loads(filter["Pattern"]) == {"source": ["bems.eu-west"], "detail-type": [f"Invoice{title}"]}
    assert subscriber["InvokeConfiguration"] == {
        "RoleArn": f"<Bus/{title}/Role>",
        "TargetArn": f"<Intake/{title}/Topic>",
        "SnsParameters": {
            "MessageGroupId": "{% $events.SystemMetadata.EventGroupId %}",
            "MessageDeduplicationId": "{% $events.SystemMetadata.DeduplicationId %}",
        },
    }
    assert subscriber["OnFailureConfiguration"] == {"Arn": "<Intake/Undelivered>"}
    assert subscriber["RetryPolicy"] == {
        "MaxEventAgeInSeconds": 86400,
        "MaxRetryAttempts": 185,
        "RetryStrategy": "ALL",
    }
    assert subscriber["LogConfiguration"] == {"Level": "ERROR", "IncludePayload": "ON_ERROR_ONLY"}
    # The log level alone writes no log; it also needs a delivery.
    assert fifo.at(f"Bus/{title}Log/Source") == {
        "LogType": "ERROR_LOGS",
        "Name": f"bems-eu-west-{stage}",
        "ResourceArn": f"<Bus/{title}/Subscriber>",
    }
    assert fifo.at(f"Bus/{title}Log/Delivery")["DeliverySourceName"] == f"bems-eu-west-{stage}"
    assert fifo.at("DeliveryLog")["LogGroupName"].startswith("/aws/vendedlogs/")


def test_subscribers_are_created_one_after_another(fifo: Template) -> None:
    logical_ids = {path: id for id, path in fifo.paths.items()}
    for earlier, later in pairwise(STAGES):
        depends_on = fifo.resource_at(f"Bus/{later.capitalize()}/Subscriber")["DependsOn"]
        (dependency,) = [depends_on] if isinstance(depends_on, str) else depends_on
        assert dependency == logical_ids[f"Bus/{earlier.capitalize()}Log/Delivery"]
        log_source = fifo.resource_at(f"Bus/{earlier.capitalize()}Log/Source")["Properties"]["ResourceArn"]
        assert log_source["Fn::GetAtt"][0] == logical_ids[f"Bus/{earlier.capitalize()}/Subscriber"]


def test_the_custom_bus_is_encrypted_and_keeps_events_for_thirty_days(fifo: Template) -> None:
    bus = fifo.only("AWS::EventsV2::EventBus")
    assert bus["StorageConfiguration"] == {"RetentionPeriodInDays": 30}
    assert bus["EncryptionConfiguration"] == {"KmsKeyIdentifier": "<Keys/Messages>"}
    assert fifo.by_type("AWS::Events::EventBus") == fifo.by_type("AWS::Events::Archive") == {}


@pytest.mark.parametrize("stage", STAGES)
def test_the_classic_bus_routes_each_stage(standard: Template, stage: Stage) -> None:
    title = stage.capitalize()
    rule = standard.at(f"Bus/{title}/Rule")
    assert rule["EventBusName"] == "<Bus/Bus>"
    assert rule["EventPattern"] == {"source": ["bems.us-east"], "detail-type": [f"Invoice{title}"]}
    (target,) = rule["Targets"]
    assert target["Arn"] == f"<Intake/{title}/Topic>"
    assert target["RoleArn"] == f"<Bus/{title}/Role>"
    assert target["DeadLetterConfig"] == {"Arn": "<Intake/Undelivered>"}
    assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185}
    assert "Input" not in target
    assert "InputTransformer" not in target


def test_the_classic_bus_has_an_archive_and_a_dead_letter_queue(standard: Template) -> None:
    assert standard.only("AWS::Events::Archive") == {
        "ArchiveName": "bems-us-east",
        "SourceArn": "<Bus/Bus>",
        "EventPattern": {"source": ["bems.us-east"]},
        "RetentionDays": 30,
        "KmsKeyIdentifier": "<Keys/Messages>",
    }
    bus = standard.only("AWS::Events::EventBus")
    assert bus["DeadLetterConfig"] == {"Arn": "<Intake/Undelivered>"}
    assert bus["KmsKeyIdentifier"] == "<Keys/Messages>"
    assert standard.by_type("AWS::EventsV2::EventBus") == {}


@pytest.mark.parametrize("stage", STAGES)
def test_each_topic_sends_to_the_queue_of_its_stage(cell: Template, stage: Stage) -> None:
    title, suffix = stage.capitalize(), ".fifo" if cell.cell == "eu-west" else ""
    topic, queue = cell.at(f"Intake/{title}/Topic"), cell.at(f"Intake/{title}/Queue")
    assert topic["TopicName"] == queue["QueueName"] == f"{cell.name}-{stage}{suffix}"
    assert cell.at(f"Intake/{title}/Subscription") == {
        "TopicArn": f"<Intake/{title}/Topic>",
        "Protocol": "sqs",
        "Endpoint": f"<Intake/{title}/Queue>",
        "RawMessageDelivery": True,
        "RedrivePolicy": {"deadLetterTargetArn": f"<Intake/{title}/DeadLetters>"},
    }
    for path in (f"Intake/{title}/Queue", f"Intake/{title}/DeadLetters"):
        statements = cell.at(f"{path}/Policy")["PolicyDocument"]["Statement"]
        allowed = [statement for statement in statements if statement["Effect"] == "Allow"]
        assert [(statement["Principal"], statement["Action"], statement["Condition"]) for statement in allowed] == [
            (
                {"Service": "sns.amazonaws.com"},
                "sqs:SendMessage",
                {"ArnEquals": {"aws:SourceArn": f"<Intake/{title}/Topic>"}},
            )
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failing_message_becomes_a_dead_letter_and_can_be_redriven(cell: Template, stage: Stage) -> None:
    title = stage.capitalize()
    queue, dead_letters = cell.at(f"Intake/{title}/Queue"), cell.at(f"Intake/{title}/DeadLetters")
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": f"<Intake/{title}/DeadLetters>",
        "maxReceiveCount": 10,
    }
    source = f"arn:aws:sqs:{cell.region}:<AccountId>:{queue['QueueName']}"
    assert dead_letters["RedriveAllowPolicy"] == {"redrivePermission": "byQueue", "sourceQueueArns": [source]}
    assert dead_letters["MessageRetentionPeriod"] == queue["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_no_queue_may_use_the_undelivered_or_unrecorded_queue_as_its_dlq(cell: Template) -> None:
    for path in ("Intake/Undelivered", "Unrecorded"):
        queue = cell.at(path)
        assert queue["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}
        # Rules and stream mappings accept only standard queues.
        assert "FifoQueue" not in queue


def test_fifo_queues_and_topics_have_high_throughput_and_no_content_based_deduplication(
    fifo: Template, standard: Template
) -> None:
    stages = [
        path for path in fifo.by_type("AWS::SQS::Queue") if path.startswith("Intake/") and path != "Intake/Undelivered"
    ]
    assert len(stages) == 8
    for path in stages:
        queue = fifo.at(path)
        assert queue["FifoQueue"] is True
        assert queue["DeduplicationScope"] == "messageGroup"
        assert queue["FifoThroughputLimit"] == "perMessageGroupId"
        assert queue["ContentBasedDeduplication"] is False
    for path, topic in fifo.by_type("AWS::SNS::Topic").items():
        if path.startswith("Intake/"):
            assert topic["FifoTopic"] is True
            assert topic["FifoThroughputScope"] == "MessageGroup"
            assert topic["ContentBasedDeduplication"] is False
    for type in ("AWS::SQS::Queue", "AWS::SNS::Topic"):
        for resource in standard.by_type(type).values():
            assert not {"FifoQueue", "FifoTopic", "DeduplicationScope"} & set(resource)

"""From the bus to the processors: no way in which an event is lost without a trace."""

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
    (one,) = subscriber["FilterConfiguration"]["Filters"]
    assert one["Scope"] == "DATA"
    assert json.loads(one["Pattern"]) == {"source": ["bems.eu-west"], "detail-type": [f"Invoice{title}"]}
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
    # A level alone writes nothing.
    assert fifo.at(f"Bus/{title}Log/Source") == {
        "LogType": "ERROR_LOGS",
        "Name": f"bems-eu-west-{stage}",
        "ResourceArn": f"<Bus/{title}/Subscriber>",
    }
    assert fifo.at(f"Bus/{title}Log/Delivery")["DeliverySourceName"] == f"bems-eu-west-{stage}"
    assert fifo.at("DeliveryLog")["LogGroupName"].startswith("/aws/vendedlogs/")


def test_subscribers_are_created_one_after_another(fifo: Template) -> None:
    logical = {path: id for id, path in fifo.paths.items()}
    for earlier, later in pairwise(STAGES):
        waits = fifo.resource_at(f"Bus/{later.capitalize()}/Subscriber")["DependsOn"]
        (before,) = [waits] if isinstance(waits, str) else waits
        assert before == logical[f"Bus/{earlier.capitalize()}Log/Delivery"]
        own = fifo.resource_at(f"Bus/{earlier.capitalize()}Log/Source")["Properties"]["ResourceArn"]
        assert own["Fn::GetAtt"][0] == logical[f"Bus/{earlier.capitalize()}/Subscriber"]


def test_the_custom_bus_keeps_events(fifo: Template) -> None:
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


def test_the_classic_bus_has_an_archive_and_dead_letters(standard: Template) -> None:
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
def test_a_topic_fills_its_queue(cell: Template, stage: Stage) -> None:
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
        allowed = [one for one in cell.at(f"{path}/Policy")["PolicyDocument"]["Statement"] if one["Effect"] == "Allow"]
        assert [(one["Principal"], one["Action"], one["Condition"]) for one in allowed] == [
            (
                {"Service": "sns.amazonaws.com"},
                "sqs:SendMessage",
                {"ArnEquals": {"aws:SourceArn": f"<Intake/{title}/Topic>"}},
            )
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_poisoned_message_is_set_aside_and_can_come_back(cell: Template, stage: Stage) -> None:
    title = stage.capitalize()
    queue, aside = cell.at(f"Intake/{title}/Queue"), cell.at(f"Intake/{title}/DeadLetters")
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": f"<Intake/{title}/DeadLetters>",
        "maxReceiveCount": 10,
    }
    source = f"arn:aws:sqs:{cell.region}:<AccountId>:{queue['QueueName']}"
    assert aside["RedriveAllowPolicy"] == {"redrivePermission": "byQueue", "sourceQueueArns": [source]}
    assert aside["MessageRetentionPeriod"] == queue["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_queues_of_what_aws_sets_aside_take_no_redrive(cell: Template) -> None:
    for path in ("Intake/Undelivered", "Unrecorded"):
        queue = cell.at(path)
        assert queue["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}
        # Rules and stream mappings take only standard queues.
        assert "FifoQueue" not in queue


def test_fifo_has_high_throughput_and_no_hash_of_the_envelope(fifo: Template, standard: Template) -> None:
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

"""Each guard, by a construct that is wrong on purpose: synthesis ends, and says where and what would be right."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_eventsv2 as eventsv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as stepfunctions

from bems.tracker import metrics as tracker
from infra.guards.resources import Resource, template_resources
from infra.guards.rule_aspect import add_rules
from infra.guards.rules import check_rules
from infra.messaging.stage_queues import DENY_REDRIVE, encrypted_queue
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from tests.infra.template import Template

# One worker starts CDK once for all of them.
pytestmark = pytest.mark.xdist_group("cdk")

Wrong = Callable[[Stack, kms.Key], Any]


def refused(wrong: Wrong) -> str:
    """What synthesis says of a stack with something wrong in it; nothing where it ends well."""
    app = App(analytics_reporting=False)
    stack = Stack(app, "Wrong")
    wrong(stack, kms.Key(stack, "Key"))
    add_rules(app)
    try:
        app.synth()
    except RuntimeError as error:
        return str(error)
    return ""


def topic(stack: Stack, key: kms.Key, *, fifo: bool = False) -> sns.Topic:
    return sns.Topic(stack, "Topic", master_key=key, fifo=fifo or None, topic_name="t.fifo" if fifo else "t")


def queue(stack: Stack, key: kms.Key, *, fifo: bool = False) -> sqs.Queue:
    suffix = ".fifo" if fifo else ""
    aside = encrypted_queue(stack, "Aside", f"aside{suffix}", key, redrive_allow=DENY_REDRIVE)
    return encrypted_queue(stack, "Queue", f"queue{suffix}", key, dead_letters=aside)


def subscribe(stack: Stack, topic_arn: str, queue_arn: str) -> None:
    sns.CfnSubscription(stack, "Subscription", topic_arn=topic_arn, protocol="sqs", endpoint=queue_arn)


def rule_to_fifo_topic(stack: Stack, key: kms.Key) -> None:
    target = targets.SnsTopic(topic(stack, key, fifo=True))
    events.Rule(stack, "Rule", event_pattern=events.EventPattern(source=["a"]), targets=[target])


def rule_to_fifo_topic_elsewhere(stack: Stack, _: kms.Key) -> None:
    elsewhere = sns.Topic.from_topic_arn(stack, "Elsewhere", "arn:aws:sns:eu-west-1:123456789012:t.fifo")
    events.Rule(stack, "Rule", event_pattern=events.EventPattern(source=["a"]), targets=[targets.SnsTopic(elsewhere)])


def standard_topic_to_fifo_queue(stack: Stack, key: kms.Key) -> None:
    subscribe(stack, topic(stack, key).topic_arn, queue(stack, key, fifo=True).queue_arn)


def subscriber(stack: Stack, key: kms.Key, **more: Any) -> None:
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("events.amazonaws.com"))
    eventsv2.CfnSubscriber(
        stack,
        "Subscriber",
        name="s",
        event_bus_arn="arn:aws:events:eu-west-1:123456789012:event-busv2/b/abc",
        invoke_configuration=eventsv2.CfnSubscriber.InvokeConfigurationProperty(
            role_arn=role.role_arn,
            target_arn=topic(stack, key, fifo=True).topic_arn,
            sns_parameters=eventsv2.CfnSubscriber.SnsParametersProperty(
                message_group_id="{% $events.SystemMetadata.EventGroupId %}",
                message_deduplication_id="always-the-same",
            ),
        ),
        **more,
    )


def queue_without_dead_letters(stack: Stack, key: kms.Key) -> None:
    encrypted_queue(stack, "Queue", "queue", key)


def dead_letters_that_are_consumed(stack: Stack, key: kms.Key) -> None:
    waiting = queue(stack, key)
    aside = encrypted_queue(stack, "Another", "another", key)
    sns.CfnSubscription(
        stack,
        "Subscription",
        topic_arn=topic(stack, key).topic_arn,
        protocol="sqs",
        endpoint=waiting.queue_arn,
        redrive_policy={"deadLetterTargetArn": aside.queue_arn},
    )
    lambda_.CfnEventSourceMapping(stack, "Mapping", function_name="f", event_source_arn=aside.queue_arn)


def table_without_key(stack: Stack, _: kms.Key) -> None:
    dynamodb.Table(stack, "Table", partition_key=dynamodb.Attribute(name="a", type=dynamodb.AttributeType.STRING))


def queue_with_the_key_of_aws(stack: Stack, key: kms.Key) -> None:
    aside = encrypted_queue(stack, "Aside", "aside", key, redrive_allow=DENY_REDRIVE)
    sqs.CfnQueue(
        stack,
        "Queue",
        kms_master_key_id="alias/aws/sqs",
        redrive_policy={"deadLetterTargetArn": aside.queue_arn, "maxReceiveCount": 3},
    )


def machine(stack: Stack, definition: Any) -> None:
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
    stepfunctions.CfnStateMachine(stack, "Machine", role_arn=role.role_arn, definition_string=json.dumps(definition))


def waiting_for_ever(stack: Stack, _: kms.Key) -> None:
    task = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken", "End": True}
    inner = {"StartAt": "Lost", "States": {"Lost": task}}
    machine(stack, {"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "Branches": [inner], "End": True}}})


def role(stack: Stack, actions: list[str], resource: str) -> None:
    statement = iam.PolicyStatement(actions=actions, resources=[resource])
    iam.Role(
        stack,
        "Role",
        assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
        inline_policies={"P": iam.PolicyDocument(statements=[statement])},
    )


def wildcard_by_grant(stack: Stack, key: kms.Key) -> None:
    # CDK's own grants are what the guard is for.
    key.grant_encrypt_decrypt(iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com")))


def open_to_all(stack: Stack, key: kms.Key) -> None:
    everybody = iam.PolicyStatement(
        principals=[iam.AnyPrincipal()], actions=["sqs:SendMessage"], resources=["arn:aws:sqs:eu-west-1:123456789012:q"]
    )
    queue(stack, key).add_to_resource_policy(everybody)


def shared_role(stack: Stack, _: kms.Key) -> None:
    both = iam.Role(stack, "Both", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    for id in ("One", "Other"):
        lambda_.CfnFunction(
            stack, id, role=both.role_arn, code=lambda_.CfnFunction.CodeProperty(zip_file="x"), runtime="python3.13"
        )


def alarm(stack: Stack, key: kms.Key, metric: cloudwatch.IMetric, *, told: bool = True) -> None:
    made = cloudwatch.Alarm(stack, "Alarm", metric=metric, threshold=1, evaluation_periods=1)
    if told:
        made.add_alarm_action(actions.SnsAction(topic(stack, key)))


def unknown_metric(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsLost", dimensions_map={"cell": "a"}))


def unknown_dimensions(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsAccepted", dimensions_map={"cell": "a"}))


def unknown_stage(stack: Stack, key: kms.Key) -> None:
    values = {"cell": "a", "stage": "payment"}
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsAccepted", dimensions_map=values))


def unknown_aws_metric(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="AWS/SQS", metric_name="NumberOfMessagesLost"))


def aws_metric_of_nothing(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, aws_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName="nobody-has-this-name").metric())


def metric_that_no_filter_makes(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, log_metric("a", "RequestsThrottled").metric())


def wrong_metric_in_arithmetic(stack: Stack, key: kms.Key) -> None:
    lost = cloudwatch.Metric(namespace="BEMS", metric_name="EventsLost", period=Duration.minutes(5))
    alarm(stack, key, cloudwatch.MathExpression(expression="lost*2", using_metrics={"lost": lost}))


def alarm_that_tells_nobody(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cell_metric(tracker.SWEEP_COMPLETED, cell="a").metric(), told=False)


@pytest.mark.parametrize(
    ("wrong", "path", "why"),
    [
        (rule_to_fifo_topic, "Wrong/Rule/Resource", "cannot publish to a FIFO topic"),
        (rule_to_fifo_topic_elsewhere, "Wrong/Rule/Resource", "cannot publish to a FIFO topic"),
        (standard_topic_to_fifo_queue, "Wrong/Subscription", "a standard topic cannot feed a FIFO queue"),
        (subscriber, "Wrong/Subscriber", "give it an OnFailureConfiguration"),
        (subscriber, "Wrong/Subscriber", "needs a messagededuplicationid of each event"),
        (queue_without_dead_letters, "Wrong/Queue/Resource", "a queue without a dead-letter queue"),
        (dead_letters_that_are_consumed, "Wrong/Another/Resource", "a queue without a dead-letter queue"),
        (queue_with_the_key_of_aws, "Wrong/Queue", "without a key of the cell's own"),
        (table_without_key, "Wrong/Table/Resource", "without a key of the cell's own"),
        (lambda stack, _: sns.Topic(stack, "T"), "Wrong/T/Resource", "without a key of the cell's own"),
        (lambda stack, _: logs.LogGroup(stack, "L"), "Wrong/L/Resource", "without a key of the cell's own"),
        (lambda stack, _: events.EventBus(stack, "B"), "Wrong/B/Resource", "without a key of the cell's own"),
        (lambda stack, _: eventsv2.CfnEventBus(stack, "B", name="b"), "Wrong/B", "without a key of the cell's own"),
        (lambda stack, _: s3.Bucket(stack, "B"), "Wrong/B/Resource", "without a key of the cell's own"),
        (waiting_for_ever, "Wrong/Machine", "Lost may wait for ever"),
        (
            lambda stack, _: role(stack, ["s3:*"], "arn:aws:s3:::b"),
            "Wrong/Role/Resource",
            "allows s3:*: name the actions",
        ),
        (lambda stack, _: role(stack, ["s3:GetObject"], "*"), "Wrong/Role/Resource", "allows s3:GetObject on *"),
        (
            lambda stack, _: role(stack, ["xray:PutTraceSegments", "s3:PutObject"], "*"),
            "Wrong/Role",
            "allows s3:PutObject",
        ),
        (wildcard_by_grant, "Wrong/Role/DefaultPolicy/Resource", "allows kms:"),
        (open_to_all, "Wrong/Queue/Policy/Resource", "allows everybody"),
        (shared_role, "Wrong/Both/Resource", "shared by Wrong/One, Wrong/Other"),
        (unknown_metric, "Wrong/Alarm/Resource", "nobody emits BEMS EventsLost"),
        (unknown_dimensions, "Wrong/Alarm/Resource", "EventsAccepted has the dimensions cell, stage"),
        (unknown_stage, "Wrong/Alarm/Resource", "'payment' is not one of stage"),
        (unknown_aws_metric, "Wrong/Alarm/Resource", "nobody emits AWS/SQS NumberOfMessagesLost"),
        (aws_metric_of_nothing, "Wrong/Alarm/Resource", "which is not in this stack"),
        (metric_that_no_filter_makes, "Wrong/Alarm/Resource", "nobody emits BEMS/a RequestsThrottled"),
        (wrong_metric_in_arithmetic, "Wrong/Alarm/Resource", "nobody emits BEMS EventsLost"),
        (alarm_that_tells_nobody, "Wrong/Alarm/Resource", "an alarm that tells nobody"),
    ],
)
def test_a_guard_refuses(wrong: Wrong, path: str, why: str) -> None:
    said = refused(wrong)
    assert any(path in line and why in line for line in said.splitlines()), said or "nothing was refused"


def right(stack: Stack, key: kms.Key) -> None:
    subscribe(stack, topic(stack, key, fifo=True).topic_arn, queue(stack, key, fifo=True).queue_arn)
    made = cloudwatch.Alarm(
        stack,
        "Alarm",
        metric=cell_metric(tracker.SWEEP_COMPLETED, cell="a").metric(),
        threshold=1,
        evaluation_periods=1,
    )
    made.add_alarm_action(actions.SnsAction(sns.Topic(stack, "Alerts", master_key=key)))
    role(stack, ["xray:PutTraceSegments"], "*")
    task = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "TimeoutSeconds": 60, "End": True}
    machine_role = {"StartAt": "Bounded", "States": {"Bounded": task}}
    stepfunctions.CfnStateMachine(
        stack, "Machine", role_arn="arn:aws:iam::123456789012:role/r", definition_string=json.dumps(machine_role)
    )


def test_what_is_right_comes_through() -> None:
    assert refused(right) == ""


def test_a_fifo_topic_may_fill_a_standard_queue() -> None:
    assert refused(lambda s, k: subscribe(s, topic(s, k, fifo=True).topic_arn, queue(s, k).queue_arn)) == ""


def test_nothing_goes_past_the_guards_by_an_escape_hatch(cell: Template) -> None:
    # Aspects see constructs; this sees what is deployed.
    resources: list[Resource] = template_resources(cell.raw)
    assert len(resources) > 200
    assert check_rules(resources) == []


@pytest.mark.parametrize("inverted", [{"notAction": "sqs:*"}, {"notResource": "arn:aws:sqs:*:*:x"}])
def test_statements_that_allow_everything_but_something_are_refused(inverted: dict[str, str]) -> None:
    allowed = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "arn:aws:sqs:eu-west-1:1:queue"} | inverted
    for left_out in ("Action", "Resource"):
        if f"not{left_out}" in inverted:
            del allowed[left_out]
    policy = {"PolicyDocument": {"Statement": [allowed]}}
    template = {"Resources": {"Policy": {"Type": "AWS::IAM::ManagedPolicy", "Properties": policy}}}
    refusals = [violation.detail for violation in check_rules(template_resources(template))]
    assert "allows everything but something: name what it allows" in refusals

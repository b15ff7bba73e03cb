"""Tests of each rule with a construct that violates it: synthesis fails with the construct's path and the fix."""

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
from infra.guards.resources import TemplateResource, template_resources
from infra.guards.rule_aspect import add_rules
from infra.guards.rules import check_rules
from infra.messaging.stage_queues import DENY_REDRIVE, encrypted_queue
from infra.monitoring.metrics import aws_metric, cell_metric, log_metric
from tests.infra.template import Template

# One worker runs all of them, so that CDK starts only once.
pytestmark = pytest.mark.xdist_group("cdk")

Build = Callable[[Stack, kms.Key], Any]


def synthesis_error(build: Build) -> str:
    """Return the error of synthesizing a stack with the constructs that `build` adds; "" if it succeeds."""
    app = App(analytics_reporting=False)
    stack = Stack(app, "Wrong")
    build(stack, kms.Key(stack, "Key"))
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
    dead_letters = encrypted_queue(stack, "Aside", f"aside{suffix}", key, redrive_allow=DENY_REDRIVE)
    return encrypted_queue(stack, "Queue", f"queue{suffix}", key, dead_letters=dead_letters)


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


def consumed_dead_letter_queue(stack: Stack, key: kms.Key) -> None:
    main_queue = queue(stack, key)
    dead_letters = encrypted_queue(stack, "Another", "another", key)
    sns.CfnSubscription(
        stack,
        "Subscription",
        topic_arn=topic(stack, key).topic_arn,
        protocol="sqs",
        endpoint=main_queue.queue_arn,
        redrive_policy={"deadLetterTargetArn": dead_letters.queue_arn},
    )
    lambda_.CfnEventSourceMapping(stack, "Mapping", function_name="f", event_source_arn=dead_letters.queue_arn)


def table_without_key(stack: Stack, _: kms.Key) -> None:
    dynamodb.Table(stack, "Table", partition_key=dynamodb.Attribute(name="a", type=dynamodb.AttributeType.STRING))


def queue_with_aws_managed_key(stack: Stack, key: kms.Key) -> None:
    dead_letters = encrypted_queue(stack, "Aside", "aside", key, redrive_allow=DENY_REDRIVE)
    sqs.CfnQueue(
        stack,
        "Queue",
        kms_master_key_id="alias/aws/sqs",
        redrive_policy={"deadLetterTargetArn": dead_letters.queue_arn, "maxReceiveCount": 3},
    )


def machine(stack: Stack, definition: Any) -> None:
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
    stepfunctions.CfnStateMachine(stack, "Machine", role_arn=role.role_arn, definition_string=json.dumps(definition))


def task_without_timeout(stack: Stack, _: kms.Key) -> None:
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
    # CDK's own grants allow more than is needed, which is why the rule exists.
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


def alarm(stack: Stack, key: kms.Key, metric: cloudwatch.IMetric, *, has_action: bool = True) -> None:
    alarm = cloudwatch.Alarm(stack, "Alarm", metric=metric, threshold=1, evaluation_periods=1)
    if has_action:
        alarm.add_alarm_action(actions.SnsAction(topic(stack, key)))


def unknown_metric(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsLost", dimensions_map={"cell": "a"}))


def unknown_dimensions(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsAccepted", dimensions_map={"cell": "a"}))


def unknown_stage(stack: Stack, key: kms.Key) -> None:
    values = {"cell": "a", "stage": "payment"}
    alarm(stack, key, cloudwatch.Metric(namespace="BEMS", metric_name="EventsAccepted", dimensions_map=values))


def unknown_aws_metric(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cloudwatch.Metric(namespace="AWS/SQS", metric_name="NumberOfMessagesLost"))


def aws_metric_of_unknown_queue(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, aws_metric("AWS/SQS", "ApproximateAgeOfOldestMessage", QueueName="nobody-has-this-name").metric())


def log_metric_without_filter(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, log_metric("a", "RequestsThrottled").metric())


def unknown_metric_in_expression(stack: Stack, key: kms.Key) -> None:
    lost = cloudwatch.Metric(namespace="BEMS", metric_name="EventsLost", period=Duration.minutes(5))
    alarm(stack, key, cloudwatch.MathExpression(expression="lost*2", using_metrics={"lost": lost}))


def alarm_without_action(stack: Stack, key: kms.Key) -> None:
    alarm(stack, key, cell_metric(tracker.SWEEP_COMPLETED, cell="a").metric(), has_action=False)


@pytest.mark.parametrize(
    ("build", "path", "detail"),
    [
        (rule_to_fifo_topic, "Wrong/Rule/Resource", "cannot publish to a FIFO topic"),
        (rule_to_fifo_topic_elsewhere, "Wrong/Rule/Resource", "cannot publish to a FIFO topic"),
        (standard_topic_to_fifo_queue, "Wrong/Subscription", "a standard topic cannot feed a FIFO queue"),
        (subscriber, "Wrong/Subscriber", "add an OnFailureConfiguration"),
        (subscriber, "Wrong/Subscriber", "needs the messagededuplicationid of each event"),
        (queue_without_dead_letters, "Wrong/Queue/Resource", "a queue without a dead-letter queue"),
        (consumed_dead_letter_queue, "Wrong/Another/Resource", "a queue without a dead-letter queue"),
        (queue_with_aws_managed_key, "Wrong/Queue", "without a customer-managed key"),
        (table_without_key, "Wrong/Table/Resource", "without a customer-managed key"),
        (lambda stack, _: sns.Topic(stack, "T"), "Wrong/T/Resource", "without a customer-managed key"),
        (lambda stack, _: logs.LogGroup(stack, "L"), "Wrong/L/Resource", "without a customer-managed key"),
        (lambda stack, _: events.EventBus(stack, "B"), "Wrong/B/Resource", "without a customer-managed key"),
        (lambda stack, _: eventsv2.CfnEventBus(stack, "B", name="b"), "Wrong/B", "without a customer-managed key"),
        (lambda stack, _: s3.Bucket(stack, "B"), "Wrong/B/Resource", "without a customer-managed key"),
        (task_without_timeout, "Wrong/Machine", "the task Lost may wait forever"),
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
        (unknown_metric, "Wrong/Alarm/Resource", "BEMS EventsLost is never published"),
        (unknown_dimensions, "Wrong/Alarm/Resource", "EventsAccepted has the dimensions cell, stage"),
        (unknown_stage, "Wrong/Alarm/Resource", "'payment' is not one of stage"),
        (unknown_aws_metric, "Wrong/Alarm/Resource", "AWS/SQS NumberOfMessagesLost is not a known metric"),
        (aws_metric_of_unknown_queue, "Wrong/Alarm/Resource", "which is not in this stack"),
        (log_metric_without_filter, "Wrong/Alarm/Resource", "BEMS/a RequestsThrottled is not a known metric"),
        (unknown_metric_in_expression, "Wrong/Alarm/Resource", "BEMS EventsLost is never published"),
        (alarm_without_action, "Wrong/Alarm/Resource", "an alarm without an action"),
    ],
)
def test_violations_fail_the_synthesis(build: Build, path: str, detail: str) -> None:
    error = synthesis_error(build)
    assert any(path in line and detail in line for line in error.splitlines()), error or "no violation was found"


def valid_constructs(stack: Stack, key: kms.Key) -> None:
    subscribe(stack, topic(stack, key, fifo=True).topic_arn, queue(stack, key, fifo=True).queue_arn)
    alarm = cloudwatch.Alarm(
        stack,
        "Alarm",
        metric=cell_metric(tracker.SWEEP_COMPLETED, cell="a").metric(),
        threshold=1,
        evaluation_periods=1,
    )
    alarm.add_alarm_action(actions.SnsAction(sns.Topic(stack, "Alerts", master_key=key)))
    role(stack, ["xray:PutTraceSegments"], "*")
    task = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "TimeoutSeconds": 60, "End": True}
    definition = {"StartAt": "Bounded", "States": {"Bounded": task}}
    stepfunctions.CfnStateMachine(
        stack, "Machine", role_arn="arn:aws:iam::123456789012:role/r", definition_string=json.dumps(definition)
    )


def test_valid_constructs_pass() -> None:
    assert synthesis_error(valid_constructs) == ""


def test_a_fifo_topic_may_send_to_a_standard_queue() -> None:
    assert synthesis_error(lambda s, k: subscribe(s, topic(s, k, fifo=True).topic_arn, queue(s, k).queue_arn)) == ""


def test_no_property_override_violates_a_rule(cell: Template) -> None:
    # The aspect checks constructs, which lack property overrides; the template contains them.
    resources: list[TemplateResource] = template_resources(cell.raw)
    assert len(resources) > 200
    assert check_rules(resources) == []


@pytest.mark.parametrize("inverted", [{"notAction": "sqs:*"}, {"notResource": "arn:aws:sqs:*:*:x"}])
def test_statements_that_allow_all_but_something_are_refused(inverted: dict[str, str]) -> None:
    allowed = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "arn:aws:sqs:eu-west-1:1:queue"} | inverted
    for left_out in ("Action", "Resource"):
        if f"not{left_out}" in inverted:
            del allowed[left_out]
    policy = {"PolicyDocument": {"Statement": [allowed]}}
    template = {"Resources": {"Policy": {"Type": "AWS::IAM::ManagedPolicy", "Properties": policy}}}
    refusals = [violation.detail for violation in check_rules(template_resources(template))]
    assert "allows all but the named actions or resources: name what it allows instead" in refusals

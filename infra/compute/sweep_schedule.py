"""Triggers of the sweeper: a schedule, and executions that end without success."""

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.eventbridge_names import FAILED_EXECUTION_STATUSES
from infra.common.names import Names


class SweepTriggers(Construct):
    """Two rules on the account's default bus, to which AWS services publish, and the sweeper's asynchronous retries."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        sweeper: lambda_.IFunction,
        machine_arn: str,
        undelivered: sqs.Queue,
    ) -> None:
        super().__init__(scope, id)
        lambda_.EventInvokeConfig(
            self,
            "Retries",
            function=sweeper,
            retry_attempts=2,
            max_event_age=Duration.hours(1),
            on_failure=destinations.SqsDestination(undelivered),
        )
        events.Rule(
            self,
            "EveryMinute",
            rule_name=f"{names.prefix}-sweep",
            description="Runs the sweep every minute",
            schedule=events.Schedule.rate(Duration.minutes(1)),
            # A missed sweep needs no retry: the next one does its work.
            targets=[targets.LambdaFunction(sweeper, retry_attempts=0, max_event_age=Duration.minutes(1))],
        )
        events.Rule(
            self,
            "ExecutionEnded",
            rule_name=f"{names.prefix}-execution-ended",
            description="Runs the sweeper for an execution that failed, timed out or was aborted, to replace it",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={"stateMachineArn": [machine_arn], "status": list(FAILED_EXECUTION_STATUSES)},
            ),
            targets=[
                targets.LambdaFunction(
                    sweeper, dead_letter_queue=undelivered, retry_attempts=185, max_event_age=Duration.hours(24)
                )
            ],
        )

"""Sweeping: what wakes the sweeper. The clock, every minute; and every execution that ended by itself."""

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.eventbridge_names import ENDED
from infra.common.names import Names


class SweepTriggers(Construct):
    """Two rules on the account's default bus, where AWS services publish."""

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
            description="Looks after the invoices that are due",
            schedule=events.Schedule.rate(Duration.minutes(1)),
            # A sweep that is late is the next one's work.
            targets=[targets.LambdaFunction(sweeper, retry_attempts=0, max_event_age=Duration.minutes(1))],
        )
        events.Rule(
            self,
            "ExecutionEnded",
            rule_name=f"{names.prefix}-execution-ended",
            description="Replaces a run that failed, timed out or was aborted",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={"stateMachineArn": [machine_arn], "status": list(ENDED)},
            ),
            targets=[
                targets.LambdaFunction(
                    sweeper, dead_letter_queue=undelivered, retry_attempts=185, max_event_age=Duration.hours(24)
                )
            ],
        )

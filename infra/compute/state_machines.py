"""State machine of the invoice lifecycle, from the same definition that the embedded cell runs."""

import json
from pathlib import Path

from aws_cdk import aws_kms as kms
from aws_cdk import aws_stepfunctions as stepfunctions
from constructs import Construct

from bems.tracker.cells import CellConfig
from infra.common.iam import LOG_DELIVERY, TRACE, allow, arn, own_account, service_role
from infra.common.log_groups import VENDED_LOGS_PREFIX, log_group
from infra.common.names import Names
from infra.compute.functions import Function

DEFINITION = Path(__file__).resolve().parents[2] / "statemachines" / "invoice_lifecycle.asl.json"


class Lifecycle(Construct):
    """Standard workflow of the invoice lifecycle, with its role and log group.

    It logs errors without execution data. Executions are encrypted with an AWS-owned key: their input is only an id and
    two numbers, and a customer-managed key would cost a KMS call for each task response.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        names: Names,
        cell: CellConfig,
        log_key: kms.IKey,
        register_wait: Function,
        escalate: Function,
    ) -> None:
        super().__init__(scope, id)
        self.arn = state_machine_arn(self, names)
        group = log_group(self, "Log", f"{VENDED_LOGS_PREFIX}/states/{names.state_machine}", log_key, cell)
        functions = [register_wait.target.function_arn, escalate.target.function_arn]
        role = service_role(
            self,
            "states.amazonaws.com",
            "The invoice lifecycle invokes its two functions",
            [
                allow(["lambda:InvokeFunction"], functions),
                # These actions support no resource-level permissions.
                allow(LOG_DELIVERY, ["*"]),
                *([allow(TRACE, ["*"])] if cell.tracing else ()),
            ],
            {"StringEquals": own_account(), "ArnLike": {"aws:SourceArn": self.arn}},
        )
        stepfunctions.CfnStateMachine(
            self,
            "StateMachine",
            state_machine_name=names.state_machine,
            state_machine_type="STANDARD",
            role_arn=role.role_arn,
            definition_string=json.dumps(json.loads(DEFINITION.read_text()), separators=(",", ":")),
            definition_substitutions={"RegisterWaitFunction": functions[0], "EscalateFunction": functions[1]},
            logging_configuration=stepfunctions.CfnStateMachine.LoggingConfigurationProperty(
                level="ERROR",
                include_execution_data=False,
                destinations=[
                    stepfunctions.CfnStateMachine.LogDestinationProperty(
                        cloud_watch_logs_log_group=stepfunctions.CfnStateMachine.CloudWatchLogsLogGroupProperty(
                            log_group_arn=group.log_group_arn
                        )
                    )
                ],
            ),
            tracing_configuration=stepfunctions.CfnStateMachine.TracingConfigurationProperty(enabled=cell.tracing),
        )


def state_machine_arn(scope: Construct, names: Names) -> str:
    """Return the state machine's ARN, built from its name.

    A reference would be circular: the state machine invokes the functions, and the functions respond to its tasks.
    """
    return arn(scope, "states", f"stateMachine:{names.state_machine}")

"""Service that applies decisions to invoices on AWS."""

from collections.abc import Mapping
from os import environ
from typing import TypeVar

from bems.aws.alerts import SnsAlerts
from bems.aws.clients import client
from bems.aws.executions import StepFunctionsExecutions
from bems.aws.policy import load_deployed_policy
from bems.aws.records import DynamoRecords
from bems.aws.settings import InvoiceSettings, read_settings
from bems.clock import SystemClock
from bems.tracker.actions import Severity
from bems.tracker.apply_decision import Decide, apply_steps, run_steps
from bems.tracker.policy import Policy
from handlers.telemetry import CountedAlerts, MetricsBuffer

AnswerT = TypeVar("AnswerT")
_S = TypeVar("_S", bound=InvoiceSettings)


class InvoiceService:
    """The ports and the policy of a cell."""

    def __init__(self, settings: InvoiceSettings, policy: Policy, meter: MetricsBuffer) -> None:
        topics: dict[Severity, str] = {
            "warning": settings.warning_topic_arn,
            "critical": settings.critical_topic_arn,
        }
        self.policy = policy
        self.meter = meter
        self.clock = SystemClock()
        self.records = DynamoRecords(client("dynamodb"), settings.table)
        self._executions = StepFunctionsExecutions(client("stepfunctions"), settings.state_machine_arn)
        self._alerts = CountedAlerts(SnsAlerts(client("sns"), settings.cell, topics), meter)

    def decide(self, invoice_id: str, decide: Decide[AnswerT]) -> AnswerT:
        """Make a decision, save it and carry out its actions.

        Raises the error of a service that fails; the actions that are left stay pending in the record.
        """
        return run_steps(apply_steps(invoice_id, decide), self.records, self._executions, self._alerts, self.clock)


def build_service(kind: type[_S], variables: Mapping[str, str] = environ) -> tuple[_S, InvoiceService]:
    """Return the settings of one class, and the cell's service. Raises SettingsError or PolicyMissing."""
    settings = read_settings(kind, variables)
    return settings, InvoiceService(settings, load_deployed_policy(variables), MetricsBuffer(settings.cell))

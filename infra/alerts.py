"""Alerts: a topic per severity, for the tracker's alerts and for alarms, and who hears of it, by the cell's setting.

E-mail is a subscription that its reader confirms. A webhook is an HTTPS subscription: whoever listens must confirm it
too and read SNS's JSON, which is signed with SNS's certificate and not with the cell's own key; a chat service does
neither and needs a relay. `log` needs nothing here: the functions log every alert.
"""

from collections.abc import Mapping
from typing import get_args

from aws_cdk import Annotations, CfnParameter, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from bems.tracker.actions import Severity
from bems.tracker.cells import Cell, Webhook
from infra.names import Names
from infra.policies import own_account

_RETRIES = {
    "healthyRetryPolicy": {
        "numRetries": 50,
        "numNoDelayRetries": 3,
        "minDelayTarget": 2,
        "maxDelayTarget": 600,
        "numMinDelayRetries": 2,
        "numMaxDelayRetries": 35,
        "backoffFunction": "exponential",
    }
}
"""Some six hours of tries (SNS developer guide, "Message delivery retries": 3,600 seconds between them at most, 23 days
in all)."""


class Alerts(Construct):
    """The severity topics and their subscriptions."""

    def __init__(self, scope: Construct, id: str, names: Names, cell: Cell, key: kms.IKey) -> None:
        super().__init__(scope, id)
        self._key = key
        self.topics: Mapping[Severity, sns.Topic] = {
            severity: self._topic(names, severity) for severity in get_args(Severity)
        }
        self._parameters: dict[str, CfnParameter] = {}
        for severity, topic in self.topics.items():
            subscribed: set[str] = set()
            for number, destination in enumerate(getattr(cell.alerts, severity)):
                if destination.webhook is not None:
                    self._send_to_webhook(topic, f"{severity.capitalize()}Webhook{number}", destination.webhook)
                for address in destination.email.to if destination.email is not None else ():
                    if address not in subscribed:
                        subscribed.add(address)
                        self._subscribe(topic, f"{severity.capitalize()}Email{number}-{address}", "email", address)

    def _topic(self, names: Names, severity: Severity) -> sns.Topic:
        topic = sns.Topic(
            self,
            severity.capitalize(),
            topic_name=names.alerts(severity),
            display_name=f"BEMS {names.cell} {severity}",
            master_key=self._key,
            enforce_ssl=True,
        )
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsPublish",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": own_account()},
            )
        )
        return topic

    def _send_to_webhook(self, topic: sns.Topic, id: str, webhook: Webhook) -> None:
        if webhook.url is not None and not webhook.url.startswith("https://"):
            raise ValueError(f"{self.node.path}: {webhook.url} is on one machine: use an https URL for a cell on AWS")
        if webhook.secret_env is not None:
            Annotations.of(self).add_warning_v2(
                f"bems:{id}-unsigned",
                f"SNS signs with its own certificate: {webhook.secret_env} is not used on AWS",
            )
        endpoint = webhook.url if webhook.url_env is None else self._parameter(webhook.url_env).value_as_string
        self._subscribe(topic, id, "https", str(endpoint), delivery_policy=_RETRIES)

    def _parameter(self, variable: str) -> CfnParameter:
        """A URL that is a secret comes with the deployment (`--parameters`), and is in no template."""
        if variable not in self._parameters:
            self._parameters[variable] = CfnParameter(
                Stack.of(self),
                "".join(part.capitalize() for part in variable.split("_")),
                no_echo=True,
                allowed_pattern="https://.+",
                constraint_description="an https URL",
                description=f"What {variable} names in cells.yaml: the URL of a webhook",
            )
        return self._parameters[variable]

    def _subscribe(
        self,
        topic: sns.Topic,
        id: str,
        protocol: str,
        endpoint: str,
        delivery_policy: Mapping[str, object] | None = None,
    ) -> None:
        sns.CfnSubscription(
            self, id, topic_arn=topic.topic_arn, protocol=protocol, endpoint=endpoint, delivery_policy=delivery_policy
        )

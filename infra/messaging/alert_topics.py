"""SNS topics for alerts and alarms, one for each severity, with the subscriptions in the cell's settings.

- E-mail: an e-mail subscription, which the recipient confirms.
- Webhook: an HTTPS subscription. The endpoint must confirm it and accept SNS's JSON, which is signed with SNS's
  certificate, not with the cell's key. Chat services do neither and need a relay.
- Log: no subscription, because the functions log every alert.

The construct id of a subscription is derived from its endpoint, not from its position in the list. With a new id,
CloudFormation would create a new subscription and then delete the old one; SNS treats both as the same subscription, so
the deletion would remove it.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, get_args

from aws_cdk import Annotations, CfnParameter, Stack
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from bems.tracker.actions import Severity
from bems.tracker.cells import CellConfig, WebhookConfig
from infra.common.iam import allow_service, own_account
from infra.common.names import Names
from infra.messaging.stage_queues import allow_topic

_RETRIES = {
    "healthyRetryPolicy": {
        "numRetries": 50,
        "numNoDelayRetries": 3,
        "minDelayTarget": 2,
        "maxDelayTarget": 60,
        "numMinDelayRetries": 2,
        "numMaxDelayRetries": 35,
        "backoffFunction": "exponential",
    }
}
"""Retries for about 40 minutes; 45 at most, for any backoff curve. SNS rejects a policy whose delays add up to more
than 3,600 seconds (SNS developer guide, "Message delivery retries")."""


class AlertTopics(Construct):
    """Severity topics and their subscriptions. Messages that SNS cannot deliver to a webhook go to `undelivered`."""

    def __init__(
        self, scope: Construct, id: str, names: Names, cell: CellConfig, key: kms.IKey, undelivered: sqs.Queue
    ) -> None:
        super().__init__(scope, id)
        self._key = key
        self._undelivered = undelivered
        self.topics: Mapping[Severity, sns.Topic] = {
            severity: self._topic(names, severity) for severity in get_args(Severity)
        }
        undelivered.add_to_resource_policy(
            allow_topic(undelivered, [topic.topic_arn for topic in self.topics.values()])
        )
        self._parameters: dict[str, CfnParameter] = {}
        for severity, topic in self.topics.items():
            title = severity.capitalize()
            for destination in getattr(cell.alerts, severity):
                if destination.webhook is not None:
                    self._send_to_webhook(topic, title, destination.webhook)
                for address in destination.email.to if destination.email is not None else ():
                    self._subscribe(topic, f"{title}Email-{address}", "email", address)

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
            allow_service(
                "cloudwatch.amazonaws.com",
                ["sns:Publish"],
                {"StringEquals": own_account()},
                "AlarmsPublish",
                [topic.topic_arn],
            )
        )
        return topic

    def _send_to_webhook(self, topic: sns.Topic, title: str, webhook: WebhookConfig) -> None:
        if webhook.url is not None and not webhook.url.startswith("https://"):
            raise ValueError(f"{self.node.path}: {webhook.url} is not https: use an https URL for a cell on AWS")
        id = f"{title}Webhook-{webhook.url_env or sha256(str(webhook.url).encode()).hexdigest()[:12]}"
        if webhook.secret_env is not None:
            Annotations.of(self).add_warning_v2(
                f"bems:{id}-unsigned",
                f"SNS signs with its own certificate: {webhook.secret_env} is not used on AWS",
            )
        endpoint = webhook.url if webhook.url_env is None else self._parameter(webhook.url_env).value_as_string
        self._subscribe(
            topic,
            id,
            "https",
            str(endpoint),
            delivery_policy=_RETRIES,
            redrive_policy={"deadLetterTargetArn": self._undelivered.queue_arn},
        )

    def _parameter(self, variable: str) -> CfnParameter:
        """Return the stack parameter for a secret URL.

        Its value is given at deployment (`--parameters`), so that it appears in no template.
        """
        if variable not in self._parameters:
            self._parameters[variable] = CfnParameter(
                Stack.of(self),
                "".join(part.capitalize() for part in variable.split("_")),
                no_echo=True,
                allowed_pattern="https://.+",
                constraint_description="an https URL",
                description=f"URL of the webhook that cells.yaml names by {variable}",
            )
        return self._parameters[variable]

    def _subscribe(self, topic: sns.Topic, id: str, protocol: str, endpoint: str, **properties: Any) -> None:
        # An endpoint that is listed twice gets one subscription.
        if self.node.try_find_child(id) is None:
            sns.CfnSubscription(self, id, topic_arn=topic.topic_arn, protocol=protocol, endpoint=endpoint, **properties)

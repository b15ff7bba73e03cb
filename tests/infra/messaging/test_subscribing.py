"""Tests of another team's subscription with the subscriber role of the synthesized template.

The role, the topics and the team's queue are created in moto in two accounts, as in the templates. Calls go to moto
with the credentials that STS returned, but `tests.infra.access` evaluates the policies, because moto would allow either
everything or nothing. The token of a cross-account subscription is not tested, because moto does not require it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import boto3
import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template as Synthesized
from moto import mock_aws
from moto.sns.models import sns_backends

from bems.aws.buses import CustomBus
from bems.aws.messages import Origin, decode_message
from bems.tracker.contract import STAGES, Event
from bems.tracker.parsing import parse_event
from infra.messaging.subscribers import TeamQueue
from tests.aws.cloud import envelope, event_body
from tests.infra.access import verdict
from tests.infra.template import Template
from tests.tracker.samples import NOW

pytestmark = pytest.mark.xdist_group("cdk")

REGION, CELL_ACCOUNT, TEAM_ACCOUNT, STRANGER = "eu-west-1", "123456789012", "210987654321", "333333333333"
EXTERNAL_ID = "treasury-reads-postings-7f3a"
EUR = {"detail": {"event": {"currency": ["EUR"], "status": ["posted"]}}}


class Denied(Exception):
    """The policies do not allow the call."""


class Accounts:
    """Two accounts in moto: the cell's, with its topics and the team's role, and the team's, with its queue."""

    def __init__(self, cell: Template) -> None:
        self.cell = self.session(CELL_ACCOUNT)
        self.team = self.session(TEAM_ACCOUNT)
        sns = self.cell.client("sns")
        self.topics: dict[str, str] = {
            stage: sns.create_topic(
                Name=cell.at(f"Intake/{stage.capitalize()}/Topic")["TopicName"], Attributes={"FifoTopic": "true"}
            )["TopicArn"]
            for stage in STAGES
        }
        self.role = self._create_role(cell)
        self.queue_arn, self.queue_url = self._create_queue()

    def session(self, account: str) -> Any:
        """Return the session of a deployer in an account."""
        arn = f"arn:aws:iam::{account}:role/deployer"
        own = boto3.Session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y")
        return session_of(own.client("sts").assume_role(RoleArn=arn, RoleSessionName="test"))

    def _create_role(self, cell: Template) -> str:
        text = json.dumps(cell.at("Subscriber-treasury/Role"))
        for stage, topic in self.topics.items():
            text = text.replace(f"<Intake/{stage.capitalize()}/Topic>", topic)
        assert "<" not in text, "the template refers to a resource that does not exist in moto"
        role, iam = json.loads(text), self.cell.client("iam")
        created = iam.create_role(
            RoleName=role["RoleName"], AssumeRolePolicyDocument=json.dumps(role["AssumeRolePolicyDocument"])
        )
        for policy in role["Policies"]:
            iam.put_role_policy(
                RoleName=role["RoleName"],
                PolicyName=policy["PolicyName"],
                PolicyDocument=json.dumps(policy["PolicyDocument"]),
            )
        arn: str = created["Role"]["Arn"]
        return arn

    def _create_queue(self) -> tuple[str, str]:
        sqs = self.team.client("sqs")
        url = sqs.create_queue(QueueName="postings.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        return f"arn:aws:sqs:{REGION}:{TEAM_ACCOUNT}:postings.fifo", url

    def assume(self, by: Any, external_id: str | None) -> Any:
        """Return an SNS client with the role's credentials that evaluates the role's policy before each call.

        Raises Denied when the session `by` may not assume the role. Each call raises it when the policy does not allow
        the call.
        """
        iam, name = self.cell.client("iam"), self.role.split("/")[1]
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        arguments = {} if external_id is None else {"ExternalId": external_id}
        sts = by.client("sts")
        caller = sts.get_caller_identity()["Arn"]
        context = {f"sts:{key}": value for key, value in arguments.items()}
        if verdict(trust, "sts:AssumeRole", principal=caller, context=context) != "allowed":
            raise Denied(caller)
        sns = session_of(sts.assume_role(RoleArn=self.role, RoleSessionName="subscribe", **arguments)).client("sns")
        policies = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        ]

        def authorize(params: dict[str, Any], model: Any, **_: Any) -> None:
            resource = params.get("TopicArn") or params["SubscriptionArn"]
            keys = {f"sns:{key}": params[key] for key in ("Protocol", "Endpoint") if key in params}
            verdicts = {verdict(policy, f"sns:{model.name}", resource, context=keys) for policy in policies}
            if "denied" in verdicts or "allowed" not in verdicts:
                raise Denied(f"{model.name} {params}")

        sns.meta.events.register("provide-client-params.sns", authorize)
        return sns

    def subscribe(self, sns: Any, attributes: dict[str, str], stage: str = "posting") -> None:
        """Subscribe the team's queue to a stage's topic."""
        subscription = sns.subscribe(
            TopicArn=self.topics[stage],
            Protocol="sqs",
            Endpoint=self.queue_arn,
            Attributes=attributes,
            ReturnSubscriptionArn=True,
        )
        # moto ignores the account in the queue's ARN and looks for the queue in the topic's account.
        sns_backends[CELL_ACCOUNT][REGION].subscriptions[subscription["SubscriptionArn"]].account_id = TEAM_ACCOUNT

    def publish(self, *events: Event) -> None:
        """Publish the entries of the producer's adapter to the topics, as the bus's subscribers do."""
        sns = self.cell.client("sns")
        for entry in bus_entries(events):
            metadata = entry["SystemMetadata"]
            sns.publish(
                TopicArn=self.topics[entry["DetailType"].removeprefix("Invoice").lower()],
                Message=json.dumps(envelope(entry)),
                MessageGroupId=metadata["EventGroupId"],
                MessageDeduplicationId=metadata["DeduplicationId"],
            )

    def received(self) -> list[str]:
        """Return the ids of the events in the team's queue, decoded as a processor decodes them."""
        sqs = self.team.client("sqs")
        messages = sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        return [decode_message(message["Body"], NOW).event_id for message in messages]


def session_of(assumed: Any) -> Any:
    """Return a session with the credentials of an AssumeRole response."""
    credentials = assumed["Credentials"]
    return boto3.Session(
        region_name=REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )


def bus_entries(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the PutEvents entries that the producer's adapter sends to the custom bus."""
    entries: list[dict[str, Any]] = []

    class FakeClient:
        def put_events(self, EventBusArn: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002, N803
            entries.extend(Entries)
            return {"Entries": [{"SuccessCode": "PUBLISHED"}] * len(Entries)}

    assert CustomBus(FakeClient(), "bus").publish(events, Origin("eu-west", REGION, CELL_ACCOUNT)) == [None] * len(
        events
    )
    return entries


def event(stage: Any, status: str, event_id: str, currency: str = "EUR") -> Event:
    parsed = parse_event(stage, json.dumps(event_body("INV/1", status, event_id, currency=currency)).encode(), NOW)
    assert isinstance(parsed, Event), parsed
    return parsed


EVENTS = (
    event("posting", "posted", "euros"),
    event("posting", "posted", "dollars", "USD"),
    event("posting", "failed", "failed"),
    event("authorization", "approved", "approved"),
)


@pytest.fixture
def accounts(fifo: Template) -> Iterator[Accounts]:
    with mock_aws():
        yield Accounts(fifo)


def team_stack(topic_arn: str) -> tuple[TeamQueue, Template]:
    """Return the queue in the team's own stack, and the stack's template."""
    stack = Stack(App(analytics_reporting=False), "Treasury")
    team = TeamQueue(stack, "Postings", name="postings.fifo", topic_arn=topic_arn, filter=EUR, subscribe=False)
    raw = Synthesized.from_stack(stack).to_json()
    return team, Template("Treasury", raw, {id: id for id in raw["Resources"]})


def test_a_team_receives_only_the_events_that_match_its_filter(accounts: Accounts) -> None:
    team, _ = team_stack(accounts.topics["posting"])
    accounts.subscribe(accounts.assume(accounts.team, EXTERNAL_ID), team.attributes)
    accounts.publish(*EVENTS)
    assert accounts.received() == ["euros"]


def test_without_a_filter_a_team_receives_every_event_of_its_stage(accounts: Accounts) -> None:
    """The team may omit the filter: IAM has no condition key that could require one."""
    accounts.subscribe(accounts.assume(accounts.team, EXTERNAL_ID), {"RawMessageDelivery": "true"})
    accounts.publish(*EVENTS)
    assert accounts.received() == ["euros", "dollars", "failed"]


def test_only_the_subscribed_topic_may_send_to_the_teams_queues(accounts: Accounts) -> None:
    """Evaluates the policies of the queues and their key, which moto ignores."""
    _, template = team_stack(accounts.topics["posting"])
    key = template.only("AWS::KMS::Key")["KeyPolicy"]
    policies = template.by_type("AWS::SQS::QueuePolicy")
    assert len(policies) == 2
    for topic, expected in ((accounts.topics["posting"], "allowed"), (accounts.topics["ingestion"], "nothing")):
        context = {"aws:SourceArn": topic, "aws:SecureTransport": "true"}
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            assert verdict(key, action, principal="sns.amazonaws.com", context=context) == expected
        for policy in policies.values():
            (queue,), document = policy["Queues"], policy["PolicyDocument"]
            assert verdict(document, "sqs:SendMessage", queue, "sns.amazonaws.com", context) == expected
            plain = {**context, "aws:SecureTransport": "false"}
            assert verdict(document, "sqs:SendMessage", queue, "sns.amazonaws.com", plain) == "denied"


@pytest.mark.parametrize("external_id", [None, "", "treasury-reads-postings", EXTERNAL_ID.upper()])
def test_the_role_cannot_be_assumed_without_the_external_id(accounts: Accounts, external_id: str | None) -> None:
    with pytest.raises(Denied, match=f":{TEAM_ACCOUNT}:"):
        accounts.assume(accounts.team, external_id)


@pytest.mark.parametrize("account", [CELL_ACCOUNT, STRANGER])
def test_other_accounts_cannot_assume_the_role_with_the_external_id(accounts: Accounts, account: str) -> None:
    with pytest.raises(Denied, match=f":{account}:"):
        accounts.assume(accounts.session(account), EXTERNAL_ID)


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        ("https", "https://example.com/hook"),
        ("https", f"arn:aws:sqs:{REGION}:{TEAM_ACCOUNT}:postings.fifo"),
        ("email", "treasurer@example.com"),
        ("sms", "+31612345678"),
        ("sqs", f"arn:aws:sqs:{REGION}:{STRANGER}:postings.fifo"),
        ("sqs", f"arn:aws:sqs:{REGION}:{CELL_ACCOUNT}:bems-eu-west-posting.fifo"),
        ("sqs", f"arn:aws:sqs:{REGION}:{STRANGER}:{TEAM_ACCOUNT}:postings.fifo"),
        ("lambda", f"arn:aws:lambda:{REGION}:{STRANGER}:function:postings"),
        ("firehose", f"arn:aws:firehose:{REGION}:{TEAM_ACCOUNT}:deliverystream/postings"),
    ],
)
def test_the_role_subscribes_only_the_teams_own_queues_and_functions(
    accounts: Accounts, protocol: str, endpoint: str
) -> None:
    sns = accounts.assume(accounts.team, EXTERNAL_ID)
    with pytest.raises(Denied, match="Subscribe"):
        sns.subscribe(TopicArn=accounts.topics["posting"], Protocol=protocol, Endpoint=endpoint)
    assert sns.list_subscriptions_by_topic(TopicArn=accounts.topics["posting"])["Subscriptions"] == []


def test_the_role_allows_no_other_action_and_no_other_topic(accounts: Accounts) -> None:
    sns, posting = accounts.assume(accounts.team, EXTERNAL_ID), accounts.topics["posting"]
    accounts.subscribe(sns, {})
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=posting)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("sqs", accounts.queue_arn)
    with pytest.raises(Denied):
        accounts.subscribe(sns, {}, stage="authorization")
    for call, arguments in (
        (sns.publish, {"TopicArn": posting, "Message": "{}"}),
        (sns.get_topic_attributes, {"TopicArn": posting}),
        (sns.delete_topic, {"TopicArn": posting}),
        (sns.unsubscribe, {"SubscriptionArn": subscription["SubscriptionArn"]}),
        (sns.list_subscriptions_by_topic, {"TopicArn": accounts.topics["ingestion"]}),
    ):
        with pytest.raises(Denied):
            call(**arguments)

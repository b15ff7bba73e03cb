"""Another team's subscription, by the role of the synthesized template: assumed, used, and heard by.

The role, the topics and the team's queue are made in moto as the templates say, in two accounts. Calls go to moto with
the credentials that STS gave out, but what a policy says to them is found out here (`access`), for moto would let
everybody in or nobody. Not shown: that a subscription across accounts waits for its token, which moto does not ask for.
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


class World:
    """Two accounts: the cell's, with its topics and the team's role, and the team's, with its queue."""

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
        self.role = self._make_role(cell)
        self.queue_arn, self.queue_url = self._make_queue()

    def session(self, account: str) -> Any:
        """Of a deployer in an account."""
        arn = f"arn:aws:iam::{account}:role/deployer"
        own = boto3.Session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y")
        return signed_in(own.client("sts").assume_role(RoleArn=arn, RoleSessionName="test"))

    def _make_role(self, cell: Template) -> str:
        text = json.dumps(cell.at("Subscriber-treasury/Role"))
        for stage, topic in self.topics.items():
            text = text.replace(f"<Intake/{stage.capitalize()}/Topic>", topic)
        assert "<" not in text, "something in the template that was not made here"
        role, iam = json.loads(text), self.cell.client("iam")
        made = iam.create_role(
            RoleName=role["RoleName"], AssumeRolePolicyDocument=json.dumps(role["AssumeRolePolicyDocument"])
        )
        for policy in role["Policies"]:
            iam.put_role_policy(
                RoleName=role["RoleName"],
                PolicyName=policy["PolicyName"],
                PolicyDocument=json.dumps(policy["PolicyDocument"]),
            )
        arn: str = made["Role"]["Arn"]
        return arn

    def _make_queue(self) -> tuple[str, str]:
        sqs = self.team.client("sqs")
        url = sqs.create_queue(QueueName="postings.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        return f"arn:aws:sqs:{REGION}:{TEAM_ACCOUNT}:postings.fifo", url

    def assume(self, by: Any, external_id: str | None) -> Any:
        """A client of SNS with the role's credentials, which asks the role's policy before each call. Denied."""
        iam, name = self.cell.client("iam"), self.role.split("/")[1]
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        given = {} if external_id is None else {"ExternalId": external_id}
        sts = by.client("sts")
        caller = sts.get_caller_identity()["Arn"]
        context = {f"sts:{key}": value for key, value in given.items()}
        if verdict(trust, "sts:AssumeRole", principal=caller, context=context) != "allowed":
            raise Denied(caller)
        sns = signed_in(sts.assume_role(RoleArn=self.role, RoleSessionName="subscribe", **given)).client("sns")
        policies = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        ]

        def ask(params: dict[str, Any], model: Any, **_: Any) -> None:
            resource = params.get("TopicArn") or params["SubscriptionArn"]
            keys = {f"sns:{key}": params[key] for key in ("Protocol", "Endpoint") if key in params}
            said = {verdict(policy, f"sns:{model.name}", resource, context=keys) for policy in policies}
            if "denied" in said or "allowed" not in said:
                raise Denied(f"{model.name} {params}")

        sns.meta.events.register("provide-client-params.sns", ask)
        return sns

    def subscribe(self, sns: Any, attributes: dict[str, str], stage: str = "posting") -> None:
        """The team's queue to a stage's topic."""
        made = sns.subscribe(
            TopicArn=self.topics[stage],
            Protocol="sqs",
            Endpoint=self.queue_arn,
            Attributes=attributes,
            ReturnSubscriptionArn=True,
        )
        # moto looks for the queue in the topic's account, whatever its ARN says.
        sns_backends[CELL_ACCOUNT][REGION].subscriptions[made["SubscriptionArn"]].account_id = TEAM_ACCOUNT

    def publish(self, *events: Event) -> None:
        """As the cell does: put on the bus by the producer's adapter, and published as the bus's subscribers say."""
        sns = self.cell.client("sns")
        for entry in put(events):
            metadata = entry["SystemMetadata"]
            sns.publish(
                TopicArn=self.topics[entry["DetailType"].removeprefix("Invoice").lower()],
                Message=json.dumps(envelope(entry)),
                MessageGroupId=metadata["EventGroupId"],
                MessageDeduplicationId=metadata["DeduplicationId"],
            )

    def heard(self) -> list[str]:
        """The ids of the events in the team's queue, read as a processor reads them."""
        sqs = self.team.client("sqs")
        found = sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        return [decode_message(message["Body"], NOW).event_id for message in found]


def signed_in(answer: Any) -> Any:
    credentials = answer["Credentials"]
    return boto3.Session(
        region_name=REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )


def put(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The entries that the adapter of the custom bus puts."""
    entries: list[dict[str, Any]] = []

    class Taker:
        def put_events(self, EventBusArn: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002, N803
            entries.extend(Entries)
            return {"Entries": [{"SuccessCode": "PUBLISHED"}] * len(Entries)}

    assert CustomBus(Taker(), "bus").publish(events, Origin("eu-west", REGION, CELL_ACCOUNT)) == [None] * len(events)
    return entries


def event(stage: Any, status: str, event_id: str, currency: str = "EUR") -> Event:
    sent = parse_event(stage, json.dumps(event_body("INV/1", status, event_id, currency=currency)).encode(), NOW)
    assert isinstance(sent, Event), sent
    return sent


EVENTS = (
    event("posting", "posted", "euros"),
    event("posting", "posted", "dollars", "USD"),
    event("posting", "failed", "failed"),
    event("authorization", "approved", "approved"),
)


@pytest.fixture
def world(fifo: Template) -> Iterator[World]:
    with mock_aws():
        yield World(fifo)


def team_stack(topic_arn: str) -> tuple[TeamQueue, Template]:
    """The other half, of the team's own stack, and its template."""
    stack = Stack(App(analytics_reporting=False), "Treasury")
    team = TeamQueue(stack, "Postings", name="postings.fifo", topic_arn=topic_arn, filter=EUR, subscribe=False)
    raw = Synthesized.from_stack(stack).to_json()
    return team, Template("Treasury", raw, {id: id for id in raw["Resources"]})


def test_a_team_hears_what_its_filter_lets_through_and_nothing_else(world: World) -> None:
    team, _ = team_stack(world.topics["posting"])
    world.subscribe(world.assume(world.team, EXTERNAL_ID), team.attributes)
    world.publish(*EVENTS)
    assert world.heard() == ["euros"]


def test_without_a_filter_a_team_hears_its_whole_stage_and_no_other(world: World) -> None:
    """A filter is the team's own choice: no condition key of IAM's knows it."""
    world.subscribe(world.assume(world.team, EXTERNAL_ID), {"RawMessageDelivery": "true"})
    world.publish(*EVENTS)
    assert world.heard() == ["euros", "dollars", "failed"]


def test_the_topic_may_fill_the_teams_queues_and_no_other_topic_may(world: World) -> None:
    """What moto does not ask: the queues' policies and their key's."""
    _, template = team_stack(world.topics["posting"])
    key = template.only("AWS::KMS::Key")["KeyPolicy"]
    policies = template.by_type("AWS::SQS::QueuePolicy")
    assert len(policies) == 2
    for topic, expected in ((world.topics["posting"], "allowed"), (world.topics["ingestion"], "nothing")):
        context = {"aws:SourceArn": topic, "aws:SecureTransport": "true"}
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            assert verdict(key, action, principal="sns.amazonaws.com", context=context) == expected
        for policy in policies.values():
            (queue,), document = policy["Queues"], policy["PolicyDocument"]
            assert verdict(document, "sqs:SendMessage", queue, "sns.amazonaws.com", context) == expected
            plain = {**context, "aws:SecureTransport": "false"}
            assert verdict(document, "sqs:SendMessage", queue, "sns.amazonaws.com", plain) == "denied"


@pytest.mark.parametrize("external_id", [None, "", "treasury-reads-postings", EXTERNAL_ID.upper()])
def test_without_the_external_id_nobody_assumes_the_role(world: World, external_id: str | None) -> None:
    with pytest.raises(Denied, match=f":{TEAM_ACCOUNT}:"):
        world.assume(world.team, external_id)


@pytest.mark.parametrize("account", [CELL_ACCOUNT, STRANGER])
def test_who_is_not_of_the_team_cannot_assume_the_role_with_it(world: World, account: str) -> None:
    with pytest.raises(Denied, match=f":{account}:"):
        world.assume(world.session(account), EXTERNAL_ID)


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
def test_the_role_subscribes_nothing_but_the_teams_own_queues_and_functions(
    world: World, protocol: str, endpoint: str
) -> None:
    sns = world.assume(world.team, EXTERNAL_ID)
    with pytest.raises(Denied, match="Subscribe"):
        sns.subscribe(TopicArn=world.topics["posting"], Protocol=protocol, Endpoint=endpoint)
    assert sns.list_subscriptions_by_topic(TopicArn=world.topics["posting"])["Subscriptions"] == []


def test_the_role_does_nothing_else_and_nothing_to_other_topics(world: World) -> None:
    sns, posting = world.assume(world.team, EXTERNAL_ID), world.topics["posting"]
    world.subscribe(sns, {})
    (made,) = sns.list_subscriptions_by_topic(TopicArn=posting)["Subscriptions"]
    assert (made["Protocol"], made["Endpoint"]) == ("sqs", world.queue_arn)
    with pytest.raises(Denied):
        world.subscribe(sns, {}, stage="authorization")
    for call, arguments in (
        (sns.publish, {"TopicArn": posting, "Message": "{}"}),
        (sns.get_topic_attributes, {"TopicArn": posting}),
        (sns.delete_topic, {"TopicArn": posting}),
        (sns.unsubscribe, {"SubscriptionArn": made["SubscriptionArn"]}),
        (sns.list_subscriptions_by_topic, {"TopicArn": world.topics["ingestion"]}),
    ):
        with pytest.raises(Denied):
            call(**arguments)

"""The cells: what `cells.yaml` may say, as one definition. `bems.tracker.config` reads it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from bems.tracker.contract import STAGES, Name, Stage
from bems.tracker.parsing import MAX_BATCH_EVENTS
from bems.tracker.policy import PolicySpec

CellName = Annotated[
    str, Meta(max_length=20, pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*(?!\n)$", description="1 to 20 of a-z, 0-9 and -")
]
Region = Annotated[
    str, Meta(pattern=r"^[a-z]{2,4}(-[a-z]+){1,2}-[0-9]{1,2}(?!\n)$", description="an AWS Region, such as eu-west-1")
]
Account = Annotated[str, Meta(pattern=r"^[0-9]{12}(?!\n)$", description='12 digits in quotes, such as "123456789012"')]
_URL = r"^(https://[^\s/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)([/?#]\S*)?(?!\n)$"
Url = Annotated[
    str, Meta(max_length=2048, pattern=_URL, description="https, without user or password (http for localhost only)")
]
VariableName = Annotated[
    str, Meta(pattern=r"^[A-Z_][A-Z0-9_]{0,127}(?!\n)$", description="an environment variable's name, not the secret")
]
Address = Annotated[
    str, Meta(max_length=254, pattern=r"^[^\s@]+@[^\s@]+\.[^\s@]+(?!\n)$", description="an e-mail address")
]
TagName = Annotated[
    str,
    Meta(max_length=128, pattern=r"^(?![aA][wW][sS]:)[\w .:/=+@-]+(?!\n)$", description="a tag's name, not of aws:"),
]
TagValue = Annotated[str, Meta(max_length=256, pattern=r"^[\w .:/=+@-]*(?!\n)$", description="a tag's value")]
RetentionDays = Literal[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]
"""What CloudWatch Logs takes (API reference of PutRetentionPolicy)."""


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """A token bucket: so many requests a second on average, so many at once. On one machine a batch counts as often
    as it has events, in API Gateway once."""

    requests_per_second: Annotated[int, Meta(ge=1, le=100_000)]
    burst: Annotated[int, Meta(ge=1, le=100_000)]


class StageRates(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one key may send to each stage. The default is twice what 60,000 events a minute come to."""

    ingestion: Rate = Rate(500, 1000)
    authorization: Rate = Rate(500, 1000)
    reconciliation: Rate = Rate(500, 1000)
    posting: Rate = Rate(500, 1000)


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much a cell takes; over a rate it answers 429. The default takes 60,000 events a minute, unbatched."""

    key: Rate = Rate(1000, 2000)
    """How fast one API key may send to all stages together."""
    stages: StageRates = StageRates()
    max_batch: Annotated[int, Meta(ge=1, le=MAX_BATCH_EVENTS)] = MAX_BATCH_EVENTS
    """The most events in one batch request."""
    open_executions: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    """The Step Functions quota of the cell's account and Region, for alarms and the dashboard; it stops nothing."""


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP POST per alert, to exactly one of `url` and `url_env`."""

    url: Url | None = None
    url_env: VariableName | None = None
    """For a URL that is itself a secret, as those of chat services are."""
    secret_env: VariableName | None = None
    """Where the key that signs the requests is found; without one they are not signed."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_env is None):
            raise ValueError('a webhook has one address: use either "url" or "url_env"')


class Email(Struct, frozen=True, forbid_unknown_fields=True):
    """A message per alert; `sender`, in the file `from`, defaults to what the home is set up with."""

    to: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=50, description="1 to 50 e-mail addresses")]
    sender: Address | None = msgspec.field(name="from", default=None)


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """A line in the cell's log per alert."""


class Destination(Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts go: exactly one of the three."""

    webhook: Webhook | None = None
    email: Email | None = None
    log: Log | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.webhook, self.email, self.log)) != 1:
            raise ValueError('a destination is one way to send: use one of "webhook", "email", "log" in each list item')


Destinations = Annotated[tuple[Destination, ...], Meta(min_length=1, max_length=20, description="1 to 20 destinations")]


class Alerts(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the alerts of each severity go. An empty list would silence them, so it is refused: `log` is the least."""

    warning: Destinations = (Destination(log=Log()),)
    critical: Destinations = (Destination(log=Log()),)


class Smtp(Struct, frozen=True, forbid_unknown_fields=True):
    """The mail server of a cell that runs on one machine, and who writes where an e-mail does not say."""

    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+(?!\n)$", description="a mail server's host")]
    port: Annotated[int, Meta(ge=1, le=65535, description="1 to 65535")] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`tls` speaks it from the first byte (port 465); `none` is for a server on this machine or a trusted network."""
    user: Name | None = None
    password_env: VariableName | None = None
    """Where the password of `user` is found."""
    sender: Address | None = msgspec.field(name="from", default=None)

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password_env is None):
            raise ValueError('a login has two parts: use both "user" and "password_env", or neither')


class Embedded(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the cell listens when it runs on one machine, and how it sends e-mail there."""

    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+(?!\n)$", description="a host to bind")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="0 to 65535; 0 takes a free one")] = 8080
    smtp: Smtp | None = None
    """The one destination that needs it is e-mail."""


class Subscriber(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another team that may subscribe to topics of a cell on AWS, from its own account by assuming a role."""

    name: CellName
    external_id: Annotated[
        str,
        Meta(
            min_length=16,
            max_length=128,
            pattern=r"^[\w+=,.@:/-]+(?!\n)$",
            description="16 to 128 letters, digits and +=,.@:/-: an id that both sides agreed on, which is no secret",
        ),
    ]
    account: Account | None = None
    """Without one, the cell's own."""
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=4)] = STAGES


Instances = Annotated[int, Meta(ge=1, le=100_000)]

MIN_UNRESERVED_INSTANCES = 100
"""Instances of an account that Lambda lets nobody reserve (developer guide, "Configuring reserved concurrency")."""


class Concurrency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many instances of each of a cell's functions on AWS may run at once, and are kept for it."""

    account: Instances = 1000
    """Lambda's quota of the account and Region, which new accounts may have to ask for."""
    reserved: bool = True
    """Without it the functions share what the account has, and one can take it from all others."""
    producer: Instances = 150
    processor: Annotated[int, Meta(ge=2, le=1000)] = 100
    """Of each of the four stages; the queue calls no more, for what is throttled counts as received (2 to 1,000)."""
    register_wait: Instances = 100
    escalate: Instances = 50
    sweeper: Instances = 10
    recorder: Instances = 100

    def __post_init__(self) -> None:
        if self.reserved and self.total > self.account - MIN_UNRESERVED_INSTANCES:
            raise ValueError(
                f"reserves {self.total} of the {self.account} instances of the account, of which "
                f"{MIN_UNRESERVED_INSTANCES} must be left: "
                'raise the quota and "account", lower the functions, or use "reserved: false"'
            )

    @property
    def total(self) -> int:
        """Of all nine functions."""
        processors = len(STAGES) * self.processor
        return self.producer + processors + self.register_wait + self.escalate + self.sweeper + self.recorder

    def max_provisioned(self) -> int:
        """How many instances of each function on an event's path can be kept warm."""
        if self.reserved:
            return min(self.producer, self.processor, self.register_wait)
        return max(0, self.account - MIN_UNRESERVED_INSTANCES) // (len(STAGES) + 2)


class Cell(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One independent cell: its place, its variants, its policy, its limits. At most one of `policy`, `policy_file`."""

    name: CellName
    """Unique in the file; part of the names of resources, so a renamed cell is a new one."""
    region: Region
    account: Account | None = None
    """Where the cell is deployed; without one, the account of whoever deploys it."""
    delivery: Literal["fifo", "standard"] = "fifo"
    """`fifo` needs EventBridge's Custom Event Bus in the Region; `standard` works in every Region and in emulators."""
    time_series: Literal["timestream", "s3tables"] = "s3tables"
    """`timestream` needs an account with access to Timestream for LiveAnalytics, which takes no new customers."""
    policy: PolicySpec | None = None
    policy_file: Name | None = None
    """The path of a policy, relative to the file of the cells. With neither, the default policy holds."""
    limits: Limits = Limits()
    concurrency: Concurrency = Concurrency()
    """Of its functions on AWS."""
    alerts: Alerts = Alerts()
    embedded: Embedded = Embedded()
    removal: Literal["retain", "destroy"] = "retain"
    """What becomes of the cell's data when its stack is deleted."""
    termination_protection: bool = True
    """Whether the stack refuses to be deleted."""
    subscribers: Annotated[tuple[Subscriber, ...], Meta(max_length=20, description="up to 20 subscribers")] = ()
    """Other teams that may subscribe to the cell's topics."""
    tags: Annotated[dict[TagName, TagValue], Meta(max_length=40, description="up to 40 tags")] = {}
    """On every resource, besides those that the product sets."""
    provisioned_concurrency: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How many instances of each function on an event's path are kept warm."""
    tracing: bool = True
    """Whether X-Ray samples requests."""
    log_retention_days: RetentionDays = 30

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy_file is not None:
            raise ValueError('a cell has one policy: use either "policy" or "policy_file"')
        if self.provisioned_concurrency > (most := self.concurrency.max_provisioned()):
            raise ValueError(
                f'"provisioned_concurrency" is {self.provisioned_concurrency}, more than the {most} that "concurrency" '
                "has for each function on an event's path: lower it, or raise that"
            )


class CellsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`cells.yaml`: every cell of an installation."""

    cells: Annotated[tuple[Cell, ...], Meta(min_length=1, max_length=100, description="a list of 1 to 100 cells")]

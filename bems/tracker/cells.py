"""Schema of `cells.yaml`: one struct per section. `bems.tracker.config` reads the file.

`docs/cells_reference.py` generates the reference of the file from these structs and those of `bems.tracker.policy`. The
docstring of a field is the meaning of its key; the description in its type says which values are allowed, also in
error messages.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from bems.tracker.contract import STAGES, Name, Stage
from bems.tracker.parsing import MAX_BATCH_EVENTS
from bems.tracker.policy import PolicySpec

CellName = Annotated[
    str, Meta(max_length=20, pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*(?!\n)$", description="1 to 20 of a-z, 0-9 and -")
]
RegionName = Annotated[
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
"""Retention periods that CloudWatch Logs accepts (API reference of PutRetentionPolicy)."""


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """Token-bucket rate limit.

    On one machine each event of a batch counts as a request; in API Gateway a batch counts once.
    """

    requests_per_second: Annotated[int, Meta(ge=1, le=100_000)]
    """Average rate."""
    burst: Annotated[int, Meta(ge=1, le=100_000)]
    """Requests that may arrive at once."""


class StageRates(Struct, frozen=True, forbid_unknown_fields=True):
    """Rate limit of one key at each stage. The default is twice the rate of 60,000 events a minute over four stages."""

    ingestion: Rate = Rate(500, 1000)
    """Rate limit of one API key at the ingestion stage."""
    authorization: Rate = Rate(500, 1000)
    """Rate limit of one API key at the authorization stage."""
    reconciliation: Rate = Rate(500, 1000)
    """Rate limit of one API key at the reconciliation stage."""
    posting: Rate = Rate(500, 1000)
    """Rate limit of one API key at the posting stage."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a cell, which answers 429 above a rate. The defaults allow 60,000 events a minute without batches."""

    key: Rate = Rate(1000, 2000)
    """Rate limit of one API key over all stages together."""
    stages: StageRates = StageRates()
    """Rate limits of one API key at each stage."""
    max_batch: Annotated[int, Meta(ge=1, le=MAX_BATCH_EVENTS)] = MAX_BATCH_EVENTS
    """Maximum number of events in one batch request."""
    open_executions: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    """Step Functions quota of the cell's account and Region. Alarms and the dashboard show it; nothing enforces it."""


class WebhookConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """HTTP POST per alert, to exactly one of `url` and `url_env`."""

    url: Url | None = None
    """URL that receives the alerts."""
    url_env: VariableName | None = None
    """Environment variable that holds the URL, for a URL that is a secret, such as a chat service's."""
    secret_env: VariableName | None = None
    """Environment variable that holds the signing key; without it, requests are not signed."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_env is None):
            raise ValueError('a webhook has one address: use either "url" or "url_env"')


class EmailConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """E-mail per alert."""

    to: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=50, description="1 to 50 e-mail addresses")]
    """Recipients."""
    sender: Address | None = msgspec.field(name="from", default=None)
    """Sender on one machine; defaults to `embedded.smtp.from`. On AWS, SNS is the sender."""


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Line in the cell's log per alert. It has no keys: `log: {}`."""


class DestinationConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Destination of alerts: exactly one of webhook, email and log."""

    webhook: WebhookConfig | None = None
    """HTTP POST per alert."""
    email: EmailConfig | None = None
    """E-mail per alert. A cell on one machine also needs `embedded.smtp`."""
    log: LogConfig | None = None
    """Line in the log per alert; on AWS in the log of the function that raises it."""

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.webhook, self.email, self.log)) != 1:
            raise ValueError('a destination is one way to send: use one of "webhook", "email", "log" in each list item')


Destinations = Annotated[
    tuple[DestinationConfig, ...], Meta(min_length=1, max_length=20, description="1 to 20 destinations")
]


class AlertsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Destinations by severity. An empty list is refused, because it would silence alerts; use `log` at least."""

    warning: Destinations = (DestinationConfig(log=LogConfig()),)
    """Destinations of the alerts before `critical_at`, and on AWS of the less urgent alarms."""
    critical: Destinations = (DestinationConfig(log=LogConfig()),)
    """Destinations of the alerts from `critical_at` on, and on AWS of the urgent alarms."""


class Smtp(Struct, frozen=True, forbid_unknown_fields=True):
    """Mail server of a cell that runs on one machine, and the default sender of its e-mails."""

    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+(?!\n)$", description="a mail server's host")]
    """Host of the mail server."""
    port: Annotated[int, Meta(ge=1, le=65535, description="1 to 65535")] = 587
    """Port of the mail server."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`tls` uses TLS from the first byte (port 465); `none` is for a server on this machine or a trusted network."""
    user: Name | None = None
    """User of the login; requires `password_env`. Without it, there is no login."""
    password_env: VariableName | None = None
    """Environment variable that holds the password of `user`."""
    sender: Address | None = msgspec.field(name="from", default=None)
    """Sender of e-mails whose destination has no `from`."""

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password_env is None):
            raise ValueError('a login has two parts: use both "user" and "password_env", or neither')


class Embedded(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a cell that runs on one machine: its address and its mail server."""

    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+(?!\n)$", description="a host to bind")] = (
        "127.0.0.1"
    )
    """Address on which the cell listens."""
    port: Annotated[int, Meta(ge=0, le=65535, description="0 to 65535; 0 takes a free one")] = 8080
    """Port on which the cell listens."""
    smtp: Smtp | None = None
    """Mail server. Only e-mail destinations need it."""


class Subscriber(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another team that may subscribe to topics of a cell on AWS, from its own account, by assuming a role."""

    name: CellName
    """Name of the team, unique in the cell. Part of the role's name."""
    external_id: Annotated[
        str,
        Meta(
            min_length=16,
            max_length=128,
            pattern=r"^[\w+=,.@:/-]+(?!\n)$",
            description="16 to 128 letters, digits and +=,.@:/-: an id that both sides agreed on, which is no secret",
        ),
    ]
    """Id that the team presents when it assumes the role; it tells the team from others."""
    account: Account | None = None
    """Account of the team; defaults to the cell's own."""
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=4, description="1 to 4 stages")] = STAGES
    """Stages whose topics the team may subscribe to."""


Instances = Annotated[int, Meta(ge=1, le=100_000)]

MIN_UNRESERVED_INSTANCES = 100
"""Instances that must stay unreserved in an account (Lambda developer guide, "Configuring reserved concurrency")."""


class Concurrency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Maximum concurrent instances of each Lambda function of a cell, reserved for it by default."""

    account: Instances = 1000
    """Lambda's quota of the account and Region; a new account may have to request this much."""
    reserved: bool = True
    """Whether to reserve the instances. If not, the functions share the account's quota, and one can exhaust it."""
    producer: Instances = 150
    """Instances of the function behind the API."""
    processor: Annotated[int, Meta(ge=2, le=1000)] = 100
    """Instances of each of the four stages' functions. It also limits the queue's event source, because a throttled
    message counts as received."""
    register_wait: Instances = 100
    """Instances of the function that registers an execution's wait."""
    escalate: Instances = 50
    """Instances of the function that raises alerts."""
    sweeper: Instances = 10
    """Instances of the function that finds overdue invoices and lost executions."""
    recorder: Instances = 100
    """Instances of the function that writes the time series."""
    provisioned: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Initialized instances of each function on an event's path (producer, processors, register_wait), which AWS bills
    by the hour."""

    def __post_init__(self) -> None:
        if self.reserved and self.total > self.account - MIN_UNRESERVED_INSTANCES:
            raise ValueError(
                f"reserves {self.total} of the {self.account} instances of the account, of which "
                f"{MIN_UNRESERVED_INSTANCES} must be left: "
                'raise the quota and "account", lower the functions, or use "reserved: false"'
            )
        if self.provisioned > (limit := self.max_provisioned()):
            raise ValueError(
                f'"provisioned" is {self.provisioned}, more than the {limit} that are left for each function on an '
                "event's path: lower it, or raise "
                + ('"producer", "processor" or "register_wait"' if self.reserved else 'the quota and "account"')
            )

    @property
    def total(self) -> int:
        """Instances of all nine functions together."""
        processors = len(STAGES) * self.processor
        return self.producer + processors + self.register_wait + self.escalate + self.sweeper + self.recorder

    def max_provisioned(self) -> int:
        """Return the maximum provisioned concurrency of each function on an event's path."""
        if self.reserved:
            return min(self.producer, self.processor, self.register_wait)
        return max(0, self.account - MIN_UNRESERVED_INSTANCES) // (len(STAGES) + 2)


class CellConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One independent cell: location, variants, policy and limits."""

    name: CellName
    """Unique in the file. Part of resource names, so renaming a cell creates a new one."""
    region: RegionName
    """AWS Region of the cell. A cell on one machine does not use it."""
    account: Account | None = None
    """AWS account of the cell; defaults to the account that deploys it."""
    delivery: Literal["fifo", "standard"] = "fifo"
    """`fifo` needs EventBridge's Custom Event Bus in the Region; `standard` works in every Region and in emulators. A
    deployed cell cannot change it."""
    time_series: Literal["timestream", "s3tables"] = "s3tables"
    """`timestream` needs an account with access to Timestream for LiveAnalytics, which is closed to new customers;
    `s3tables` works in every account. A deployed cell cannot change it."""
    policy: Annotated[PolicySpec | Name, Meta(description="a mapping, or the path of a policy file")] | None = None
    """How long each stage may take: the policy itself, or the path of a policy file, relative to this file. A cell
    without it has the default policy; on one machine it keeps the policy of its last start."""
    limits: Limits = Limits()
    """How much one API key may send, and the quota of open executions."""
    concurrency: Concurrency = Concurrency()
    """Instances of the cell's Lambda functions."""
    alerts: AlertsConfig = AlertsConfig()
    """Where alerts go, by severity."""
    embedded: Embedded = Embedded()
    """Settings of a cell on one machine."""
    removal: Literal["retain", "destroy"] = "retain"
    """`retain` keeps the cell's data when its stack is deleted; `destroy` deletes it."""
    termination_protection: bool = True
    """Whether CloudFormation refuses to delete the stack."""
    subscribers: Annotated[tuple[Subscriber, ...], Meta(max_length=20, description="up to 20 subscribers")] = ()
    """Other teams that may subscribe to the cell's topics."""
    tags: Annotated[dict[TagName, TagValue], Meta(max_length=40, description="up to 40 tags")] = {}
    """Tags of every resource, in addition to the built-in ones."""
    tracing: bool = True
    """Whether X-Ray samples requests."""
    log_retention_days: RetentionDays = 30
    """Days for which CloudWatch keeps the functions' and the API's logs."""


class CellsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of `cells.yaml`: all cells of an installation."""

    cells: Annotated[tuple[CellConfig, ...], Meta(min_length=1, max_length=100, description="a list of 1 to 100 cells")]
    """The cells. Each is deployed, or started on one machine, by itself."""

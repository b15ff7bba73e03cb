"""Cells that cover the settings of a cell on AWS: each variant with its required keys only, and with every key set.

A variant is a pair of `delivery` and `time_series`, the two settings that replace whole parts of a stack. The variants
come from the types of the configuration, so a new value of either setting adds cells.
"""

from itertools import product
from typing import get_args, get_type_hints

from msgspec.structs import replace

from bems.tracker.cells import (
    AlertsConfig,
    CellConfig,
    Concurrency,
    DestinationConfig,
    EmailConfig,
    Limits,
    LogConfig,
    Rate,
    StageRates,
    Subscriber,
    WebhookConfig,
)

REGION = "us-east-1"
"""A Region in which AWS offers every service of every variant."""

ACCOUNT = "000000000000"
"""Account that the complete cells name, which is the emulator's."""

SECRET_URL_PARAMETER = "BemsChatUrl"
"""Stack parameter for the URL of the webhook that has `url_env`."""

_HINTS = get_type_hints(CellConfig)
DELIVERIES: tuple[str, ...] = get_args(_HINTS["delivery"])
TIME_SERIES: tuple[str, ...] = get_args(_HINTS["time_series"])
VARIANTS = tuple(product(DELIVERIES, TIME_SERIES))

_RATE = Rate(10, 20)

# Nothing listens at the webhooks' address. `.invalid` is reserved for names that do not exist (RFC 2606).
COMPLETE = CellConfig(
    name="complete",
    region=REGION,
    account=ACCOUNT,
    limits=Limits(_RATE, StageRates(_RATE, _RATE, _RATE, _RATE), max_batch=10, open_executions=1_000),
    concurrency=Concurrency(
        account=500,
        reserved=False,
        producer=20,
        processor=2,
        register_wait=20,
        escalate=5,
        sweeper=1,
        recorder=5,
        provisioned=1,
    ),
    alerts=AlertsConfig(
        warning=(
            DestinationConfig(email=EmailConfig(("ann@bems.invalid", "bob@bems.invalid"), "bems@bems.invalid")),
            DestinationConfig(email=EmailConfig(("cy@bems.invalid",))),
        ),
        critical=(
            DestinationConfig(webhook=WebhookConfig(url="https://127.0.0.1:9/hook", secret_env="BEMS_HOOK_KEY")),
            DestinationConfig(webhook=WebhookConfig(url_env="BEMS_CHAT_URL")),
            DestinationConfig(log=LogConfig()),
        ),
    ),
    removal="destroy",
    termination_protection=False,
    subscribers=(
        Subscriber(name="audit", external_id="audit-reads-all-stages-51c8"),
        Subscriber(
            name="treasury", external_id="treasury-reads-postings-7f3a", account="210987654321", stages=("posting",)
        ),
    ),
    tags={"cost-center": "finance"},
    tracing=False,
    log_retention_days=7,
)
"""Cell in which every setting that AWS uses differs from its default. `policy` only changes a file of the functions."""


def minimal_cell(delivery: str, time_series: str) -> CellConfig:
    """Return a cell of a variant in which every other setting has its default."""
    return _vary(CellConfig(name="minimal", region=REGION), delivery, time_series, "min")


def complete_cell(delivery: str, time_series: str) -> CellConfig:
    """Return a cell of a variant in which every other setting differs from its default."""
    return _vary(COMPLETE, delivery, time_series, "all")


def _vary(cell: CellConfig, delivery: str, time_series: str, suffix: str) -> CellConfig:
    # A cell's name has at most 20 characters.
    name = f"{delivery[:4]}-{time_series[:4]}-{suffix}"
    return replace(cell, name=name, delivery=delivery, time_series=time_series)


CELLS = tuple(make(*variant) for variant in VARIANTS for make in (minimal_cell, complete_cell))

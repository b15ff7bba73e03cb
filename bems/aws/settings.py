"""Settings of the Lambda functions, read from their environment variables."""

import os
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from bems.tracker.contract import Stage
from bems.tracker.parsing import MAX_BATCH_EVENTS

_S = TypeVar("_S", bound="CellSettings")

NonEmptyText = Annotated[str, Meta(min_length=1, max_length=2048)]
Arn = Annotated[str, Meta(pattern=r"^arn:[^:\s]+:[^:\s]+:[^:\s]*:[^:\s]*:\S+$")]


class SettingsError(RuntimeError):
    """An environment variable is missing or invalid; the message names it."""


class CellSettings(Struct, frozen=True, kw_only=True):
    """Settings of every function."""

    cell: Annotated[str, Meta(min_length=1, max_length=20)] = field(name="BEMS_CELL")


class ProducerSettings(CellSettings, frozen=True, kw_only=True):
    """Settings of the producer. `bus_name` is the name of a classic bus or the ARN of a custom bus."""

    bus: Literal["classic", "custom"] = field(name="BEMS_BUS")
    bus_name: NonEmptyText = field(name="BEMS_BUS_NAME")
    max_batch: Annotated[int, Meta(ge=1, le=MAX_BATCH_EVENTS)] = field(name="BEMS_MAX_BATCH")


class InvoiceSettings(CellSettings, frozen=True, kw_only=True):
    """Settings of the functions that make decisions on invoices."""

    table: NonEmptyText = field(name="BEMS_TABLE")
    state_machine_arn: Arn = field(name="BEMS_STATE_MACHINE_ARN")
    warning_topic_arn: Arn = field(name="BEMS_WARNING_TOPIC_ARN")
    critical_topic_arn: Arn = field(name="BEMS_CRITICAL_TOPIC_ARN")


class ProcessorSettings(InvoiceSettings, frozen=True, kw_only=True):
    """Settings of a stage's processor."""

    stage: Stage = field(name="BEMS_STAGE")
    queue_type: Literal["fifo", "standard"] = field(name="BEMS_QUEUE_TYPE")
    queue_url: NonEmptyText = field(name="BEMS_QUEUE_URL")


class RecorderSettings(CellSettings, frozen=True, kw_only=True):
    """Settings of the recorder.

    `timestream` needs a database and a table, `s3tables` a Firehose stream. The queue takes unreadable records.
    """

    time_series: Literal["timestream", "s3tables"] = field(name="BEMS_TIME_SERIES")
    unrecorded_queue_url: NonEmptyText = field(name="BEMS_UNRECORDED_QUEUE_URL")
    database: NonEmptyText | None = field(name="BEMS_DATABASE", default=None)
    time_table: NonEmptyText | None = field(name="BEMS_TIME_TABLE", default=None)
    delivery_stream: NonEmptyText | None = field(name="BEMS_DELIVERY_STREAM", default=None)

    def __post_init__(self) -> None:
        if self.time_series == "timestream" and not (self.database and self.time_table):
            raise ValueError("timestream needs BEMS_DATABASE and BEMS_TIME_TABLE")
        if self.time_series == "s3tables" and not self.delivery_stream:
            raise ValueError("s3tables needs BEMS_DELIVERY_STREAM")


def read_settings(kind: type[_S], environ: Mapping[str, str] = os.environ) -> _S:
    """Read the settings of one class. Raises SettingsError, which names the variable that is missing or invalid."""
    names = {field.encode_name for field in msgspec.structs.fields(kind)}
    given = {name: value for name, value in environ.items() if name in names}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the function's environment: {error}".replace("$.", "")) from None

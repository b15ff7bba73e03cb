"""Cold starts: importing a function loads few modules and reads no environment."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bems.tracker.metrics import METRICS

HANDLERS = ("producer", "processor", "register_wait", "escalate", "sweeper", "recorder")
HEAVY = ("yaml", "holidays", "click", "rich", "duckdb", "starlette", "apsw", "aws_cdk", "pydantic", "boto3")
OURS = ("bems.cli", "bems.embedded", "bems.engine", "bems.calendars", "bems.tracker.config")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env={"PYTHONPATH": root, **environment}
    )


def test_importing_the_functions_loads_only_what_they_need() -> None:
    """Runs without an environment: outside Lambda, imports read no variables."""
    modules = ", ".join(f"handlers.{name}" for name in HANDLERS)
    code = f"import sys, {modules}; print([name for name in {HEAVY + OURS!r} if name in sys.modules])"
    done = python(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_in_lambda_a_missing_variable_fails_initialization() -> None:
    code = f"""
for name in {HANDLERS!r}:
    try:
        __import__("handlers." + name)
    except RuntimeError as error:
        print(name, error)
"""
    done = python(code, AWS_LAMBDA_FUNCTION_NAME="f", POWERTOOLS_TRACE_DISABLED="true")
    said = "the function's environment: Object missing required field `BEMS_CELL`"
    assert done.stdout.splitlines() == [f"{name} {said}" for name in HANDLERS], done.stderr


@pytest.mark.parametrize("name", HANDLERS)
def test_a_metric_is_emitted_by_the_functions_that_it_names(name: str) -> None:
    """A module imports exactly the metrics that list it as an emitter, except AlertsRaised, which the ports emit."""
    tree = ast.parse((Path(__file__).parents[2] / "handlers" / f"{name}.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "bems.tracker.metrics"
        for alias in node.names
    }
    from bems.tracker import metrics

    emitted = {getattr(metrics, constant).name for constant in imported}
    named = {metric.name for metric in METRICS.values() if name in metric.emitters} - {"AlertsRaised"}
    assert emitted == named

